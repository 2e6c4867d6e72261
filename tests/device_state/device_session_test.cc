#include "device_state/device_session.h"

#include <linux/sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <array>
#include <cstring>

#include "core/base/child_process.h"
#include "core/base/file.h"
#include "tests/device_state/fake_backend.h"
#include "tests/support/matchers.h"
#include "tests/support/needs.h"

namespace gpumig {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Each;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint64_t kMiB = 1 << 20;

// A real process for a pid. It allocates 8 MiB for each byte it is sent, and answers.
class Sleeper {
 public:
  explicit Sleeper(pid_t wanted_pid = 0) {
    int to_child[2];
    int to_us[2];
    if (pipe(to_child) != 0 || pipe(to_us) != 0) abort();
    pid_ = ForkAs(wanted_pid);
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(to_child[1]);
      char byte = 0;
      while (read(to_child[0], &byte, 1) == 1) {
        void* memory = mmap(nullptr, 8 * kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(memory, 1, 8 * kMiB);
        if (write(to_us[1], &byte, 1) != 1) break;
      }
      _exit(0);
    }
    close(to_child[0]);
    close(to_us[1]);
    to_child_ = UniqueFd(to_child[1]);
    to_us_ = UniqueFd(to_us[0]);
  }
  ~Sleeper() { Kill(); }
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;

  pid_t pid() const { return pid_; }
  void Grow() const {
    char byte = 'g';
    EXPECT_EQ(write(to_child_.get(), &byte, 1), 1);
    EXPECT_EQ(read(to_us_.get(), &byte, 1), 1);
  }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  static pid_t ForkAs(pid_t wanted_pid) {
    if (wanted_pid == 0) return fork();
    clone_args arguments{};
    arguments.exit_signal = SIGCHLD;
    arguments.set_tid = reinterpret_cast<std::uint64_t>(&wanted_pid);
    arguments.set_tid_size = 1;
    return static_cast<pid_t>(syscall(SYS_clone3, &arguments, sizeof(arguments)));
  }

  pid_t pid_ = -1;
  UniqueFd to_child_;
  UniqueFd to_us_;
};

class DeviceSessionTest : public testing::Test {
 protected:
  DeviceSessionTest() : owned_(std::make_unique<FakeBackend>()), driver_(*owned_), session_(std::move(owned_)) {
    driver_.gpus = {{"GPU-a", "H200", "", 1000, 700}, {"GPU-b", "H200", "", 1000, 1000}};
    for (const Sleeper& sleeper : sleepers_) {
      driver_.processes[sleeper.pid()] = {GpuState::kRunning, 100, "GPU-a"};
      pids_.push_back(sleeper.pid());
    }
    std::ranges::sort(pids_);
  }

  std::vector<GpuState> States() {
    std::vector<GpuState> states;
    for (const pid_t pid : pids_) states.push_back(driver_.processes[pid].state);
    return states;
  }
  std::vector<pid_t> Shuffled() const { return {pids_[2], pids_[0], pids_[1]}; }
  std::vector<GpuPair> Map(const std::string& a, const std::string& b) const {
    return {{"GPU-a", a, ""}, {"GPU-b", b, ""}};
  }
  std::string Call(const char* verb, std::size_t index) const { return fmt::format("{} {}", verb, pids_[index]); }
  void BringTo(GpuState state) {
    ASSERT_THAT(session_.Lock(pids_, seconds(1)), IsOk());
    if (state == GpuState::kCheckpointed) {
      ASSERT_THAT(session_.Checkpoint(pids_), IsOk());
    }
    driver_.calls.clear();
  }

