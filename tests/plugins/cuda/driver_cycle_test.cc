// The whole way through OpenCudaDevicePort() over a driver that works: the software GPU's, or, built with
// GPUMIG_REAL_GPU, NVIDIA's.
#include <dlfcn.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/base/child_process.h"
#include "core/base/file.h"
#include "core/host/ptrace_stop.h"
#include "plugins/cuda/open_cuda.h"
#include "tests/support/matchers.h"
#include "tests/support/needs.h"

namespace gpumig {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr std::uint64_t kMiB = 1 << 20;

// Device memory of a job; GPUMIG_GPU_JOB_MIB changes it, for measurements (software GPU: 100 at most).
std::uint64_t JobBytes() {
  const char* mebibytes = std::getenv("GPUMIG_GPU_JOB_MIB");
  return (mebibytes != nullptr ? std::strtoull(mebibytes, nullptr, 10) : 24) * kMiB;
}

#ifdef GPUMIG_REAL_GPU
constexpr const char* kNeed = "gpu";
constexpr const char* kLibrary = "libcuda.so.1";
#else
constexpr const char* kNeed = "softgpu";
constexpr const char* kLibrary = SOFTGPU_LIBRARY;
#endif

// A child that does not outlive a test program that was killed.
int DieWithUs() { return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 ? 0 : errno; }

// gpu_job, and a word with it. Its end closes its stdin, which ends it.
class Job {
 public:
  explicit Job(std::vector<std::string> prefix = {}) {
    Pipe in = *MakePipe();
    Pipe out = *MakePipe();
    ChildProcess::Options options;
    options.arguments = std::move(prefix);
    for (const std::string& argument :
         {std::string(GPU_JOB), std::string(kLibrary), std::to_string(JobBytes() / kMiB)}) {
      options.arguments.push_back(argument);
    }
    options.descriptors = {{in.read_end.get(), 0}, {out.write_end.get(), 1}};
    options.before_exec = DieWithUs;
    auto child = ChildProcess::Start(options);
    EXPECT_THAT(child, IsOk());
    child_.emplace(std::move(*child));
    to_job_ = std::move(in.write_end);
    from_job_ = std::move(out.read_end);
    EXPECT_EQ(ReadLine(), "ready");
  }

  pid_t pid() const { return child_->pid(); }
  // "": it does not answer within the limit, or has ended.
  std::string Ask(const std::string& line, milliseconds limit = seconds(30)) {
    EXPECT_THAT(WriteAll(to_job_.get(), line + "\n"), IsOk());
    return ReadLine(limit);
  }
  std::string ReadLine(milliseconds limit = seconds(30)) {
    std::string line;
    const auto deadline = steady_clock::now() + limit;
    while (true) {
      const auto left = std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now());
      pollfd ready{from_job_.get(), POLLIN, 0};
      char byte = 0;
      if (left.count() <= 0 || poll(&ready, 1, static_cast<int>(left.count())) <= 0) return "";
      if (read(from_job_.get(), &byte, 1) != 1) return "";
      if (byte == '\n') return line;
      line += byte;
    }
  }
  void Kill() {
    child_->Signal(SIGKILL);
    EXPECT_THAT(child_->Wait(seconds(30)), IsOk());
  }

 private:
  UniqueFd to_job_;
  UniqueFd from_job_;
  std::optional<ChildProcess> child_;
};

