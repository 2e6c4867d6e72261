// Kills the helper, the daemon, or a process of the job at each call that gpumig makes of the driver, and in the middle
// of the long ones. What is left must run on, or be said to be lost.
#include <signal.h>

#include <functional>
#include <thread>

#include "device_state/device_session.h"
#include "plugins/cuda/helper_backend.h"
#include "tests/faults/fault_fixture.h"

namespace gpumig {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Acts once, before call number `act_at`.
class ActingBackend : public DeviceBackend {
 public:
  explicit ActingBackend(std::unique_ptr<HelperBackend> inner) : inner_(std::move(inner)) {}

  int act_at = 0;
  std::function<void()> act;
  bool has_acted = false;

  HelperBackend& helper() { return *inner_; }

  std::string Describe() override { return inner_->Describe(); }
  Result<std::vector<GpuFacts>> Devices() override { return Next().Devices(); }
  Result<GpuState> State(pid_t process) override { return Next().State(process); }
  std::optional<std::uint64_t> HeldBytes(pid_t process) override { return inner_->HeldBytes(process); }
  Result<void> Lock(pid_t process, milliseconds limit) override { return Next().Lock(process, limit); }
  Result<void> Checkpoint(pid_t process) override { return Next().Checkpoint(process); }
  Result<void> Restore(pid_t process, std::span<const GpuPair> map) override { return Next().Restore(process, map); }
  Result<void> Unlock(pid_t process) override { return Next().Unlock(process); }
  Result<pid_t> RestoreThread(pid_t process) override { return Next().RestoreThread(process); }

 private:
  DeviceBackend& Next() {
    if (++calls_ == act_at) {
      has_acted = true;
      act();
    }
    return *inner_;
  }

  std::unique_ptr<HelperBackend> inner_;
  int calls_ = 0;
};

class DeviceKillTest : public FaultTest {
 protected:
  static constexpr int kMostCalls = 200;

  // A port over a fresh helper.
  void Open() {
    auto helper = HelperBackend::Start(GPU_HELPER, {"--library", SOFTGPU_LIBRARY});
    ASSERT_THAT(helper, IsOk());
    auto backend = std::make_unique<ActingBackend>(std::move(*helper));
    backend_ = backend.get();
    port_ = std::make_unique<DeviceSession>(std::move(backend));
  }
  void KillHelper() {
    const pid_t helper = backend_->helper().helper_pid();
    if (helper > 0) kill(helper, SIGKILL);
  }
  std::vector<pid_t> Pids() const {
    std::vector<pid_t> pids;
    for (const auto& job : jobs_) pids.push_back(job->pid());
    return pids;
  }
  void StartJobs(int count) {
    jobs_.clear();
    for (int i = 0; i < count; ++i) jobs_.push_back(StartJob());
  }
  // Down to captured and up again.
  Result<void> WholeCycle(const std::vector<pid_t>& pids) {
    GPUMIG_TRY(port_->Lock(pids, seconds(5)));
    GPUMIG_TRY(port_->Checkpoint(pids));
    GPUMIG_TRY(port_->Restore(pids, Map({{1, 1}})));
    return port_->Unlock(pids);
  }
  // As a session does after a failure: whoever lives and is not running is brought back.
  Result<void> BringBack(const std::vector<pid_t>& pids) {
    for (const pid_t pid : pids) {
      const Result<GpuState> state = port_->State(pid);
      if (!state && state.error().code() == ErrorCode::kNotFound) continue;
      if (!state) return state.error();
      if (*state == GpuState::kFailed) return MakeError(ErrorCode::kLost, "process {} is lost", pid);
      const std::array one{pid};
      if (*state == GpuState::kCheckpointed) GPUMIG_TRY(port_->Restore(one, Map({{1, 1}})));
      if (*state != GpuState::kRunning) GPUMIG_TRY(port_->Unlock(one));
    }
    return Ok();
  }

