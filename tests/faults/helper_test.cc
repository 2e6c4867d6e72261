// The process that holds the GPU driver: how it comes up, whom it serves, and what it makes of those who misbehave.
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <thread>

#include "core/base/child_process.h"
#include "plugins/cuda/helper_backend.h"
#include "plugins/cuda/helper_protocol.h"
#include "tests/faults/fault_fixture.h"

namespace gpumig {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

class HelperTest : public FaultTest {
 protected:
  HelperTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "gpumig-helper-XXXXXX").string();
    directory_ = mkdtemp(pattern.data());
  }
  ~HelperTest() override { std::filesystem::remove_all(directory_); }

  std::string socket() const { return directory_ / "helper.sock"; }
  std::vector<std::string> Arguments(bool offers) const {
    std::vector<std::string> arguments = {"--library", SOFTGPU_LIBRARY};
    if (offers) arguments.insert(arguments.end(), {"--listen", socket()});
    return arguments;
  }
  std::unique_ptr<HelperBackend> Start(bool offers, HelperBackend::Offer offer = {}) {
    auto helper = HelperBackend::Start(GPU_HELPER, Arguments(offers), std::move(offer));
    EXPECT_THAT(helper, IsOk());
    return helper ? std::move(*helper) : nullptr;
  }
  HelperBackend::Offer Offer() const { return {socket(), HelperIdentity(SOFTGPU_LIBRARY, "")}; }

  UniqueFd Connect() const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, socket().c_str());
    UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }

  std::filesystem::path directory_;
};

TEST_F(HelperTest, AnOfferedHelperIsTakenAndCostsNoInit) {
  UseNode({DeviceSpec(1)});
  auto job = StartJob();
  const auto owner = Start(/*offers=*/true);
  node().Ctl("fault set F9=60000");
  const auto begin = steady_clock::now();
  const auto guest = Start(/*offers=*/false, Offer());
  EXPECT_LT(steady_clock::now() - begin, seconds(60));  // As long as an init would take.
  EXPECT_TRUE(guest->is_another_ones());
  EXPECT_EQ(guest->helper_pid(), owner->helper_pid());
  EXPECT_EQ(guest->Describe(), owner->Describe());
  ASSERT_THAT(guest->Lock(job->pid(), seconds(60)), IsOk());
  EXPECT_EQ(*owner->State(job->pid()), GpuState::kLocked);
  ASSERT_THAT(guest->Unlock(job->pid()), IsOk());
}

TEST_F(HelperTest, AHelperWithAnotherDriverIsNotTaken) {
  UseNode({DeviceSpec(1)});
  const auto owner = Start(/*offers=*/true);
  HelperBackend::Offer other = Offer();
  setenv("CUDA_VISIBLE_DEVICES", "0", 1);
  other.identity = HelperIdentity(SOFTGPU_LIBRARY, "");
  const auto guest = Start(/*offers=*/false, other);
  unsetenv("CUDA_VISIBLE_DEVICES");
  EXPECT_FALSE(guest->is_another_ones());
  EXPECT_NE(guest->helper_pid(), owner->helper_pid());
}

TEST_F(HelperTest, WhereNobodyOffersOneItsOwnIsStarted) {
  UseNode({DeviceSpec(1)});
  const auto backend = Start(/*offers=*/false, Offer());
  EXPECT_FALSE(backend->is_another_ones());
  EXPECT_THAT(backend->Devices(), IsOk());
}

TEST_F(HelperTest, AGuestWhoseHelperDiesGoesOnWithItsOwn) {
  UseNode({DeviceSpec(1)});
  auto job = StartJob();
  const auto owner = Start(/*offers=*/true);
  const auto guest = Start(/*offers=*/false, Offer());
  ASSERT_TRUE(guest->is_another_ones());
  kill(owner->helper_pid(), SIGKILL);
  EXPECT_THAT(guest->State(job->pid()), FailsWith(ErrorCode::kUnavailable, "the GPU helper (process"));
  EXPECT_EQ(*guest->State(job->pid()), GpuState::kRunning);
  EXPECT_FALSE(guest->is_another_ones());
}