class DriverCycleTest : public testing::Test {
 protected:
#ifndef GPUMIG_REAL_GPU
  static void SetUpTestSuite() {
    directory_ =
        new TemporaryDirectory(*TemporaryDirectory::Create(std::filesystem::temp_directory_path(), "gpumig-cuda-"));
    const std::string socket = directory_->path() / "softgpud.sock";
    ChildProcess::Options options;
    options.arguments = {SOFTGPU_DAEMON, "--socket",      socket,     "--device",    "memory=256MiB",
                         "--device",     "memory=256MiB", "--device", "memory=16MiB"};
    options.before_exec = DieWithUs;
    auto daemon = ChildProcess::Start(options);
    ASSERT_THAT(daemon, IsOk());
    daemon_ = new ChildProcess(std::move(*daemon));
    setenv("SOFTGPU_SOCKET", socket.c_str(), 1);
    const auto deadline = steady_clock::now() + seconds(20);
    while (!std::filesystem::exists(socket) && steady_clock::now() < deadline) usleep(10'000);
  }
  static void TearDownTestSuite() {
    delete daemon_;
    delete directory_;
  }
  static inline TemporaryDirectory* directory_ = nullptr;
  static inline ChildProcess* daemon_ = nullptr;
#endif

  void SetUp() override {
    signal(SIGPIPE, SIG_IGN);  // a job that has ended is for the test to report
    unsetenv("GPUMIG_LIBCUDA");
    const auto begin = steady_clock::now();
    auto port = OpenCudaDevicePort({.library = kLibrary, .software_library = ""});
    Record("open_ms", begin);
    GPUMIG_NEEDS(kNeed, port.has_value(), port.error().message());
    port_ = std::move(*port);
    auto gpus = port_->Gpus();
    ASSERT_THAT(gpus, IsOk());
    gpus_ = std::move(*gpus);
  }

  // Seen with --gtest_output=json.
  static void Record(const char* what, steady_clock::time_point begin) {
    RecordProperty(
        what, fmt::format("{:.2f}", std::chrono::duration<double, std::milli>(steady_clock::now() - begin).count()));
  }
  std::vector<GpuPair> Identity() const {
    std::vector<GpuPair> map;
    for (const GpuFacts& gpu : gpus_) map.push_back({gpu.uuid, gpu.uuid, ""});
    return map;
  }
  // GPUs `a` and `b` change places.
  std::vector<GpuPair> Swapped(std::size_t a, std::size_t b) const {
    std::vector<GpuPair> map = Identity();
    std::swap(map[a].new_uuid, map[b].new_uuid);
    return map;
  }
  // Of the first GPU that another one of the same chip can stand in for.
  std::vector<GpuPair> Elsewhere() const { return gpus_.size() > 1 ? Swapped(0, 1) : Identity(); }
  static std::string Digits(std::string uuid) {
    uuid.erase(0, 4);
    std::erase(uuid, '-');
    return uuid;
  }
  void BringToCheckpointed(std::span<const pid_t> processes) {
    ASSERT_THAT(port_->Lock(processes, seconds(20)), IsOk());
    ASSERT_THAT(port_->Checkpoint(processes), IsOk());
  }

  std::unique_ptr<DevicePort> port_;
  std::vector<GpuFacts> gpus_;
};

TEST_F(DriverCycleTest, AJobMovesToOtherGpusAndGoesOnAsIfNothingHadHappened) {
  Job job;
  Job twin;
  const std::array processes{job.pid()};
  for (Job* both : {&job, &twin}) EXPECT_EQ(both->Ask("step"), "ok");
  EXPECT_EQ(job.Ask("uuid"), Digits(gpus_[0].uuid));
  EXPECT_EQ(*port_->State(job.pid()), GpuState::kRunning);

  auto begin = steady_clock::now();
  ASSERT_THAT(port_->Lock(processes, seconds(20)), IsOk());
  Record("lock_ms", begin);
  EXPECT_EQ(*port_->State(job.pid()), GpuState::kLocked);
  const std::uint64_t free_before = port_->Gpus()->front().free_bytes;
  begin = steady_clock::now();
  const auto bytes = port_->Checkpoint(processes);
  Record("checkpoint_ms", begin);
  ASSERT_THAT(bytes, IsOk());
  EXPECT_GE(*bytes, JobBytes());
  EXPECT_LT(*bytes, JobBytes() + 2048 * kMiB);
  EXPECT_EQ(*port_->State(job.pid()), GpuState::kCheckpointed);
  EXPECT_GE(port_->Gpus()->front().free_bytes, free_before + JobBytes());
  RecordProperty("checkpoint_bytes", std::to_string(*bytes));

  begin = steady_clock::now();
  ASSERT_THAT(port_->Restore(processes, Elsewhere()), IsOk());
  Record("restore_ms", begin);
  EXPECT_EQ(*port_->State(job.pid()), GpuState::kLocked);
  begin = steady_clock::now();
  ASSERT_THAT(port_->Unlock(processes), IsOk());
  Record("unlock_ms", begin);
  EXPECT_EQ(*port_->State(job.pid()), GpuState::kRunning);

  EXPECT_EQ(job.Ask("uuid"), Digits(Elsewhere().front().new_uuid));
  for (Job* both : {&job, &twin}) EXPECT_EQ(both->Ask("step"), "ok");
  const std::string hash = job.Ask("hash");
  EXPECT_FALSE(hash.empty());
  EXPECT_EQ(hash, twin.Ask("hash"));
}

TEST_F(DriverCycleTest, ALockedJobDoesNoGpuWorkUntilItIsUnlocked) {
  Job job;
  const std::array processes{job.pid()};
  ASSERT_THAT(port_->Lock(processes, seconds(20)), IsOk());
  EXPECT_EQ(job.Ask("step", milliseconds(300)), "");
  ASSERT_THAT(port_->Unlock(processes), IsOk());
  EXPECT_EQ(job.ReadLine(), "ok");
}

TEST_F(DriverCycleTest, WorksWithAllThreadsStoppedButTheRestoreThread) {
  GPUMIG_NEEDS_ROOT();
  Job job;
  Job twin;
  const std::array processes{job.pid()};
  for (Job* both : {&job, &twin}) EXPECT_EQ(both->Ask("step"), "ok");
  ASSERT_THAT(port_->Lock(processes, seconds(20)), IsOk());
  const auto threads = port_->RestoreThreads(processes);
  ASSERT_THAT(threads, IsOk());
  auto stop = ThreadStop::Acquire(processes, {.exempt_threads = *threads});
  ASSERT_THAT(stop, IsOk());
  EXPECT_GE(stop->thread_count(), 1u);
  ASSERT_THAT(port_->Checkpoint(processes), IsOk());
  ASSERT_THAT(port_->Restore(processes, Elsewhere()), IsOk());
  ASSERT_THAT(port_->Unlock(processes), IsOk());
  ASSERT_THAT(stop->Release(), IsOk());
  EXPECT_EQ(job.Ask("hash"), twin.Ask("hash"));
}

TEST_F(DriverCycleTest, AMapThatLeavesOutAGpuIsRefusedAndTheJobCanStillBeRestored) {
  GPUMIG_NEEDS(kNeed, gpus_.size() > 1, "needs two GPUs");
  Job job;
  const std::array processes{job.pid()};
  BringToCheckpointed(processes);
  const std::vector<GpuPair> elsewhere = Elsewhere();
  EXPECT_THAT(port_->Restore(processes, std::span(elsewhere).subspan(1)),
              FailsWith(ErrorCode::kInvalidArgument, "must list every GPU that the process saw"));
  EXPECT_EQ(*port_->State(job.pid()), GpuState::kCheckpointed);
  ASSERT_THAT(port_->Restore(processes, Identity()), IsOk());
  ASSERT_THAT(port_->Unlock(processes), IsOk());
  EXPECT_EQ(job.Ask("step"), "ok");
}

#ifndef GPUMIG_REAL_GPU
TEST_F(DriverCycleTest, AGpuWithTooLittleMemoryIsRefusedBeforeTheDriverIsAsked) {
  Job job;
  const std::array processes{job.pid()};
  BringToCheckpointed(processes);
  const auto restored = port_->Restore(processes, Swapped(0, 2));
  ASSERT_THAT(restored, FailsWith(ErrorCode::kResourceExhausted, "must fit on " + gpus_[2].uuid));
  EXPECT_NE(restored.error().next_step().find("nothing was tried"), std::string::npos);
  ASSERT_THAT(port_->Restore(processes, Identity()), IsOk());
  ASSERT_THAT(port_->Unlock(processes), IsOk());
  EXPECT_EQ(job.Ask("step"), "ok");
}

TEST_F(DriverCycleTest, ADriverThatRunsOutOfMemoryInARestoreLeavesTheJobCheckpointed) {
  Job job;
  const std::array processes{job.pid()};
  BringToCheckpointed(processes);
  // Like an agent that was started again since: it does not know what the job needs.
  auto other = OpenCudaDevicePort({.library = kLibrary, .software_library = ""});
  ASSERT_THAT(other, IsOk());
  EXPECT_THAT((*other)->Restore(processes, Swapped(0, 2)),
              FailsWith(ErrorCode::kResourceExhausted, "out of GPU memory"));
  EXPECT_EQ(*(*other)->State(job.pid()), GpuState::kCheckpointed);
  ASSERT_THAT((*other)->Restore(processes, Swapped(0, 1)), IsOk());
  ASSERT_THAT((*other)->Unlock(processes), IsOk());
  EXPECT_EQ(job.Ask("step"), "ok");
}

TEST_F(DriverCycleTest, AMapIsSolvedOntoTheGpusThatHaveRoom) {
  std::vector<GpuFacts> wanted = gpus_;
  for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i].uuid = "GPU-elsewhere-" + std::to_string(i);
  wanted[2].free_bytes = wanted[2].total_bytes - 1;
  const auto map = port_->SolveMap(wanted, {});
  ASSERT_THAT(map, IsOk());
  EXPECT_EQ(map->size(), 3u);
  wanted[0].free_bytes = 0;
  wanted[0].total_bytes = 1024 * kMiB;
  EXPECT_THAT(port_->SolveMap(wanted, {}), FailsWith(ErrorCode::kResourceExhausted, "1.00 GiB of GPU-elsewhere-0"));
}
#endif