  std::array<Sleeper, 3> sleepers_;
  std::vector<pid_t> pids_;
  std::unique_ptr<FakeBackend> owned_;
  FakeBackend& driver_;
  DeviceSession session_;
};

TEST_F(DeviceSessionTest, TakesAJobThroughTheWholeCycleInOneOrder) {
  ASSERT_THAT(session_.Lock(Shuffled(), seconds(1)), IsOk());
  ASSERT_THAT(session_.Checkpoint(Shuffled()), IsOk());
  EXPECT_THAT(States(), Each(GpuState::kCheckpointed));
  ASSERT_THAT(session_.Restore(Shuffled(), Map("GPU-b", "GPU-a")), IsOk());
  ASSERT_THAT(session_.Unlock(Shuffled()), IsOk());
  EXPECT_THAT(States(), Each(GpuState::kRunning));
  EXPECT_THAT(driver_.calls, ElementsAre(Call("lock", 0), Call("lock", 1), Call("lock", 2),                    //
                                         Call("checkpoint", 0), Call("checkpoint", 1), Call("checkpoint", 2),  //
                                         Call("restore", 0), Call("restore", 1), Call("restore", 2),           //
                                         Call("unlock", 2), Call("unlock", 1), Call("unlock", 0)));
  EXPECT_EQ(driver_.Gpu("GPU-b")->free_bytes, 700u);
}

// Each call of each step fails in turn, in each way: all processes are where they were before the step.
class RollbackTest : public DeviceSessionTest, public testing::WithParamInterface<std::tuple<std::string, int, Fault>> {
 protected:
  GpuState Before() const {
    const std::string& verb = std::get<0>(GetParam());
    return verb == "lock" ? GpuState::kRunning : verb == "restore" ? GpuState::kCheckpointed : GpuState::kLocked;
  }
  Result<void> RunStep() {
    const std::string& verb = std::get<0>(GetParam());
    if (verb == "lock") return session_.Lock(pids_, seconds(1));
    if (verb == "restore") return session_.Restore(pids_, Map("GPU-b", "GPU-a"));
    if (verb == "unlock") return session_.Unlock(pids_);
    GPUMIG_TRY(session_.Checkpoint(pids_));
    return Ok();
  }
};

TEST_P(RollbackTest, LeavesAllWhereTheyWere) {
  const auto& [verb, index, fault] = GetParam();
  if (Before() != GpuState::kRunning) BringTo(Before());
  const std::string call = Call(verb.c_str(), static_cast<std::size_t>(index));
  driver_.faults[call] = fault;
  const ErrorCode code = fault == Fault::kLiesAboutDoing    ? ErrorCode::kInternal
                         : fault == Fault::kRunsOutOfMemory ? ErrorCode::kResourceExhausted
                                                            : ErrorCode::kIo;
  EXPECT_THAT(RunStep(), FailsWith(code, fmt::format("{} process {}", verb, pids_[static_cast<std::size_t>(index)])));
  EXPECT_THAT(States(), Each(Before()));
  EXPECT_EQ(std::ranges::count(driver_.calls, call), 1);

  driver_.faults.clear();
  EXPECT_THAT(RunStep(), IsOk()) << "it can be tried again";
}

INSTANTIATE_TEST_SUITE_P(EachCall, RollbackTest,
                         testing::Combine(testing::Values("lock", "checkpoint", "restore", "unlock"),
                                          testing::Range(0, 3),
                                          testing::Values(Fault::kRefuses, Fault::kDoesYetFails, Fault::kLiesAboutDoing,
                                                          Fault::kRunsOutOfMemory)));

TEST_F(DeviceSessionTest, WhatOneProcessHoldsUntoldLeavesTheSumUntold) {
  EXPECT_EQ(session_.HeldBytes(pids_), 300u);
  driver_.processes.erase(pids_[1]);
  EXPECT_EQ(session_.HeldBytes(pids_), std::nullopt);
}

TEST_F(DeviceSessionTest, RollsBackInReverseOrder) {
  BringTo(GpuState::kLocked);
  driver_.faults[Call("checkpoint", 2)] = Fault::kRefuses;
  EXPECT_THAT(session_.Checkpoint(pids_), FailsWith(ErrorCode::kIo, "injected"));
  EXPECT_THAT(driver_.calls, ElementsAre(Call("checkpoint", 0), Call("checkpoint", 1), Call("checkpoint", 2),
                                         Call("restore", 1), Call("restore", 0)));
}

TEST_F(DeviceSessionTest, AProcessThatTheDriverGaveUpIsLost) {
  BringTo(GpuState::kLocked);
  driver_.faults[Call("checkpoint", 1)] = Fault::kGivesUp;
  EXPECT_THAT(session_.Checkpoint(pids_), FailsWith(ErrorCode::kLost, "injected"));
  EXPECT_THAT(session_.Unlock(std::array{pids_[1]}), FailsWith(ErrorCode::kLost, "given its GPU state up"));
}

TEST_F(DeviceSessionTest, ARollbackThatFailsIsNamedWithTheStateItLeaves) {
  driver_.faults[Call("lock", 2)] = Fault::kRefuses;
  driver_.faults[Call("unlock", 0)] = Fault::kRefuses;
  const auto locked = session_.Lock(pids_, seconds(1));
  EXPECT_THAT(locked, FailsWith(ErrorCode::kIo, fmt::format("taking that back, process {} did not become running "
                                                            "again, its GPU state is locked: injected",
                                                            pids_[0])));
  EXPECT_THAT(States(), ElementsAre(GpuState::kLocked, GpuState::kRunning, GpuState::kRunning));
}

TEST_F(DeviceSessionTest, TheLockLimitIsForAllTogether) {
  driver_.lock_takes = milliseconds(40);
  EXPECT_THAT(session_.Lock(pids_, milliseconds(100)), FailsWith(ErrorCode::kDeadlineExceeded, "process"));
  EXPECT_THAT(States(), Each(GpuState::kRunning));
  ASSERT_GE(driver_.limits.size(), 2u);
  EXPECT_LE(driver_.limits[1], driver_.limits[0] - milliseconds(39));
  for (const milliseconds limit : driver_.limits) EXPECT_GT(limit, milliseconds(0));
}

TEST_F(DeviceSessionTest, TouchesNothingWhereOneIsInTheWrongState) {
  driver_.processes[pids_[2]].state = GpuState::kLocked;
  EXPECT_THAT(session_.Lock(pids_, seconds(1)),
              FailsWith(ErrorCode::kFailedPrecondition,
                        fmt::format("{}: its GPU state is locked, and must be running", pids_[2])));
  EXPECT_THAT(session_.Checkpoint(pids_), FailsWith(ErrorCode::kFailedPrecondition, "is running, and must be locked"));
  EXPECT_THAT(session_.Restore(pids_, Map("GPU-a", "GPU-b")),
              FailsWith(ErrorCode::kFailedPrecondition, "must be checkpointed"));
  driver_.processes.erase(pids_[0]);
  EXPECT_THAT(session_.Lock(pids_, seconds(1)), FailsWith(ErrorCode::kFailedPrecondition, "is none"));
  EXPECT_THAT(driver_.calls, IsEmpty());
}

TEST_F(DeviceSessionTest, AProcessThatDiesInTheMiddleIsNotFoundAndTheOthersAreTakenBack) {
  BringTo(GpuState::kLocked);
  driver_.during_call = [&](pid_t pid) {
    if (pid != pids_[1]) return;
    kill(pid, SIGKILL);
    siginfo_t info{};
    waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT);
  };
  EXPECT_THAT(session_.Checkpoint(pids_),
              FailsWith(ErrorCode::kNotFound, fmt::format("process {} has ended", pids_[1])));
  EXPECT_EQ(driver_.processes[pids_[0]].state, GpuState::kLocked);
  EXPECT_EQ(driver_.processes[pids_[2]].state, GpuState::kLocked);
}

