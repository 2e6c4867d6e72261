#include "core/host/ptrace_stop.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <new>
#include <optional>
#include <thread>

#include "core/base/child_process.h"
#include "core/base/file.h"
#include "tests/support/matchers.h"
#include "tests/support/needs.h"

#ifdef __SANITIZE_THREAD__
// Our children are forked and start threads.
extern "C" const char* __tsan_default_options();
extern "C" const char* __tsan_default_options() { return "die_after_fork=0"; }
#endif

namespace gpumig {
namespace {

#ifdef __SANITIZE_THREAD__
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr const char* kTsanChanges = "it adds threads, merges signals, and makes fork() of vfork()";

constexpr std::size_t kSlots = 8;

// What children and test see of each other.
struct Board {
  std::array<std::atomic<std::uint64_t>, kSlots> counts;
  std::array<std::atomic<pid_t>, kSlots> threads;
  std::atomic<std::uint64_t> events;
  std::atomic<int> answer;
};

void Nap(long microseconds) {
  const timespec time{0, microseconds * 1000};
  nanosleep(&time, nullptr);
}

bool WaitUntil(const std::function<bool()>& condition, milliseconds limit = seconds(20)) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    Nap(200);
  }
  return true;
}

// A forked child that runs `body` and, should the test go, dies.
class Child {
 public:
  explicit Child(const std::function<void()>& body) : pid_(fork()) {
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    body();
    _exit(0);
  }
  ~Child() { Kill(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    int status = 0;
    // A stop of it may still be on record for us, its tracer.
    while (waitpid(pid_, &status, 0) == pid_ && !WIFEXITED(status) && !WIFSIGNALED(status)) {
    }
    pid_ = -1;
  }

 private:
  pid_t pid_;
};

class ThreadStopTest : public testing::Test {
 protected:
  void SetUp() override {
    GPUMIG_NEEDS_ROOT();
    void* memory = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    board_ = new (memory) Board();
  }
  void TearDown() override {
    if (board_ != nullptr) munmap(board_, sizeof(Board));
  }

  // Runs in a child: for ever counts up in `slot`; odd slots without ever entering the kernel, even ones mostly asleep.
  void Count(std::size_t slot) {
    board_->threads[slot] = gettid();
    while (true) {
      ++board_->counts[slot];
      if (slot % 2 == 0) Nap(100);
    }
  }
  // A child whose leader and further threads count in slots first .. first + count - 1.
  std::function<void()> Counters(std::size_t first, std::size_t count) {
    return [this, first, count] {
      std::vector<std::thread> threads;
      for (std::size_t i = 1; i < count; ++i) threads.emplace_back([this, slot = first + i] { Count(slot); });
      Count(first);
    };
  }
  std::uint64_t count(std::size_t slot) const { return board_->counts[slot]; }
  pid_t thread(std::size_t slot) const { return board_->threads[slot]; }
  // True when it has counted on: it runs.
  bool Runs(std::size_t slot, std::uint64_t steps = 20) const {
    const std::uint64_t before = count(slot);
    return WaitUntil([&] { return count(slot) >= before + steps; });
  }
  bool AllRun(std::size_t first, std::size_t slots) const {
    for (std::size_t slot = first; slot < first + slots; ++slot) {
      if (!Runs(slot)) return false;
    }
    return true;
  }
  // While slot `clock` takes many steps, no other of the slots takes one.
  void ExpectOnlyRuns(std::size_t clock, std::size_t slots) const {
    std::array<std::uint64_t, kSlots> before{};
    for (std::size_t slot = 0; slot < slots; ++slot) before[slot] = count(slot);
    ASSERT_TRUE(Runs(clock, 200));
    for (std::size_t slot = 0; slot < slots; ++slot) {
      if (slot == clock) continue;
      EXPECT_EQ(count(slot), before[slot]) << "slot " << slot;
    }
  }