TEST_F(DriverCycleTest, ALockThatTheWorkOfOneOutlastsLeavesAllRunning) {
  Job quick;
  Job endless;
  Job other;
  EXPECT_EQ(endless.Ask("spin"), "ok");
  const auto begin = steady_clock::now();
  EXPECT_THAT(port_->Lock(std::array{quick.pid(), endless.pid(), other.pid()}, milliseconds(500)),
              FailsWith(ErrorCode::kDeadlineExceeded, fmt::format("lock process {}", endless.pid())));
  EXPECT_LT(steady_clock::now() - begin, seconds(10));
  for (const Job* job : {&quick, &endless, &other}) EXPECT_EQ(*port_->State(job->pid()), GpuState::kRunning);
  EXPECT_EQ(quick.Ask("step"), "ok");
  EXPECT_EQ(other.Ask("step"), "ok");
}

TEST_F(DriverCycleTest, SeveralProcessesMoveTogether) {
  Job first;
  Job second;
  const std::array processes{second.pid(), first.pid()};
  EXPECT_EQ(first.Ask("step"), "ok");
  BringToCheckpointed(processes);
  ASSERT_THAT(port_->Restore(processes, Elsewhere()), IsOk());
  ASSERT_THAT(port_->Unlock(processes), IsOk());
  EXPECT_EQ(second.Ask("step"), "ok");
  EXPECT_EQ(first.Ask("hash"), second.Ask("hash"));
}