TEST_F(HelperTest, AGuestWhoseHelperHasLostItsDevicesGoesOnWithItsOwn) {
  UseNode({DeviceSpec(1)});
  const std::string path = directory_ / "softgpud.sock";
  std::filesystem::create_symlink(node().socket(), path);
  setenv("SOFTGPU_SOCKET", path.c_str(), 1);
  const auto owner = Start(/*offers=*/true);
  node().Kill();
  UseNode({DeviceSpec(2)});
  std::filesystem::remove(path);
  std::filesystem::create_symlink(node().socket(), path);
  setenv("SOFTGPU_SOCKET", path.c_str(), 1);
  const auto guest = Start(/*offers=*/false, Offer());
  ASSERT_TRUE(guest->is_another_ones());
  const auto gpus = guest->Devices();
  ASSERT_THAT(gpus, IsOk());
  EXPECT_EQ(gpus->front().uuid, TestUuid(2));
  EXPECT_FALSE(guest->is_another_ones());
}

TEST_F(HelperTest, ASlowCallOfOneIsNotAnothers) {
  UseNode({DeviceSpec(1)});
  auto job = StartJob();
  auto other = StartJob();
  node().Ctl("fault set F13@" + std::to_string(job->pid()));
  const auto owner = Start(/*offers=*/true);
  const auto guest = Start(/*offers=*/false, Offer());
  // It ends only with the job.
  std::jthread slow([&] { EXPECT_FALSE(owner->Lock(job->pid(), seconds(60)).has_value()); });
  const auto begin = steady_clock::now();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(*guest->State(other->pid()), GpuState::kRunning);
  EXPECT_LT(steady_clock::now() - begin, seconds(60));
  kill(job->pid(), SIGKILL);
}

TEST_F(HelperTest, GarbageIsAnsweredAndHarmsNobodyElse) {
  UseNode({DeviceSpec(1)});
  const auto owner = Start(/*offers=*/true);
  {
    const UniqueFd guest = Connect();
    ASSERT_THAT(ReceiveHelperMessage(guest.get(), steady_clock::now() + seconds(60)), IsOk());
    for (const Json& wrong : {Json{{"call", "explode"}, {"process", 1}}, Json{{"call", "lock"}}, Json{{"call", 7}},
                              Json{{"process", 1}}, Json{{"call", "restore"}, {"process", 1}, {"map", {{{"old", 1}}}}},
                              Json{{"call", "state"}, {"process", -1}}}) {
      ASSERT_THAT(SendHelperMessage(guest.get(), wrong), IsOk());
      const auto answer = ReceiveHelperMessage(guest.get(), steady_clock::now() + seconds(60));
      ASSERT_THAT(answer, IsOk());
      EXPECT_FALSE(CheckHelperAnswer(*answer).has_value()) << ToText(wrong);
    }
    // What is no message at all ends the conversation, and only this one.
    ASSERT_EQ(send(guest.get(), "{[", 2, MSG_NOSIGNAL), 2);
    EXPECT_THAT(ReceiveHelperMessage(guest.get(), steady_clock::now() + seconds(60)),
                FailsWith(ErrorCode::kUnavailable, ""));
  }
  EXPECT_THAT(owner->Devices(), IsOk());
}

TEST_F(HelperTest, SaysWhyNoDriverCameUp) {
  setenv("SOFTGPU_SOCKET", "/nowhere/softgpud.sock", 1);
  EXPECT_THAT(HelperBackend::Start(GPU_HELPER, Arguments(false)),
              FailsWith(ErrorCode::kUnavailable, "CUDA_ERROR_NO_DEVICE"));
  EXPECT_THAT(HelperBackend::Start("/nowhere/gpumig-gpu-helper", {}), FailsWith(ErrorCode::kNotFound, "GPU helper"));
}

TEST_F(HelperTest, EndsWithItsOwnerAndKeepsNobodyOut) {
  UseNode({DeviceSpec(1)});
  auto owner = Start(/*offers=*/true);
  const pid_t pid = owner->helper_pid();
  ASSERT_TRUE(std::filesystem::exists(socket()));
  owner.reset();
  EXPECT_NE(kill(pid, 0), 0);
  // It was killed with its owner; the next one is not kept out by what it left.
  owner = Start(/*offers=*/true);
  EXPECT_TRUE(Start(/*offers=*/false, Offer())->is_another_ones());
}

TEST_F(HelperTest, RefusesToBeStartedByHand) {
  const auto output = RunCommand({GPU_HELPER}, seconds(60));
  ASSERT_THAT(output, IsOk());
  EXPECT_EQ(output->status.code, 2);
  EXPECT_NE(output->standard_error.find("not by hand"), std::string::npos);
}

}  // namespace
}  // namespace gpumig
