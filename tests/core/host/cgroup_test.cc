#include "core/host/cgroup.h"

#include <unistd.h>

#include "core/base/child_process.h"
#include "core/host/process.h"
#include "tests/support/matchers.h"
#include "tests/support/needs.h"

namespace gpumig {
namespace {

using std::chrono::seconds;

class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    GPUMIG_NEEDS_ROOT();
    auto cgroup = Cgroup::Create(fmt::format("gpumig/test-{}", getpid()));
    ASSERT_THAT(cgroup, IsOk());
    cgroup_.emplace(std::move(*cgroup));
    ChildProcess::Options options;
    options.arguments = {"sleep", "100"};
    auto child = ChildProcess::Start(options);
    ASSERT_THAT(child, IsOk());
    child_.emplace(std::move(*child));
  }
  void TearDown() override {
    child_.reset();
    if (!cgroup_) return;
    EXPECT_THAT(cgroup_->Remove(), IsOk());
  }

  std::optional<Cgroup> cgroup_;
  std::optional<ChildProcess> child_;
};

TEST_F(CgroupTest, FreezesAndThawsWhatIsInIt) {
  ASSERT_THAT(cgroup_->Add(child_->pid()), IsOk());
  ASSERT_THAT(cgroup_->Freeze(seconds(5)), IsOk());
  EXPECT_TRUE(*cgroup_->IsFrozen());
  ASSERT_THAT(cgroup_->Thaw(), IsOk());
  EXPECT_FALSE(*cgroup_->IsFrozen());
}

TEST_F(CgroupTest, KillsWhatIsFrozen) {
  ASSERT_THAT(cgroup_->Add(child_->pid()), IsOk());
  ASSERT_THAT(cgroup_->Freeze(seconds(5)), IsOk());
  ASSERT_THAT(cgroup_->Kill(seconds(5)), IsOk());
  const auto status = child_->Wait(seconds(5));
  ASSERT_THAT(status, IsOk());
  EXPECT_EQ(status->signal, SIGKILL);
}

TEST_F(CgroupTest, RefusesToRemoveWhatIsInUse) {
  ASSERT_THAT(cgroup_->Add(child_->pid()), IsOk());
  EXPECT_FALSE(cgroup_->Remove().has_value());
  EXPECT_THAT(Cgroup::Open(cgroup_->path() / "none"), FailsWith(ErrorCode::kNotFound, "no cgroup"));
}

}  // namespace
}  // namespace gpumig
