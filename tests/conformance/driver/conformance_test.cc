// Every claim of the driver conformance suite, against the software GPU, or the driver that GPUMIG_LIBCUDA names.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>

#include "tests/conformance/driver/probe.h"
#include "tests/plugins/softgpu/soft_node.h"

namespace conformance {
namespace {

// What the software GPU does not have. One that it has got must go from here.
constexpr std::string_view kGaps[] = {"KernelsReachMappedHostMemory"};

class DriverConformanceTest : public testing::TestWithParam<Claim> {};

TEST_P(DriverConformanceTest, Holds) {
  std::unique_ptr<softgpu_test::SoftNode> node;
  if (std::getenv("GPUMIG_LIBCUDA") == nullptr) {
    node = std::make_unique<softgpu_test::SoftNode>(std::vector<std::string>{
        "memory=256MiB,uuid=" + softgpu_test::TestUuid(1), "memory=256MiB,uuid=" + softgpu_test::TestUuid(2)});
  }
  const pid_t pid = fork();
  if (pid == 0) {
    if (node != nullptr) {
      setenv("SOFTGPU_SOCKET", node->socket().c_str(), 1);
      setenv("GPUMIG_LIBCUDA", SOFTGPU_LIBRARY, 1);
    }
    alarm(90);
    RunClaim(GetParam());
  }
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  ASSERT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
  const auto verdict = static_cast<Verdict>(WEXITSTATUS(status));
  if (verdict == Verdict::kNotSupported && node == nullptr) GTEST_SKIP() << "not supported by this driver";
  const bool is_gap = node != nullptr && std::ranges::find(kGaps, GetParam().name) != std::end(kGaps);
  EXPECT_EQ(verdict, is_gap ? Verdict::kNotSupported : Verdict::kSame) << GetParam().says;
  if (node != nullptr) {
    EXPECT_TRUE(node->IsAlive());
    EXPECT_TRUE(node->WaitUntilUnused());
  }
}

INSTANTIATE_TEST_SUITE_P(Claim, DriverConformanceTest, testing::ValuesIn(AllClaims()),
                         [](const auto& claim) { return std::string(claim.param.name); });

}  // namespace

void PrintTo(const Claim& claim, std::ostream* out) { *out << claim.says; }

}  // namespace conformance
