#include "core/host/write_tracker.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "core/base/file.h"
#include "core/host/direct_memory.h"
#include "tests/support/matchers.h"
#include "tests/support/needs.h"

namespace gpumig {
namespace {

constexpr std::size_t kPages = 2000;

// A child that does what it is told, a letter at a time: 'w' and a page number writes to that page, 'd' drops it, 'p'
// answers after it has waited in a system call that the kernel must begin again.
class Worker {
 public:
  explicit Worker(bool wait_in_poll = false) {
    memory_ = static_cast<std::byte*>(
        mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_NE(memory_, MAP_FAILED);
    Result<Pipe> orders = MakePipe();
    Result<Pipe> answers = MakePipe();
    EXPECT_TRUE(orders && answers);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      std::memset(memory_, 1, kPages * kPageBytes);
      Answer(answers->write_end.get(), 'r');
      Work(orders->read_end.get(), answers->write_end.get(), wait_in_poll);
    }
    orders_ = std::move(orders->write_end);
    answers_ = std::move(answers->read_end);
    EXPECT_EQ(Answered(), 'r');
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    munmap(memory_, kPages * kPageBytes);
  }

  pid_t pid() const { return pid_; }
  MemoryRange All() const { return {reinterpret_cast<std::uintptr_t>(memory_), kPages * kPageBytes}; }
  MemoryRange Page(std::size_t page) const {
    return {reinterpret_cast<std::uintptr_t>(memory_) + page * kPageBytes, kPageBytes};
  }
  void Tell(char what, std::uint32_t page = 0) {
    char order[5] = {what};
    std::memcpy(order + 1, &page, sizeof(page));
    EXPECT_EQ(write(orders_.get(), order, sizeof(order)), static_cast<ssize_t>(sizeof(order)));
    EXPECT_EQ(Answered(), what);
  }