TEST_F(DriverCycleTest, AProcessWithoutCudaUsesNoGpu) {
  Job job;
  ChildProcess::Options options;
  options.arguments = {"sleep", "1000"};
  auto without = ChildProcess::Start(options);
  ASSERT_THAT(without, IsOk());
  EXPECT_EQ(*port_->State(without->pid()), GpuState::kNone);
  const auto users = port_->GpuProcesses(std::array{without->pid(), job.pid()});
  ASSERT_THAT(users, IsOk());
  EXPECT_EQ(*users, std::vector{job.pid()});
  EXPECT_THAT(port_->Lock(std::array{job.pid(), without->pid()}, seconds(20)),
              FailsWith(ErrorCode::kFailedPrecondition, "its GPU state is none"));
  EXPECT_EQ(*port_->State(job.pid()), GpuState::kRunning);
}

TEST_F(DriverCycleTest, AProcessThatIsGoneIsNotFound) {
  Job job;
  Job survivor;
  const pid_t pid = job.pid();
  ASSERT_THAT(port_->Lock(std::array{pid, survivor.pid()}, seconds(20)), IsOk());
  job.Kill();
  EXPECT_THAT(port_->State(pid), FailsWith(ErrorCode::kNotFound, std::to_string(pid)));
  EXPECT_THAT(port_->Checkpoint(std::array{pid, survivor.pid()}), FailsWith(ErrorCode::kNotFound, std::to_string(pid)));
  EXPECT_EQ(*port_->State(survivor.pid()), GpuState::kLocked);
  ASSERT_THAT(port_->Unlock(std::array{survivor.pid()}), IsOk());
  EXPECT_EQ(survivor.Ask("step"), "ok");
}

TEST_F(DriverCycleTest, ACallInTheWrongStateIsRefusedByName) {
  Job job;
  const std::array processes{job.pid()};
  EXPECT_THAT(port_->Checkpoint(processes),
              FailsWith(ErrorCode::kFailedPrecondition, "is running, and must be locked"));
  EXPECT_THAT(port_->Unlock(processes), FailsWith(ErrorCode::kFailedPrecondition, "is running, and must be locked"));
  ASSERT_THAT(port_->Lock(processes, seconds(20)), IsOk());
  EXPECT_THAT(port_->Lock(processes, seconds(20)),
              FailsWith(ErrorCode::kFailedPrecondition, "is locked, and must be running"));
  EXPECT_THAT(port_->Restore(processes, Identity()), FailsWith(ErrorCode::kFailedPrecondition, "must be checkpointed"));
  ASSERT_THAT(port_->Unlock(processes), IsOk());
}

TEST_F(DriverCycleTest, AProcessInAPidNamespaceOfItsOwnMovesToo) {
  GPUMIG_NEEDS_ROOT();
  Job job({"unshare", "--pid", "--fork", "--kill-child"});
  const auto children = ReadTextFile(fmt::format("/proc/{0}/task/{0}/children", job.pid()));
  ASSERT_THAT(children, IsOk());
  const std::array<pid_t, 1> processes{std::stoi(*children)};
  const auto threads = port_->RestoreThreads(processes);
  ASSERT_THAT(threads, IsOk());
  EXPECT_TRUE(std::filesystem::exists(fmt::format("/proc/{}/task/{}", processes[0], threads->front())));
  BringToCheckpointed(processes);
  ASSERT_THAT(port_->Restore(processes, Elsewhere()), IsOk());
  ASSERT_THAT(port_->Unlock(processes), IsOk());
  EXPECT_EQ(job.Ask("step"), "ok");
}

}  // namespace
}  // namespace gpumig