  Board* board_ = nullptr;
};

TEST_F(ThreadStopTest, StopsAllButTheExemptThreadAndLetsAllRunOn) {
  if (kThreadSanitizer) GTEST_SKIP() << "ThreadSanitizer changes the children: " << kTsanChanges;
  const Child child(Counters(0, 4));
  ASSERT_TRUE(AllRun(0, 4));
  auto stop = ThreadStop::Acquire(std::array{child.pid()}, {.exempt_threads = {thread(2)}});
  ASSERT_THAT(stop, IsOk());
  EXPECT_EQ(stop->thread_count(), 3u);
  ExpectOnlyRuns(2, 4);
  EXPECT_THAT(stop->Release(), IsOk());
  EXPECT_TRUE(AllRun(0, 4));
  EXPECT_THAT(stop->Release(), IsOk());
}

TEST_F(ThreadStopTest, StopsSeveralProcessesAndReleasesThemWhenItGoes) {
  if (kThreadSanitizer) GTEST_SKIP() << "ThreadSanitizer changes the children: " << kTsanChanges;
  const Child first(Counters(0, 2));
  const Child second(Counters(2, 2));
  const Child bystander(Counters(4, 1));
  ASSERT_TRUE(AllRun(0, 5));
  {
    const auto stop = ThreadStop::Acquire(std::array{first.pid(), second.pid()}, {});
    ASSERT_THAT(stop, IsOk());
    EXPECT_EQ(stop->thread_count(), 4u);
    ExpectOnlyRuns(4, 5);
  }
  EXPECT_TRUE(AllRun(0, 5));
}

TEST_F(ThreadStopTest, CanBeReleasedFromAnotherThread) {
  const Child child(Counters(0, 2));
  ASSERT_TRUE(AllRun(0, 2));
  std::optional<ThreadStop> stop;
  std::thread([&] {
    auto acquired = ThreadStop::Acquire(std::array{child.pid()}, {});
    if (acquired) stop.emplace(std::move(*acquired));
  }).join();
  ASSERT_TRUE(stop);
  EXPECT_THAT(stop->Release(), IsOk());
  EXPECT_TRUE(AllRun(0, 2));
}

TEST_F(ThreadStopTest, CatchesThreadsThatComeAndGoWhileItStops) {
  // Each thread starts the next one and ends, so that a list of them is out of date as soon as it is read.
  const Child child([this] {
    while (true) {
      std::thread([this] { std::thread([this] { ++board_->counts[0]; }).join(); }).join();
    }
  });
  const Child clock(Counters(2, 1));
  ASSERT_TRUE(Runs(0) && Runs(2));
  for (int round = 0; round < 50; ++round) {
    SCOPED_TRACE(round);
    auto stop = ThreadStop::Acquire(std::array{child.pid()}, {});
    ASSERT_THAT(stop, IsOk());
    const std::uint64_t before = count(0);
    ASSERT_TRUE(Runs(2, 5));
    ASSERT_EQ(count(0), before);
    ASSERT_THAT(stop->Release(), IsOk());
    ASSERT_TRUE(Runs(0, 2));
  }
}

TEST_F(ThreadStopTest, LosesNoSignal) {
  if (kThreadSanitizer) GTEST_SKIP() << "ThreadSanitizer changes the children: " << kTsanChanges;
  static std::atomic<std::uint64_t>* received = nullptr;
  received = &board_->events;
  const Child child([this] {
    struct sigaction action{};
    action.sa_sigaction = [](int, siginfo_t* info, void*) {
      *received += static_cast<std::uint64_t>(info->si_value.sival_int);
    };
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGRTMIN, &action, nullptr);
    Counters(0, 2)();
  });
  ASSERT_TRUE(AllRun(0, 2));
  std::uint64_t sent = 0;
  std::atomic<bool> done = false;
  std::thread sender([&] {
    for (int value = 1; !done; ++value) {
      if (sigqueue(child.pid(), SIGRTMIN, sigval{value}) == 0) sent += static_cast<std::uint64_t>(value);
      Nap(50);
    }
  });
  for (int round = 0; round < 200; ++round) {
    auto stop = ThreadStop::Acquire(std::array{child.pid()}, {});
    EXPECT_THAT(stop, IsOk());
    if (!stop) break;
    EXPECT_THAT(stop->Release(), IsOk());
  }
  done = true;
  sender.join();
  EXPECT_TRUE(WaitUntil([&] { return board_->events == sent; })) << board_->events << " of " << sent;
}

TEST_F(ThreadStopTest, ASignalSentMeanwhileIsDeliveredAfterTheRelease) {
  static std::atomic<std::uint64_t>* received = nullptr;
  received = &board_->events;
  const Child child([this] {
    signal(SIGUSR1, [](int) { ++*received; });
    Counters(0, 1)();
  });
  const Child clock(Counters(2, 1));
  ASSERT_TRUE(Runs(0) && Runs(2));
  auto stop = ThreadStop::Acquire(std::array{child.pid()}, {});
  ASSERT_THAT(stop, IsOk());
  kill(child.pid(), SIGUSR1);
  ASSERT_TRUE(Runs(2));
  EXPECT_EQ(board_->events, 0u);
  EXPECT_THAT(stop->Release(), IsOk());
  EXPECT_TRUE(WaitUntil([&] { return board_->events == 1; }));
}