TEST_F(DeviceSessionTest, APidThatMeansAnotherProcessNowIsNotTouched) {
  GPUMIG_NEEDS_ROOT();
  BringTo(GpuState::kLocked);
  auto first = std::ranges::find(sleepers_, pids_[0], &Sleeper::pid);
  first->Kill();
  const Sleeper impostor(pids_[0]);
  GPUMIG_NEEDS("root", impostor.pid() == pids_[0], "clone3 gives no chosen pids here");
  EXPECT_THAT(session_.Checkpoint(pids_),
              FailsWith(ErrorCode::kNotFound, fmt::format("process {} has ended", pids_[0])));
  EXPECT_THAT(driver_.calls, IsEmpty());
}

TEST_F(DeviceSessionTest, APidThatIsHandedOutAgainDuringACallIsNotBelieved) {
  GPUMIG_NEEDS_ROOT();
  std::unique_ptr<Sleeper> impostor;
  driver_.during_call = [&](pid_t pid) {
    if (pid != pids_[0] || impostor) return;
    std::ranges::find(sleepers_, pid, &Sleeper::pid)->Kill();
    impostor = std::make_unique<Sleeper>(pid);
  };
  EXPECT_THAT(session_.Lock(pids_, seconds(1)), FailsWith(ErrorCode::kNotFound, "has ended"));
  EXPECT_THAT(driver_.calls, ElementsAre(Call("lock", 0)));
}