 private:
  char Answered() const {
    char answer = 0;
    pollfd readable{answers_.get(), POLLIN, 0};
    EXPECT_EQ(poll(&readable, 1, 30'000), 1);
    EXPECT_EQ(read(answers_.get(), &answer, 1), 1);
    return answer;
  }
  static void Answer(int fd, char what) {
    if (write(fd, &what, 1) != 1) _exit(3);
  }
  [[noreturn]] void Work(int orders, int answers, bool wait_in_poll) const {
    while (true) {
      char order[5];
      pollfd readable{orders, POLLIN, 0};
      // With a time limit it is begun again by restart_syscall().
      if (wait_in_poll && poll(&readable, 1, 60'000) != 1) _exit(4);
      if (read(orders, order, sizeof(order)) != static_cast<ssize_t>(sizeof(order))) _exit(5);
      std::uint32_t page = 0;
      std::memcpy(&page, order + 1, sizeof(page));
      if (order[0] == 'w') memory_[page * kPageBytes + 9] = std::byte{2};
      if (order[0] == 'd') madvise(memory_ + page * kPageBytes, kPageBytes, MADV_DONTNEED);
      Answer(answers, order[0]);
    }
  }

  std::byte* memory_ = nullptr;
  pid_t pid_ = 0;
  UniqueFd orders_;
  UniqueFd answers_;
};

class WriteTrackerTest : public testing::Test {
 protected:
  void SetUp() override {
    GPUMIG_NEEDS_ROOT();
    const Worker worker;
    const auto tracker = WriteTracker::Attach(worker.pid());
    if (!tracker && tracker.error().code() == ErrorCode::kUnsupported)
      GTEST_SKIP() << "this kernel cannot: " << tracker.error().message();
  }
};

TEST_F(WriteTrackerTest, TellsExactlyWhatWasWrittenSinceTheLastLook) {
  Worker worker;
  auto tracker = WriteTracker::Attach(worker.pid());
  ASSERT_THAT(tracker, IsOk());
  auto written = tracker->TakeWritten({worker.All()});
  ASSERT_THAT(written, IsOk());
  EXPECT_EQ(written->pages, std::vector{worker.All()});
  EXPECT_EQ(written->fresh, std::vector{worker.All()});
  EXPECT_TRUE(written->unwatched.empty());

  written = tracker->TakeWritten({worker.All()});
  ASSERT_THAT(written, IsOk());
  EXPECT_TRUE(written->pages.empty());
  EXPECT_TRUE(written->fresh.empty());

  worker.Tell('w', 5);
  worker.Tell('w', 1999);
  EXPECT_EQ(*tracker->CountWritten({worker.All()}), 2 * kPageBytes);
  EXPECT_EQ(*tracker->CountWritten({worker.All()}), 2 * kPageBytes);
  written = tracker->TakeWritten({worker.All()});
  ASSERT_THAT(written, IsOk());
  EXPECT_EQ(written->pages, (std::vector{worker.Page(5), worker.Page(1999)}));
  worker.Tell('w', 5);
  written = tracker->TakeWritten({worker.All()});
  ASSERT_THAT(written, IsOk());
  EXPECT_EQ(written->pages, std::vector{worker.Page(5)});
}

TEST_F(WriteTrackerTest, APageThatWasGivenUpIsNotThereAndOneThatCameAnewIsWritten) {
  Worker worker;
  auto tracker = WriteTracker::Attach(worker.pid());
  ASSERT_THAT(tracker, IsOk());
  ASSERT_THAT(tracker->TakeWritten({worker.All()}), IsOk());
  worker.Tell('d', 7);
  EXPECT_TRUE(tracker->TakeWritten({worker.All()})->pages.empty());
  worker.Tell('w', 7);
  EXPECT_EQ(tracker->TakeWritten({worker.All()})->pages, std::vector{worker.Page(7)});
}

// Twenty times, since what could go wrong would go wrong only where the wait is cut at the wrong moment.
TEST_F(WriteTrackerTest, AWaitInASystemCallGoesOnAsIfNothingHadHappened) {
  for (const bool in_poll : {false, true}) {
    SCOPED_TRACE(in_poll);
    Worker worker(in_poll);
    for (int i = 0; i < 20; ++i) {
      const auto tracker = WriteTracker::Attach(worker.pid());
      ASSERT_THAT(tracker, IsOk());
      worker.Tell('w', 1);
    }
  }
}

TEST_F(WriteTrackerTest, LeavesNoDescriptorInTheProcess) {
  const Worker worker;
  const auto count = [&] {
    return std::distance(std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", worker.pid())),
                         std::filesystem::directory_iterator());
  };
  const auto before = count();
  const auto tracker = WriteTracker::Attach(worker.pid());
  ASSERT_THAT(tracker, IsOk());
  EXPECT_EQ(count(), before);
}

TEST_F(WriteTrackerTest, WhoeverIsStoppedOrGoneIsNotAsked) {
  Worker worker;
  kill(worker.pid(), SIGSTOP);
  int status = 0;
  ASSERT_EQ(waitpid(worker.pid(), &status, WUNTRACED), worker.pid());
  EXPECT_THAT(WriteTracker::Attach(worker.pid()), FailsWith(ErrorCode::kUnsupported, "stopped"));
  kill(worker.pid(), SIGCONT);
  worker.Tell('w', 3);
  EXPECT_THAT(WriteTracker::Attach(999'999'999), FailsWith(ErrorCode::kNotFound, ""));
}

TEST_F(WriteTrackerTest, AnotherProgramInTheSameProcessIsNotTakenForTheOldOne) {
  Result<Pipe> ready = MakePipe();
  Result<Pipe> go = MakePipe();
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char byte = 'r';
    if (write(ready->write_end.get(), &byte, 1) != 1 || read(go->read_end.get(), &byte, 1) != 1) _exit(1);
    execl("/bin/sleep", "sleep", "600", nullptr);
    _exit(1);
  }
  char byte = 0;
  EXPECT_EQ(read(ready->read_end.get(), &byte, 1), 1);
  auto tracker = WriteTracker::Attach(pid);
  EXPECT_THAT(tracker, IsOk());
  EXPECT_EQ(write(go->write_end.get(), "g", 1), 1);
  // Its end of the pipe goes with the old program.
  ready->write_end.Reset();
  EXPECT_EQ(read(ready->read_end.get(), &byte, 1), 0);
  if (tracker) {
    EXPECT_THAT(tracker->TakeWritten({}), FailsWith(ErrorCode::kNotFound, "another program"));
  }
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

TEST(SharesMemoryTest, AForkedChildHasItsOwnAndAChildOfVforkHasNot) {
  GPUMIG_NEEDS_ROOT();
  const Worker worker;
  EXPECT_EQ(*SharesMemory(getpid(), worker.pid()), false);
  EXPECT_EQ(*SharesMemory(worker.pid(), worker.pid()), true);
  // As vfork() makes one, but without its wait, so that we can look.
  std::vector<std::byte> stack(std::size_t{64} << 10);
  const auto wait = [](void*) -> int {
    while (true) pause();
  };
  const pid_t child = clone(wait, stack.data() + stack.size(), CLONE_VM | SIGCHLD, nullptr);
  ASSERT_GT(child, 0);
  EXPECT_EQ(*SharesMemory(getpid(), child), true);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_THAT(SharesMemory(getpid(), 999'999'999), FailsWith(ErrorCode::kNotFound, ""));
}

TEST(MayBeWrittenUnseenTest, NamesWhatWritesPastThePageTables) {
  // This process holds what a test runner gave it; a child with only what we give it is looked at.
  const auto why = [](const char* path, int flags) {
    Result<Pipe> ready = MakePipe();
    const pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(ready->write_end.get(), 3);
      close_range(4, ~0u, 0);
      for (int fd = 0; fd < 3; ++fd) dup2(open("/dev/null", O_RDWR), fd);
      close_range(4, ~0u, 0);
      if (path != nullptr && open(path, flags, 0600) < 0) _exit(1);
      if (write(3, "r", 1) != 1) _exit(1);
      pause();
    }
    ready->write_end.Reset();
    char byte = 0;
    EXPECT_EQ(read(ready->read_end.get(), &byte, 1), 1);
    Result<std::string> answer = MayBeWrittenUnseen(pid);
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return answer ? *answer : answer.error().message();
  };
  EXPECT_EQ(why(nullptr, 0), "");
  EXPECT_EQ(why("/dev/zero", O_RDONLY), "");
  EXPECT_EQ(why("/proc/self/maps", O_RDONLY), "");
  if (access("/dev/fuse", R_OK | W_OK) == 0) {
    EXPECT_THAT(why("/dev/fuse", O_RDWR), testing::HasSubstr("/dev/fuse"));
  }
  const auto directory = TemporaryDirectory::Create(std::filesystem::temp_directory_path(), "direct-");
  ASSERT_THAT(directory, IsOk());
  const std::string file = directory->path() / "file";
  EXPECT_EQ(why(file.c_str(), O_RDWR | O_CREAT), "");
  const UniqueFd direct(open(file.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
  if (direct.valid()) {
    EXPECT_THAT(why(file.c_str(), O_RDONLY | O_DIRECT), testing::HasSubstr("direct I/O"));
  }
}

}  // namespace
}  // namespace gpumig