char StateOf(pid_t pid) {
  const auto text = ReadTextFile(fmt::format("/proc/{}/stat", pid));
  return text ? (*text)[text->rfind(')') + 2] : '-';
}

TEST_F(ThreadStopTest, AStoppedProcessStaysStoppedAfterTheRelease) {
  const Child child(Counters(0, 2));
  ASSERT_TRUE(AllRun(0, 2));
  kill(child.pid(), SIGSTOP);
  ASSERT_TRUE(WaitUntil([&] { return StateOf(child.pid()) == 'T'; }));
  auto stop = ThreadStop::Acquire(std::array{child.pid()}, {});
  ASSERT_THAT(stop, IsOk());
  EXPECT_EQ(StateOf(child.pid()), 't');
  EXPECT_THAT(stop->Release(), IsOk());
  ASSERT_TRUE(WaitUntil([&] { return StateOf(child.pid()) == 'T'; }));
  const std::uint64_t before = count(1);
  const Child clock(Counters(2, 1));
  ASSERT_TRUE(Runs(2));
  EXPECT_EQ(count(1), before);
  kill(child.pid(), SIGCONT);
  EXPECT_TRUE(AllRun(0, 2));
}

TEST_F(ThreadStopTest, BlockingCallsGoOnAsIfNothingHappened) {
  auto pipe = MakePipe();
  ASSERT_THAT(pipe, IsOk());
  const Child child([&] {
    board_->threads[0] = gettid();
    std::thread sleeper([&] {
      board_->threads[1] = gettid();
      const timespec time{0, 300'000'000};
      board_->counts[1] = nanosleep(&time, nullptr) == 0 ? 1 : 2;
    });
    char byte = 0;
    board_->counts[0] = read(pipe->read_end.get(), &byte, 1) == 1 ? 1 : 2;
    sleeper.join();
    while (true) pause();
  });
  ASSERT_TRUE(WaitUntil([&] { return thread(0) != 0 && thread(1) != 0 && StateOf(child.pid()) == 'S'; }));
  for (int round = 0; round < 5; ++round) {
    auto stop = ThreadStop::Acquire(std::array{child.pid()}, {});
    ASSERT_THAT(stop, IsOk());
    ASSERT_THAT(stop->Release(), IsOk());
  }
  ASSERT_EQ(write(pipe->write_end.get(), "x", 1), 1);
  EXPECT_TRUE(WaitUntil([&] { return count(0) == 1 && count(1) == 1; })) << count(0) << ' ' << count(1);
}

TEST_F(ThreadStopTest, ADebuggerInTheWayIsNamedAndAllRunsOn) {
  const Child first(Counters(0, 2));
  const Child second(Counters(2, 2));
  ASSERT_TRUE(AllRun(0, 4));
  const Child debugger([&] {
    if (ptrace(PTRACE_SEIZE, thread(3), nullptr, nullptr) == 0) board_->answer = 1;
    while (true) pause();
  });
  ASSERT_TRUE(WaitUntil([&] { return board_->answer == 1; }));
  EXPECT_THAT(ThreadStop::Acquire(std::array{first.pid(), second.pid()}, {}),
              FailsWith(ErrorCode::kFailedPrecondition, fmt::format("is traced by process {}", debugger.pid())));
  EXPECT_TRUE(AllRun(0, 4));
}

TEST_F(ThreadStopTest, AProcessThatIsGoneIsNotFoundAndTheOthersRunOn) {
  const Child alive(Counters(0, 2));
  ASSERT_TRUE(AllRun(0, 2));
  Child gone([] {});
  ASSERT_TRUE(WaitUntil([&] { return StateOf(gone.pid()) == 'Z'; }));
  EXPECT_THAT(ThreadStop::Acquire(std::array{alive.pid(), gone.pid()}, {}),
              FailsWith(ErrorCode::kNotFound, "has exited"));
  const pid_t pid = gone.pid();
  gone.Kill();
  EXPECT_THAT(ThreadStop::Acquire(std::array{alive.pid(), pid}, {}), FailsWith(ErrorCode::kNotFound, "is gone"));
  EXPECT_TRUE(AllRun(0, 2));
}

TEST_F(ThreadStopTest, RefusesAnExemptThreadOfAnotherProcess) {
  const Child child(Counters(0, 2));
  ASSERT_TRUE(AllRun(0, 2));
  EXPECT_THAT(ThreadStop::Acquire(std::array{child.pid()}, {.exempt_threads = {getpid()}}),
              FailsWith(ErrorCode::kInvalidArgument, fmt::format("thread {} belongs to none", getpid())));
  EXPECT_TRUE(AllRun(0, 2));
}