TEST_F(DeviceSessionTest, ChecksRoomBeforeTheFirstRestore) {
  BringTo(GpuState::kCheckpointed);
  driver_.Gpu("GPU-b")->free_bytes = 299;
  EXPECT_THAT(session_.Restore(pids_, Map("GPU-b", "GPU-a")),
              FailsWith(ErrorCode::kResourceExhausted, "must fit on GPU-b"));
  EXPECT_THAT(driver_.calls, IsEmpty());
  EXPECT_THAT(session_.Restore(pids_, Map("GPU-a", "GPU-b")), IsOk());
}

TEST_F(DeviceSessionTest, ARollbackWithoutRoomIsNotTried) {
  BringTo(GpuState::kLocked);
  driver_.faults[Call("checkpoint", 1)] = Fault::kRefuses;
  driver_.during_call = [&](pid_t pid) {
    if (pid == pids_[1]) driver_.Gpu("GPU-a")->free_bytes = 5;  // somebody else was quicker
  };
  EXPECT_THAT(session_.Checkpoint(pids_), FailsWith(ErrorCode::kIo, "its GPU state is checkpointed"));
  EXPECT_THAT(driver_.calls, ElementsAre(Call("checkpoint", 0), Call("checkpoint", 1)));
}

TEST_F(DeviceSessionTest, ARestoreThatFailsAfterOneThatRanOutOfMemoryIsLost) {
  BringTo(GpuState::kCheckpointed);
  driver_.faults[Call("restore", 0)] = Fault::kRunsOutOfMemory;
  EXPECT_THAT(session_.Restore(pids_, Map("GPU-a", "GPU-b")), FailsWith(ErrorCode::kResourceExhausted, "injected"));
  driver_.faults[Call("restore", 0)] = Fault::kRefuses;
  EXPECT_THAT(session_.Restore(pids_, Map("GPU-a", "GPU-b")), FailsWith(ErrorCode::kLost, "ran out of device memory"));
}

TEST_F(DeviceSessionTest, RefusesMapsThatCannotBe) {
  BringTo(GpuState::kCheckpointed);
  EXPECT_THAT(session_.Restore(pids_, {}), FailsWith(ErrorCode::kInvalidArgument, "empty"));
  EXPECT_THAT(session_.Restore(pids_, Map("GPU-a", "GPU-a")), FailsWith(ErrorCode::kInvalidArgument, "twice"));
  EXPECT_THAT(session_.Restore(pids_, Map("GPU-a", "GPU-z")),
              FailsWith(ErrorCode::kInvalidArgument, "GPU-z, which this host has not"));
  EXPECT_THAT(driver_.calls, IsEmpty());
}

TEST_F(DeviceSessionTest, CountsTheBytesThatCameIntoHostMemory) {
  BringTo(GpuState::kLocked);
  driver_.during_call = [&](pid_t pid) { std::ranges::find(sleepers_, pid, &Sleeper::pid)->Grow(); };
  const auto bytes = session_.Checkpoint(pids_);
  ASSERT_THAT(bytes, IsOk());
  EXPECT_GE(*bytes, 3 * 8 * kMiB);
  EXPECT_LT(*bytes, 3 * 9 * kMiB);
}

TEST_F(DeviceSessionTest, FindsTheGpuProcessesOfATree) {
  Sleeper without;
  Sleeper gone;
  const pid_t gone_pid = gone.pid();
  gone.Kill();
  const auto users = session_.GpuProcesses(std::array{pids_[1], without.pid(), gone_pid, pids_[0]});
  ASSERT_THAT(users, IsOk());
  EXPECT_THAT(*users, ElementsAre(pids_[1], pids_[0]));
  EXPECT_EQ(*session_.State(without.pid()), GpuState::kNone);
  EXPECT_THAT(session_.State(gone_pid), FailsWith(ErrorCode::kNotFound, "GPU state of process"));
  EXPECT_THAT(session_.Lock(std::array{gone_pid}, seconds(1)), FailsWith(ErrorCode::kNotFound, "lock process"));
}

TEST_F(DeviceSessionTest, TellsTheRestoreThreadsInTheOrderAsked) {
  for (const pid_t pid : pids_) driver_.restore_threads[pid] = pid;
  const auto threads = session_.RestoreThreads(Shuffled());
  ASSERT_THAT(threads, IsOk());
  EXPECT_EQ(*threads, Shuffled());
}

}  // namespace
}  // namespace gpumig