  ActingBackend* backend_ = nullptr;
  std::unique_ptr<DevicePort> port_;
  std::vector<std::unique_ptr<GpuProcess>> jobs_;
};

TEST_F(DeviceKillTest, AHelperThatDiesAtAnyCallCostsTheJobNothing) {
  UseNode({DeviceSpec(1)});
  StartJobs(2);
  int failures = 0;
  for (int call = 1; call < kMostCalls; ++call) {
    SCOPED_TRACE(call);
    ASSERT_NO_FATAL_FAILURE(Open());
    backend_->act_at = call;
    backend_->act = [&] { KillHelper(); };
    const Result<void> done = WholeCycle(Pids());
    backend_->act_at = 0;
    if (!done) {
      ++failures;
      EXPECT_THAT(done, FailsWith(ErrorCode::kUnavailable, "the GPU helper (process"));
      EXPECT_NE(done.error().message().find("killed by signal 9"), std::string::npos) << done.error().message();
      ASSERT_THAT(BringBack(Pids()), IsOk());
    }
    for (const auto& job : jobs_) ASSERT_NO_FATAL_FAILURE(ExpectRuns(*port_, *job));
    if (!backend_->has_acted) break;
  }
  EXPECT_GT(failures, 10);
}

TEST_F(DeviceKillTest, AProcessThatDiesAtAnyCallLeavesTheOthersRunning) {
  UseNode({DeviceSpec(1)});
  for (int call = 1; call < kMostCalls; ++call) {
    SCOPED_TRACE(call);
    StartJobs(2);
    const std::vector<pid_t> pids = Pids();
    GpuProcess& victim = *jobs_[static_cast<std::size_t>(call % 2)];
    const pid_t victim_pid = victim.pid();
    GpuProcess& other = *jobs_[static_cast<std::size_t>(1 - call % 2)];
    ASSERT_NO_FATAL_FAILURE(Open());
    backend_->act_at = call;
    backend_->act = [&] { victim.Kill(); };
    const Result<void> done = WholeCycle(pids);
    backend_->act_at = 0;
    if (!backend_->has_acted) {
      EXPECT_THAT(done, IsOk());
      break;
    }
    if (!done) {
      EXPECT_THAT(done, FailsWith(ErrorCode::kNotFound, std::to_string(victim_pid)));
    }
    ASSERT_THAT(BringBack(pids), IsOk());
    ASSERT_NO_FATAL_FAILURE(ExpectRuns(*port_, other));
  }
  jobs_.clear();
  EXPECT_TRUE(port_->Gpus().has_value());
}

TEST_F(DeviceKillTest, ADaemonThatDiesAtAnyCallHasAFinalWord) {
  for (int call = 1; call < kMostCalls; ++call) {
    SCOPED_TRACE(call);
    UseNode({DeviceSpec(1)});
    StartJobs(2);
    ASSERT_NO_FATAL_FAILURE(Open());
    backend_->act_at = call;
    backend_->act = [&] { node().Kill(); };
    const Result<void> done = WholeCycle(Pids());
    backend_->act_at = 0;
    if (!backend_->has_acted) {
      EXPECT_THAT(done, IsOk());
      break;
    }
    // In the very last calls there is nothing to miss any more.
    if (!done) {
      EXPECT_TRUE(done.error().code() == ErrorCode::kLost || done.error().code() == ErrorCode::kUnavailable ||
                  done.error().code() == ErrorCode::kIo)
          << ErrorCodeName(done.error().code()) << ": " << done.error().message();
    }
    // Nobody is left waiting at a lock: a process is given up, stands captured with its memory in it, or finds out
    // itself that its GPU is gone.
    for (const pid_t pid : Pids()) {
      const auto state = port_->State(pid);
      ASSERT_THAT(state, IsOk());
      if (*state == GpuState::kLocked) {
        EXPECT_THAT(port_->Unlock(std::array{pid}), IsOk());
      }
    }
    jobs_.clear();
  }
}

// --- in the middle of a call ---

class KilledInTheMiddleTest : public DeviceKillTest {
 protected:
  // Runs `call` and kills the helper while it is under way.
  template <typename Call>
  Result<void> WithHelperKilledAfter(milliseconds delay, Call call) {
    const pid_t helper = backend_->helper().helper_pid();
    std::jthread killer([helper, delay] {
      std::this_thread::sleep_for(delay);
      kill(helper, SIGKILL);
    });
    return call();
  }
};

TEST_F(KilledInTheMiddleTest, OfALockThatTimesOutLeavesTheJobRunning) {
  UseNode({DeviceSpec(1)});
  StartJobs(2);
  node().Ctl("fault set F13@" + std::to_string(std::max(jobs_[0]->pid(), jobs_[1]->pid())));
  ASSERT_NO_FATAL_FAILURE(Open());
  EXPECT_THAT(WithHelperKilledAfter(milliseconds(300), [&] { return port_->Lock(Pids(), milliseconds(1500)); }),
              FailsWith(ErrorCode::kUnavailable, "during lock of process"));
  for (const auto& job : jobs_) ASSERT_NO_FATAL_FAILURE(ExpectRuns(*port_, *job));
}

// The lock comes true after all, when nobody waits for it any more.
TEST_F(KilledInTheMiddleTest, OfALockThatSucceedsLaterLeavesTheJobRunning) {
  UseNode({DeviceSpec(1)}, {"--fault", "F4"});
  StartJobs(1);
  auto holder = StartJob();
  ASSERT_EQ(cuda_.cuCheckpointProcessLock(holder->pid(), nullptr), cuda_abi::CUDA_SUCCESS);
  ASSERT_NO_FATAL_FAILURE(Open());
  std::jthread releaser([&] {
    std::this_thread::sleep_for(milliseconds(800));
    EXPECT_EQ(cuda_.cuCheckpointProcessUnlock(holder->pid(), nullptr), cuda_abi::CUDA_SUCCESS);
  });
  EXPECT_THAT(WithHelperKilledAfter(milliseconds(300), [&] { return port_->Lock(Pids(), seconds(5)); }),
              FailsWith(ErrorCode::kUnavailable, "during lock of process"));
  releaser.join();
  ASSERT_NO_FATAL_FAILURE(ExpectRuns(*port_, *jobs_[0]));
}

TEST_F(KilledInTheMiddleTest, OfACheckpointTakesTheJobBack) {
  UseNode({DeviceSpec(1, ",copy=8MiB")});
  StartJobs(1);
  ASSERT_NO_FATAL_FAILURE(Open());
  ASSERT_THAT(port_->Lock(Pids(), seconds(5)), IsOk());
  EXPECT_THAT(WithHelperKilledAfter(milliseconds(150),
                                    [&]() -> Result<void> {
                                      GPUMIG_TRY(port_->Checkpoint(Pids()));
                                      return Ok();
                                    }),
              FailsWith(ErrorCode::kUnavailable, "during checkpoint of process"));
  ASSERT_NO_FATAL_FAILURE(ExpectState(*port_, *jobs_[0], GpuState::kLocked));
  ASSERT_THAT(port_->Unlock(Pids()), IsOk());
  ASSERT_NO_FATAL_FAILURE(ExpectRuns(*port_, *jobs_[0]));
}

TEST_F(KilledInTheMiddleTest, OfARestoreTakesTheJobBack) {
  UseNode({DeviceSpec(1, ",copy=8MiB")});
  StartJobs(1);
  ASSERT_NO_FATAL_FAILURE(Open());
  ASSERT_THAT(port_->Lock(Pids(), seconds(5)), IsOk());
  ASSERT_THAT(port_->Checkpoint(Pids()), IsOk());
  EXPECT_THAT(WithHelperKilledAfter(milliseconds(150), [&] { return port_->Restore(Pids(), Map({{1, 1}})); }),
              FailsWith(ErrorCode::kUnavailable, "during restore of process"));
  ASSERT_NO_FATAL_FAILURE(ExpectState(*port_, *jobs_[0], GpuState::kCheckpointed));
  ASSERT_THAT(BringBack(Pids()), IsOk());
  ASSERT_NO_FATAL_FAILURE(ExpectRuns(*port_, *jobs_[0]));
}

TEST_F(KilledInTheMiddleTest, OfACheckpointTheVictimIsGoneAndTheOtherRuns) {
  UseNode({DeviceSpec(1, ",copy=8MiB")});
  StartJobs(2);
  ASSERT_NO_FATAL_FAILURE(Open());
  const std::vector<pid_t> pids = Pids();
  ASSERT_THAT(port_->Lock(pids, seconds(5)), IsOk());
  const std::size_t later = pids[0] > pids[1] ? 0 : 1;  // Captured second.
  std::jthread killer([pid = pids[later]] {
    std::this_thread::sleep_for(milliseconds(650));
    kill(pid, SIGKILL);
  });
  EXPECT_THAT(port_->Checkpoint(pids), FailsWith(ErrorCode::kNotFound, std::to_string(pids[later])));
  ASSERT_THAT(BringBack(pids), IsOk());
  ASSERT_NO_FATAL_FAILURE(ExpectRuns(*port_, *jobs_[1 - later]));
}

}  // namespace
}  // namespace gpumig