TEST_F(ThreadStopTest, AThreadThatCannotStopIsNamedAndAllRunsOn) {
  if (kThreadSanitizer) GTEST_SKIP() << "ThreadSanitizer changes the children: " << kTsanChanges;
  // The parent of a vfork() child sleeps so deeply that only a kill reaches it.
  const Child child([this] {
    std::thread counter([this] { Count(0); });
    board_->threads[1] = gettid();
    const pid_t inner = vfork();
    if (inner == 0) {
      while (board_->answer == 0) Nap(1000);
      _exit(0);
    }
    waitpid(inner, nullptr, 0);
    Count(2);
  });
  ASSERT_TRUE(Runs(0));
  ASSERT_TRUE(WaitUntil([&] { return StateOf(child.pid()) == 'D'; }));
  EXPECT_THAT(ThreadStop::Acquire(std::array{child.pid()}, {.limit = milliseconds(100)}),
              FailsWith(ErrorCode::kDeadlineExceeded, fmt::format("thread {} of process {}", thread(1), child.pid())));
  EXPECT_TRUE(Runs(0));
  board_->answer = 1;
  EXPECT_TRUE(Runs(2));
}

TEST_F(ThreadStopTest, AProcessWhoseLeaderHasExitedIsStopped) {
  if (kThreadSanitizer) GTEST_SKIP() << "ThreadSanitizer changes the children: " << kTsanChanges;
  const Child child([this] {
    std::thread([this] { Count(0); }).detach();
    syscall(SYS_exit, 0);  // of this thread alone
  });
  const Child clock(Counters(2, 1));
  ASSERT_TRUE(Runs(0) && Runs(2));
  ASSERT_TRUE(WaitUntil([&] { return StateOf(child.pid()) == 'Z'; }));
  auto stop = ThreadStop::Acquire(std::array{child.pid()}, {});
  ASSERT_THAT(stop, IsOk());
  EXPECT_EQ(stop->thread_count(), 1u);
  ExpectOnlyRuns(2, 3);
  EXPECT_THAT(stop->Release(), IsOk());
  EXPECT_TRUE(Runs(0));
}

TEST_F(ThreadStopTest, AKillIsHeardByTheParentWhileTheRestIsHeld) {
  const Child parent([this] {
    const pid_t inner = fork();
    if (inner == 0) Counters(0, 3)();
    int status = 0;
    board_->events = static_cast<std::uint64_t>(inner);
    waitpid(inner, &status, 0);
    board_->answer = WIFSIGNALED(status) ? WTERMSIG(status) : -1;
    while (true) pause();
  });
  const Child other(Counters(3, 1));
  ASSERT_TRUE(AllRun(0, 4));
  auto stop = ThreadStop::Acquire(std::array{static_cast<pid_t>(board_->events), other.pid()}, {});
  ASSERT_THAT(stop, IsOk());
  kill(static_cast<pid_t>(board_->events), SIGKILL);
  EXPECT_TRUE(WaitUntil([&] { return board_->answer == SIGKILL; }));
  EXPECT_THAT(stop->Release(), IsOk());
  EXPECT_TRUE(Runs(3));
}

TEST_F(ThreadStopTest, OurOwnChildKilledMeanwhileKeepsItsExitStatusForItsOwner) {
  ChildProcess::Options options;
  options.arguments = {"sleep", "1000"};
  auto child = ChildProcess::Start(options);
  ASSERT_THAT(child, IsOk());
  auto stop = ThreadStop::Acquire(std::array{child->pid()}, {});
  ASSERT_THAT(stop, IsOk());
  child->Signal(SIGKILL);
  ASSERT_TRUE(WaitUntil([&] { return StateOf(child->pid()) == 'Z'; }));
  std::this_thread::sleep_for(3 * ThreadStop::kReapInterval);  // what would take the status away has had its chance
  const auto status = child->Wait(seconds(10));
  ASSERT_THAT(status, IsOk());
  EXPECT_EQ(status->signal, SIGKILL);
  EXPECT_THAT(stop->Release(), IsOk());
}

// A process that stops `target`, says so on the board, and waits to be killed.
std::function<void()> Holding(Board& board, pid_t target, bool kill_if_we_die) {
  return [&board, target, kill_if_we_die] {
    auto stop = ThreadStop::Acquire(std::array{target}, {.kill_if_we_die = kill_if_we_die});
    board.answer = stop ? 1 : 2;
    while (true) pause();
  };
}

TEST_F(ThreadStopTest, WhenItsOwnerIsKilledTheThreadsRunOn) {
  const Child child(Counters(0, 3));
  ASSERT_TRUE(AllRun(0, 3));
  Child owner(Holding(*board_, child.pid(), false));
  ASSERT_TRUE(WaitUntil([&] { return board_->answer == 1; }));
  owner.Kill();
  EXPECT_TRUE(AllRun(0, 3));
}

TEST_F(ThreadStopTest, WhenItsOwnerIsKilledTheThreadsDieWithItWhereAsked) {
  const Child child(Counters(0, 3));
  ASSERT_TRUE(AllRun(0, 3));
  Child owner(Holding(*board_, child.pid(), true));
  ASSERT_TRUE(WaitUntil([&] { return board_->answer == 1; }));
  std::array<std::uint64_t, 3> before = {count(0), count(1), count(2)};
  owner.Kill();
  EXPECT_TRUE(WaitUntil([&] { return StateOf(child.pid()) == 'Z'; }));
  EXPECT_EQ(before, (std::array<std::uint64_t, 3>{count(0), count(1), count(2)}));
}

TEST_F(ThreadStopTest, AReleaseDisarmsTheKill) {
  const Child child(Counters(0, 3));
  ASSERT_TRUE(AllRun(0, 3));
  {
    auto stop = ThreadStop::Acquire(std::array{child.pid()}, {.kill_if_we_die = true});
    ASSERT_THAT(stop, IsOk());
  }
  EXPECT_TRUE(AllRun(0, 3));
}

// A cgroup of version 2 that `pid` is moved into.
class FrozenGroup {
 public:
  static std::optional<std::string> Mount() {
    std::ifstream mounts("/proc/self/mountinfo");
    for (std::string line; std::getline(mounts, line);) {
      if (line.find(" - cgroup2 ") == std::string::npos) continue;
      std::size_t at = 0;
      for (int field = 0; field < 4; ++field) at = line.find(' ', at) + 1;
      return line.substr(at, line.find(' ', at) - at);
    }
    return std::nullopt;
  }
  FrozenGroup(const std::string& mount, pid_t pid) : path_(fmt::format("{}/gpumig-test-{}-{}", mount, getpid(), pid)) {
    mkdir(path_.c_str(), 0755);
    EXPECT_THAT(WriteControlFile(path_ + "/cgroup.procs", std::to_string(pid)), IsOk());
  }
  ~FrozenGroup() {
    static_cast<void>(WriteControlFile(path_ + "/cgroup.kill", "1"));
    WaitUntil([&] { return rmdir(path_.c_str()) == 0; });
  }
  void Freeze() {
    EXPECT_THAT(WriteControlFile(path_ + "/cgroup.freeze", "1"), IsOk());
    EXPECT_TRUE(WaitUntil([&] { return SaysFrozen(); }));
  }
  void Thaw() { EXPECT_THAT(WriteControlFile(path_ + "/cgroup.freeze", "0"), IsOk()); }
  bool SaysFrozen() const {
    const auto events = ReadTextFile(path_ + "/cgroup.events");
    return events && events->find("frozen 1") != std::string::npos;
  }

 private:
  std::string path_;
};

TEST_F(ThreadStopTest, OfAFrozenGroupOnlyTheExemptThreadEverRunsUntilTheRelease) {
  const std::optional<std::string> mount = FrozenGroup::Mount();
  GPUMIG_NEEDS("root", mount.has_value(), "no cgroup v2 is mounted");
  const Child child(Counters(0, 4));
  FrozenGroup group(*mount, child.pid());
  ASSERT_TRUE(AllRun(0, 4));
  group.Freeze();
  const std::array<std::uint64_t, 3> frozen = {count(0), count(1), count(3)};

  auto stop = ThreadStop::Acquire(std::array{child.pid()}, {.exempt_threads = {thread(2)}});
  ASSERT_THAT(stop, IsOk());
  EXPECT_TRUE(group.SaysFrozen());
  group.Thaw();
  ExpectOnlyRuns(2, 4);
  group.Freeze();
  EXPECT_THAT(stop->Release(), IsOk());
  EXPECT_TRUE(WaitUntil([&] { return group.SaysFrozen(); }));
  EXPECT_EQ((std::array<std::uint64_t, 3>{count(0), count(1), count(3)}), frozen);
  group.Thaw();
  EXPECT_TRUE(AllRun(0, 4));
}

}  // namespace
}  // namespace gpumig
