// cuCheckpointProcess*: every cell of the state table, moves from daemon to daemon, and what must not go wrong in them.
#include <dirent.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/plugins/softgpu/forbidden_calls.h"
#include "tests/plugins/softgpu/gpu_process.h"
#include "tests/plugins/softgpu/job.h"
#include "tests/plugins/softgpu/kernels.h"
#include "tests/plugins/softgpu/soft_node.h"
#include "tests/plugins/softgpu/stopped_threads.h"
#include "tests/support/needs.h"

namespace softgpu_test {
namespace {

CUuuid ToDriver(int number) {
  CUuuid uuid{};
  uuid.bytes[15] = static_cast<char>(number);
  return uuid;
}

CUcheckpointGpuPair Pair(int from, int to) { return {ToDriver(from), ToDriver(to)}; }

std::string Spec(int uuid, const std::string& memory = "64MiB", const std::string& chip = "Soft A") {
  return "memory=" + memory + ",chip=" + chip + ",uuid=" + TestUuid(uuid);
}

class SoftGpuCheckpointTest : public testing::Test {
 protected:
  SoftGpuCheckpointTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "softgpu-link-XXXXXX").string();
    directory_ = mkdtemp(pattern.data());
    socket_ = directory_ + "/softgpud.sock";
  }
  ~SoftGpuCheckpointTest() override { std::filesystem::remove_all(directory_); }

  // From now on, who dials socket_ gets this node.
  void PointAt(const SoftNode& node) {
    std::filesystem::create_symlink(node.socket(), socket_ + ".new");
    std::filesystem::rename(socket_ + ".new", socket_);
  }

  CUresult Lock(pid_t pid, unsigned timeout_ms = 60000) {
    CUcheckpointLockArgs args{};
    args.timeoutMs = timeout_ms;
    return cuda_.cuCheckpointProcessLock(pid, &args);
  }
  CUresult Checkpoint(pid_t pid) { return cuda_.cuCheckpointProcessCheckpoint(pid, nullptr); }
  CUresult Restore(pid_t pid, std::vector<CUcheckpointGpuPair> pairs = {}) {
    CUcheckpointRestoreArgs args{};
    args.gpuPairs = pairs.data();
    args.gpuPairsCount = static_cast<unsigned>(pairs.size());
    return cuda_.cuCheckpointProcessRestore(pid, &args);
  }
  CUresult Unlock(pid_t pid) { return cuda_.cuCheckpointProcessUnlock(pid, nullptr); }
  // -1: not to be had.
  int State(pid_t pid) {
    CUprocessState state{};
    return cuda_.cuCheckpointProcessGetState(pid, &state) == CUDA_SUCCESS ? static_cast<int>(state) : -1;
  }

  std::string directory_;
  std::string socket_;
  Driver cuda_ = OpenSoftDriver();  // The controller's: no cuInit.
};

std::uint64_t StepOf(GpuProcess& process) {
  process.link().Send(1);
  return process.link().Receive();
}

TEST_F(SoftGpuCheckpointTest, EveryCallGetsItsResultInEveryState) {
  SoftNode node({Spec(1)});
  PointAt(node);
  GpuProcess job(socket_, &RunJob);
  StepOf(job);
  const pid_t pid = job.pid();
  int tid = 0;
  const auto refuses_all_but = [&](int state, const std::string& allowed) {
    SCOPED_TRACE(state);
    EXPECT_EQ(State(pid), state);
    EXPECT_EQ(cuda_.cuCheckpointProcessGetRestoreThreadId(pid, &tid), CUDA_SUCCESS);
    if (allowed != "lock") {
      EXPECT_EQ(Lock(pid), CUDA_ERROR_ILLEGAL_STATE);
    }
    if (allowed != "locked") {
      EXPECT_EQ(Checkpoint(pid), CUDA_ERROR_ILLEGAL_STATE);
    }
    if (allowed != "restore") {
      EXPECT_EQ(Restore(pid), CUDA_ERROR_ILLEGAL_STATE);
    }
    if (allowed != "locked") {
      EXPECT_EQ(Unlock(pid), CUDA_ERROR_ILLEGAL_STATE);
    }
    EXPECT_EQ(State(pid), state);
  };
  refuses_all_but(CU_PROCESS_STATE_RUNNING, "lock");
  EXPECT_EQ(Lock(pid), CUDA_SUCCESS);
  refuses_all_but(CU_PROCESS_STATE_LOCKED, "locked");
  EXPECT_EQ(Unlock(pid), CUDA_SUCCESS);
  EXPECT_EQ(State(pid), CU_PROCESS_STATE_RUNNING);
  EXPECT_EQ(Lock(pid), CUDA_SUCCESS);
  EXPECT_EQ(Checkpoint(pid), CUDA_SUCCESS);
  refuses_all_but(CU_PROCESS_STATE_CHECKPOINTED, "restore");
  EXPECT_EQ(Restore(pid), CUDA_SUCCESS);
  EXPECT_EQ(State(pid), CU_PROCESS_STATE_LOCKED);
  EXPECT_EQ(Unlock(pid), CUDA_SUCCESS);
  EXPECT_EQ(State(pid), CU_PROCESS_STATE_RUNNING);
  StepOf(job);
  // A daemon that has gone has taken the state with it.
  node.Kill();
  EXPECT_EQ(Lock(pid), CUDA_ERROR_OPERATING_SYSTEM);
  refuses_all_but(CU_PROCESS_STATE_FAILED, "none");
}

TEST_F(SoftGpuCheckpointTest, AProcessWithoutCudaIsNotInitialized) {
  int tid = 0;
  CUprocessState state{};
  EXPECT_EQ(cuda_.cuCheckpointProcessGetState(getpid(), &state), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(cuda_.cuCheckpointProcessGetRestoreThreadId(getpid(), &tid), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(Lock(getpid()), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(Checkpoint(getpid()), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(Restore(getpid()), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(Unlock(getpid()), CUDA_ERROR_NOT_INITIALIZED);
  EXPECT_EQ(Lock(0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(Lock(-5), CUDA_ERROR_INVALID_VALUE);
  const pid_t gone = fork();
  if (gone == 0) _exit(0);
  waitpid(gone, nullptr, 0);
  EXPECT_EQ(Lock(gone), CUDA_ERROR_OPERATING_SYSTEM);
}

TEST_F(SoftGpuCheckpointTest, ReservedBytesMustBeZero) {
  SoftNode node({Spec(1)});
  PointAt(node);
  GpuProcess job(socket_, &RunJob);
  StepOf(job);
  const pid_t pid = job.pid();
  for (std::size_t i = sizeof(unsigned); i < sizeof(CUcheckpointLockArgs); ++i) {
    CUcheckpointLockArgs args{};
    reinterpret_cast<char*>(&args)[i] = 1;
    EXPECT_EQ(cuda_.cuCheckpointProcessLock(pid, &args), CUDA_ERROR_INVALID_VALUE) << i;
  }
  EXPECT_EQ(State(pid), CU_PROCESS_STATE_RUNNING);
  ASSERT_EQ(Lock(pid), CUDA_SUCCESS);
  for (std::size_t i = 0; i < sizeof(CUcheckpointCheckpointArgs); ++i) {
    CUcheckpointCheckpointArgs checkpoint{};
    reinterpret_cast<char*>(&checkpoint)[i] = 1;
    EXPECT_EQ(cuda_.cuCheckpointProcessCheckpoint(pid, &checkpoint), CUDA_ERROR_INVALID_VALUE) << i;
    CUcheckpointUnlockArgs unlock{};
    reinterpret_cast<char*>(&unlock)[i] = 1;
    EXPECT_EQ(cuda_.cuCheckpointProcessUnlock(pid, &unlock), CUDA_ERROR_INVALID_VALUE) << i;
  }
  EXPECT_EQ(State(pid), CU_PROCESS_STATE_LOCKED);
  ASSERT_EQ(Checkpoint(pid), CUDA_SUCCESS);
  for (std::size_t i = offsetof(CUcheckpointRestoreArgs, padding0); i < sizeof(CUcheckpointRestoreArgs); ++i) {
    CUcheckpointRestoreArgs args{};
    reinterpret_cast<char*>(&args)[i] = 1;
    EXPECT_EQ(cuda_.cuCheckpointProcessRestore(pid, &args), CUDA_ERROR_INVALID_VALUE) << i;
  }
  CUcheckpointRestoreArgs args{};
  args.gpuPairsCount = 1;
  EXPECT_EQ(cuda_.cuCheckpointProcessRestore(pid, &args), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(State(pid), CU_PROCESS_STATE_CHECKPOINTED);
}

// Bytes of private memory that a process has, in RAM or swapped out.
std::int64_t PrivateBytes(pid_t pid) {
  std::ifstream rollup("/proc/" + std::to_string(pid) + "/smaps_rollup");
  std::int64_t bytes = 0;
  for (std::string line; std::getline(rollup, line);) {
    if (line.starts_with("Anonymous:")) bytes += std::stoll(line.substr(10)) * 1024;
  }
  return bytes;
}

bool HasDeviceMapping(pid_t pid) {
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("softgpu-memory") != std::string::npos) return true;
  }
  return false;
}

TEST_F(SoftGpuCheckpointTest, AJobGoesOnOnAnotherDaemonAsIfNothingHadHappened) {
  const std::vector<std::uint64_t> expected = UndisturbedTrace(8, 2);
  SoftNode a({Spec(1), Spec(2)});
  SoftNode b({Spec(11), Spec(12), Spec(13)});
  PointAt(a);
  GpuProcess job(socket_, &RunJob);
  const pid_t pid = job.pid();
  std::vector<std::uint64_t> trace = {StepOf(job), StepOf(job)};
  for (int move = 0; move < 6; ++move) {
    SCOPED_TRACE(move);
    SoftNode& from = move % 2 == 0 ? a : b;
    SoftNode& to = move % 2 == 0 ? b : a;
    const std::int64_t before = PrivateBytes(pid);
    ASSERT_EQ(Lock(pid), CUDA_SUCCESS);
    ASSERT_EQ(Checkpoint(pid), CUDA_SUCCESS);
    EXPECT_EQ(from.used_bytes(), 0);
    EXPECT_EQ(from.session_count(), 0);
    EXPECT_FALSE(HasDeviceMapping(pid));
    EXPECT_GT(PrivateBytes(pid), before + 4 * 1000 * 1000);
    PointAt(to);
    // To b in another order, and leaving out one of its devices; back again from there.
    const std::vector<CUcheckpointGpuPair> pairs =
        move % 2 == 0 ? std::vector{Pair(1, 13), Pair(2, 11)} : std::vector{Pair(11, 2), Pair(13, 1)};
    ASSERT_EQ(Restore(pid, pairs), CUDA_SUCCESS);
    EXPECT_GT(to.used_bytes(), 4 << 20);
    EXPECT_LT(PrivateBytes(pid), before + 1000 * 1000);
    ASSERT_EQ(Unlock(pid), CUDA_SUCCESS);
    trace.push_back(StepOf(job));
  }
  EXPECT_EQ(trace, expected);
  job.link().Send(0);
  EXPECT_EQ(job.Wait(), 0);
}

TEST_F(SoftGpuCheckpointTest, UuidsChangeAndOrdinalsStay) {
  SoftNode a({Spec(1), Spec(2)});
  SoftNode b({Spec(11), Spec(12)});
  PointAt(a);
  GpuProcess job(socket_, [](Driver& cuda, Link& link) {
    CHECK_OK(cuda.cuInit(0));
    link.Send(0);
    link.Receive();
    for (int i = 0; i < 2; ++i) {
      CUuuid uuid;
      CHECK_OK(cuda.cuDeviceGetUuid_v2(&uuid, i));
      link.Send(static_cast<std::uint64_t>(uuid.bytes[15]));
    }
  });
  job.link().Receive();
  ASSERT_EQ(Lock(job.pid()), CUDA_SUCCESS);
  ASSERT_EQ(Checkpoint(job.pid()), CUDA_SUCCESS);
  PointAt(b);
  ASSERT_EQ(Restore(job.pid(), {Pair(1, 12), Pair(2, 11)}), CUDA_SUCCESS);
  ASSERT_EQ(Unlock(job.pid()), CUDA_SUCCESS);
  job.link().Send(1);
  EXPECT_EQ(job.link().Receive(), 12U);
  EXPECT_EQ(job.link().Receive(), 11U);
}

TEST_F(SoftGpuCheckpointTest, ABadMapOrTooSmallADeviceLeavesItCheckpointed) {
  const std::vector<std::uint64_t> expected = UndisturbedTrace(2, 2);
  SoftNode a({Spec(1), Spec(2)});
  SoftNode b({Spec(11), Spec(12), Spec(13, "64MiB", "Soft B"), Spec(14, "1MiB")});
  PointAt(a);
  GpuProcess job(socket_, &RunJob);
  const pid_t pid = job.pid();
  std::vector<std::uint64_t> trace = {StepOf(job)};
  ASSERT_EQ(Lock(pid), CUDA_SUCCESS);
  ASSERT_EQ(Checkpoint(pid), CUDA_SUCCESS);
  PointAt(b);
  const auto refused = [&](CUresult expected_result, std::vector<CUcheckpointGpuPair> pairs) {
    EXPECT_EQ(Restore(pid, std::move(pairs)), expected_result);
    EXPECT_EQ(State(pid), CU_PROCESS_STATE_CHECKPOINTED);
    EXPECT_EQ(b.used_bytes(), 0);
    EXPECT_EQ(b.session_count(), 0);
  };
  {
    SCOPED_TRACE("none given, and none of the same UUID");
    refused(CUDA_ERROR_INVALID_VALUE, {});
  }
  {
    SCOPED_TRACE("one left out");
    refused(CUDA_ERROR_INVALID_VALUE, {Pair(1, 11)});
  }
  {
    SCOPED_TRACE("one taken twice");
    refused(CUDA_ERROR_INVALID_VALUE, {Pair(1, 11), Pair(2, 11)});
  }
  {
    SCOPED_TRACE("one named twice");
    refused(CUDA_ERROR_INVALID_VALUE, {Pair(1, 11), Pair(1, 12), Pair(2, 12)});
  }
  {
    SCOPED_TRACE("not there");
    refused(CUDA_ERROR_INVALID_VALUE, {Pair(1, 11), Pair(2, 99)});
  }
  {
    SCOPED_TRACE("another chip");
    refused(CUDA_ERROR_INVALID_VALUE, {Pair(1, 11), Pair(2, 13)});
  }
  {
    SCOPED_TRACE("too small");
    refused(CUDA_ERROR_OUT_OF_MEMORY, {Pair(1, 14), Pair(2, 11)});
  }
  std::filesystem::remove(socket_);
  EXPECT_EQ(Restore(pid, {Pair(1, 11), Pair(2, 12)}), CUDA_ERROR_OPERATING_SYSTEM);
  EXPECT_EQ(State(pid), CU_PROCESS_STATE_CHECKPOINTED);
  PointAt(b);
  EXPECT_EQ(Restore(pid, {Pair(1, 11), Pair(2, 12)}), CUDA_SUCCESS);
  EXPECT_EQ(Unlock(pid), CUDA_SUCCESS);
  trace.push_back(StepOf(job));
  EXPECT_EQ(trace, expected);
}

// A device too small for all it had addresses for is big enough if what is used fits.
TEST_F(SoftGpuCheckpointTest, OnlyMemoryInUseMustFit) {
  SoftNode a({Spec(1, "1GiB")});
  SoftNode b({Spec(2, "8MiB")});
  PointAt(a);
  GpuProcess job(socket_, [](Driver& cuda, Link& link) {
    CUcontext context = nullptr;
    CHECK_OK(cuda.cuInit(0));
    CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
    CHECK_OK(cuda.cuCtxSetCurrent(context));
    CUdeviceptr low = 0;
    CUdeviceptr high = 0;
    CHECK_OK(cuda.cuMemAlloc_v2(&low, 900U << 20));
    CHECK_OK(cuda.cuMemAlloc_v2(&high, 1U << 20));
    CHECK_OK(cuda.cuMemsetD8_v2(high, 0x5a, 1U << 20));
    CHECK_OK(cuda.cuMemFree_v2(low));
    link.Send(0);
    link.Receive();
    unsigned value = 0;
    CHECK_OK(cuda.cuMemcpyDtoH_v2(&value, high + (1U << 20) - 4, 4));
    CHECK_THAT(value == 0x5a5a5a5a);
  });
  job.link().Receive();
  ASSERT_EQ(Lock(job.pid()), CUDA_SUCCESS);
  ASSERT_EQ(Checkpoint(job.pid()), CUDA_SUCCESS);
  PointAt(b);
  ASSERT_EQ(Restore(job.pid(), {Pair(1, 2)}), CUDA_SUCCESS);
  ASSERT_EQ(Unlock(job.pid()), CUDA_SUCCESS);
  job.link().Send(1);
  EXPECT_EQ(job.Wait(), 0);
}

TEST_F(SoftGpuCheckpointTest, CallsOfALockedProcessWaitForTheUnlock) {
  SoftNode node({Spec(1)});
  PointAt(node);
  GpuProcess job(socket_, &RunJob);
  StepOf(job);
  ASSERT_EQ(Lock(job.pid()), CUDA_SUCCESS);
  job.link().Send(1);
  EXPECT_FALSE(job.link().HasArrived(200));
  ASSERT_EQ(Checkpoint(job.pid()), CUDA_SUCCESS);
  EXPECT_FALSE(job.link().HasArrived(100));
  ASSERT_EQ(Restore(job.pid()), CUDA_SUCCESS);
  EXPECT_FALSE(job.link().HasArrived(100));
  ASSERT_EQ(Unlock(job.pid()), CUDA_SUCCESS);
  EXPECT_TRUE(job.link().HasArrived(60000));
}

// Starts a kernel that runs until a flag is set, and sets it when told.
void RunEndlessKernel(Driver& cuda, Link& link) {
  CUcontext context = nullptr;
  CUmodule module = nullptr;
  CUfunction spin = nullptr;
  CUstream stream = nullptr;
  CUstream other = nullptr;
  CUdeviceptr flag = 0;
  CHECK_OK(cuda.cuInit(0));
  CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
  CHECK_OK(cuda.cuCtxSetCurrent(context));
  CHECK_OK(cuda.cuModuleLoadData(&module, kKernels));
  CHECK_OK(cuda.cuModuleGetFunction(&spin, module, "spin"));
  CHECK_OK(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CHECK_OK(cuda.cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
  CHECK_OK(cuda.cuMemAlloc_v2(&flag, 4));
  void* parameters[] = {&flag};
  CHECK_OK(cuda.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, parameters, nullptr));
  link.Send(0);
  link.Receive();
  CHECK_OK(cuda.cuMemsetD32Async(flag, 1, 1, other));
  CHECK_OK(cuda.cuCtxSynchronize());
  link.Send(0);
  link.Receive();
}

TEST_F(SoftGpuCheckpointTest, ALockThatTimesOutLeavesTheProcessRunning) {
  SoftNode node({Spec(1)});
  PointAt(node);
  GpuProcess job(socket_, &RunEndlessKernel);
  job.link().Receive();
  for (int i = 0; i < 2; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(Lock(job.pid(), 200), CUDA_ERROR_NOT_READY);
    const auto passed = std::chrono::steady_clock::now() - begin;
    EXPECT_GE(passed, std::chrono::milliseconds(200));
    EXPECT_LT(passed, std::chrono::seconds(30));
    EXPECT_EQ(State(job.pid()), CU_PROCESS_STATE_RUNNING);
  }
  job.link().Send(1);  // It can still call the driver, and ends the kernel.
  job.link().Receive();
  EXPECT_EQ(Lock(job.pid()), CUDA_SUCCESS);
}

TEST_F(SoftGpuCheckpointTest, DeathOfTheOwnerEndsItsKernelAndFreesItsMemory) {
  SoftNode node({Spec(1)});
  PointAt(node);
  {
    GpuProcess job(socket_, &RunEndlessKernel);
    job.link().Receive();
    EXPECT_GT(node.used_bytes(), 0);
    job.Kill();
  }
  EXPECT_TRUE(node.WaitUntilUnused());
  // And while a lock without a limit waits for the kernel.
  GpuProcess job(socket_, &RunEndlessKernel);
  job.link().Receive();
  std::thread controller([&] { EXPECT_EQ(Lock(job.pid(), 0), CUDA_ERROR_OPERATING_SYSTEM); });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // Early or late, the outcome is the same.
  kill(job.pid(), SIGKILL);
  controller.join();
  EXPECT_TRUE(node.WaitUntilUnused());
}

TEST_F(SoftGpuCheckpointTest, AForkedChildHasNoCudaAndDoesNotDisturbItsParent) {
  SoftNode node({Spec(1)});
  PointAt(node);
  const std::vector<std::uint64_t> expected = UndisturbedTrace(3, 1);
  GpuProcess process(socket_, [](Driver& cuda, Link& link) {
    Job job(cuda);
    link.Send(job.Step());
    const pid_t child = fork();
    if (child == 0) {
      int count = 0;
      CHECK_RESULT(cuda.cuInit(0), CUDA_ERROR_NOT_INITIALIZED);
      CHECK_RESULT(cuda.cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
      CHECK_RESULT(cuda.cuCtxSynchronize(), CUDA_ERROR_NOT_INITIALIZED);
      pause();
      _exit(0);
    }
    link.Send(static_cast<std::uint64_t>(child));
    link.Send(job.Step());
    while (link.Receive() != 0) link.Send(job.Step());
  });
  std::vector<std::uint64_t> trace = {process.link().Receive()};
  const auto child = static_cast<pid_t>(process.link().Receive());
  trace.push_back(process.link().Receive());
  CUprocessState state{};
  EXPECT_EQ(cuda_.cuCheckpointProcessGetState(child, &state), CUDA_ERROR_NOT_INITIALIZED);
  ASSERT_EQ(Lock(process.pid()), CUDA_SUCCESS);
  ASSERT_EQ(Checkpoint(process.pid()), CUDA_SUCCESS);
  ASSERT_EQ(Restore(process.pid()), CUDA_SUCCESS);
  ASSERT_EQ(Unlock(process.pid()), CUDA_SUCCESS);
  trace.push_back(StepOf(process));
  EXPECT_EQ(trace, expected);
  process.Kill();
  kill(child, SIGKILL);
}

TEST_F(SoftGpuCheckpointTest, AForkedChildDoesNotKeepItsParentsSessionAlive) {
  SoftNode node({Spec(1)});
  PointAt(node);
  GpuProcess process(socket_, [](Driver& cuda, Link& link) {
    Job job(cuda);
    const pid_t child = fork();
    if (child == 0) {
      pause();
      _exit(0);
    }
    link.Send(static_cast<std::uint64_t>(child));
    link.Receive();
  });
  const auto child = static_cast<pid_t>(process.link().Receive());
  EXPECT_GT(node.used_bytes(), 0);
  process.Kill();
  EXPECT_TRUE(node.WaitUntilUnused());
  kill(child, SIGKILL);
}

TEST_F(SoftGpuCheckpointTest, TheRestoreThreadIsNamedAsTheControllerSeesIt) {
  GPUMIG_NEEDS_ROOT();
  SoftNode node({Spec(1)});
  PointAt(node);
  GpuProcess process(socket_, [](Driver& cuda, Link& link) {
    // The job is process 1 of a pid namespace of its own; we, outside, know its other number.
    CHECK_THAT(unshare(CLONE_NEWPID) == 0);
    const pid_t inner = fork();
    if (inner == 0) {
      CHECK_THAT(getpid() == 1);
      CHECK_OK(cuda.cuInit(0));
      link.Send(1);
      pause();
    }
    link.Receive();
    link.Send(static_cast<std::uint64_t>(inner));
    waitpid(inner, nullptr, 0);
  });
  ASSERT_EQ(process.link().Receive(), 1U);
  process.link().Send(1);
  const auto pid = static_cast<pid_t>(process.link().Receive());
  int tid = 0;
  ASSERT_EQ(cuda_.cuCheckpointProcessGetRestoreThreadId(pid, &tid), CUDA_SUCCESS);
  EXPECT_NE(tid, pid);
  EXPECT_TRUE(std::filesystem::exists("/proc/" + std::to_string(pid) + "/task/" + std::to_string(tid)));
  EXPECT_EQ(Lock(pid), CUDA_SUCCESS);
  EXPECT_EQ(Lock(tid), CUDA_ERROR_ILLEGAL_STATE);  // A thread stands for its process.
  kill(pid, SIGKILL);
}

TEST_F(SoftGpuCheckpointTest, WhoMayNotLookIntoTheProcessIsNotPermitted) {
  GPUMIG_NEEDS_ROOT();
  SoftNode node({Spec(1)});
  PointAt(node);
  GpuProcess job(socket_, &RunJob);
  StepOf(job);
  const pid_t stranger = fork();
  if (stranger == 0) {
    if (setgid(65534) != 0 || setuid(65534) != 0) _exit(1);
    CUprocessState state{};
    CHECK_RESULT(cuda_.cuCheckpointProcessGetState(job.pid(), &state), CUDA_ERROR_NOT_PERMITTED);
    CHECK_RESULT(cuda_.cuCheckpointProcessLock(job.pid(), nullptr), CUDA_ERROR_NOT_PERMITTED);
    _exit(0);
  }
  int status = 0;
  waitpid(stranger, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(State(job.pid()), CU_PROCESS_STATE_RUNNING);
}

// Threads that are in malloc, stdio and driver calls all the time, stopped at whatever instruction they are at: some
// hold locks. The restore thread must get through without any.
TEST_F(SoftGpuCheckpointTest, WorksWhileAllOtherThreadsAreStopped) {
  SoftNode a({Spec(1)});
  SoftNode b({Spec(2)});
  PointAt(a);
  GpuProcess process(socket_, [](Driver& cuda, Link& link) {
    Job job(cuda);
    CUcontext context = nullptr;
    CHECK_OK(cuda.cuCtxGetCurrent(&context));
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        CHECK_OK(cuda.cuCtxSetCurrent(context));
        CUdeviceptr own = 0;
        CHECK_OK(cuda.cuMemAlloc_v2(&own, 4096));
        for (unsigned i = 0; !stop; ++i) {
          if (t % 2 == 0) {
            unsigned back = 0;
            CHECK_OK(cuda.cuMemsetD32_v2(own, i, 1));
            CHECK_OK(cuda.cuMemcpyDtoH_v2(&back, own, 4));
            CHECK_THAT(back == i);
          }
          std::vector<char> heap(1 + i % 200000);
          heap.back() = 'x';
          char text[32];
          std::snprintf(text, sizeof(text), "%u", i);
          FILE* null = std::fopen("/dev/null", "w");
          std::fputs(text, null);
          std::fclose(null);
        }
      });
    }
    while (link.Receive() != 0) link.Send(job.Step());
    stop = true;
    for (std::thread& thread : threads) thread.join();
  });
  const std::vector<std::uint64_t> expected = UndisturbedTrace(11, 1);
  std::vector<std::uint64_t> trace = {StepOf(process)};
  for (int move = 0; move < 10; ++move) {
    SCOPED_TRACE(move);
    int tid = 0;
    ASSERT_EQ(cuda_.cuCheckpointProcessGetRestoreThreadId(process.pid(), &tid), CUDA_SUCCESS);
    ASSERT_EQ(Lock(process.pid()), CUDA_SUCCESS);
    {
      const StoppedThreads stopped(process.pid(), tid);
      ASSERT_EQ(stopped.count(), 5U);
      ASSERT_EQ(Checkpoint(process.pid()), CUDA_SUCCESS);
      PointAt(move % 2 == 0 ? b : a);
      ASSERT_EQ(Restore(process.pid(), {move % 2 == 0 ? Pair(1, 2) : Pair(2, 1)}), CUDA_SUCCESS);
      ASSERT_EQ(Unlock(process.pid()), CUDA_SUCCESS);
    }
    trace.push_back(StepOf(process));
  }
  EXPECT_EQ(trace, expected);
  process.link().Send(0);
  EXPECT_EQ(process.Wait(), 0);
}

// What the test above can only meet by chance: the restore thread takes no lock and no memory from the heap.
TEST_F(SoftGpuCheckpointTest, TheRestoreThreadUsesNeitherHeapNorLocks) {
  if (!CanForbidHeapAndLocks()) GTEST_SKIP() << "sanitizers have the heap and the locks to themselves";
  SoftNode a({Spec(1)});
  SoftNode b({Spec(2)});
  PointAt(a);
  GpuProcess process(socket_, [](Driver& cuda, Link& link) {
    Job job(cuda);
    int tid = 0;
    CHECK_OK(cuda.cuCheckpointProcessGetRestoreThreadId(getpid(), &tid));
    ForbidHeapAndLocks(tid);
    while (link.Receive() != 0) link.Send(job.Step());
  });
  StepOf(process);
  for (int move = 0; move < 4; ++move) {
    ASSERT_EQ(Lock(process.pid()), CUDA_SUCCESS);
    ASSERT_EQ(Checkpoint(process.pid()), CUDA_SUCCESS);
    ASSERT_EQ(Restore(process.pid(), {Pair(7, 8)}), CUDA_ERROR_INVALID_VALUE);
    PointAt(move % 2 == 0 ? b : a);
    ASSERT_EQ(Restore(process.pid(), {move % 2 == 0 ? Pair(1, 2) : Pair(2, 1)}), CUDA_SUCCESS);
    ASSERT_EQ(Unlock(process.pid()), CUDA_SUCCESS);
    StepOf(process);
  }
  process.link().Send(0);
  EXPECT_EQ(process.Wait(), 0);
}

// Pinned memory, host functions and the thread that serves them come through a move.
TEST_F(SoftGpuCheckpointTest, HostFunctionsGoOnAfterAMove) {
  SoftNode a({Spec(1)});
  SoftNode b({Spec(2)});
  PointAt(a);
  GpuProcess process(socket_, [](Driver& cuda, Link& link) {
    CUcontext context = nullptr;
    CUstream stream = nullptr;
    CHECK_OK(cuda.cuInit(0));
    CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
    CHECK_OK(cuda.cuCtxSetCurrent(context));
    CHECK_OK(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    std::uint64_t calls = 0;
    for (;;) {
      CHECK_OK(cuda.cuLaunchHostFunc(stream, [](void* p) { ++*static_cast<std::uint64_t*>(p); }, &calls));
      CHECK_OK(cuda.cuStreamSynchronize(stream));
      link.Send(calls);
      if (link.Receive() == 0) break;
    }
  });
  for (std::uint64_t move = 1; move < 10; ++move) {
    ASSERT_EQ(process.link().Receive(), move);
    ASSERT_EQ(Lock(process.pid()), CUDA_SUCCESS);
    ASSERT_EQ(Checkpoint(process.pid()), CUDA_SUCCESS);
    PointAt(move % 2 == 1 ? b : a);
    ASSERT_EQ(Restore(process.pid(), {move % 2 == 1 ? Pair(1, 2) : Pair(2, 1)}), CUDA_SUCCESS);
    ASSERT_EQ(Unlock(process.pid()), CUDA_SUCCESS);
    process.link().Send(move < 9 ? 1 : 0);
  }
  EXPECT_EQ(process.Wait(), 0);
}

// Mapped memory that adds 1 to itself at each step, and one more that is mapped nowhere.
void RunMappedJob(Driver& cuda, Link& link) {
  CUcontext context = nullptr;
  CHECK_OK(cuda.cuInit(0));
  CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
  CHECK_OK(cuda.cuCtxSetCurrent(context));
  CUmodule module = nullptr;
  CUfunction add = nullptr;
  CHECK_OK(cuda.cuModuleLoadData(&module, kKernels));
  CHECK_OK(cuda.cuModuleGetFunction(&add, module, "add"));
  constexpr std::size_t kGranule = std::size_t{2} << 20;
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  CUdeviceptr linear = 0;
  CUdeviceptr base = 0;
  CUmemGenericAllocationHandle pieces[3];
  CHECK_OK(cuda.cuMemAddressReserve(&base, 4 * kGranule, 0, 0, 0));
  for (auto& piece : pieces) CHECK_OK(cuda.cuMemCreate(&piece, kGranule, &properties, 0));
  CHECK_OK(cuda.cuMemAlloc_v2(&linear, 12345));
  CHECK_OK(cuda.cuMemMap(base + kGranule, kGranule, 0, pieces[2], 0));
  CHECK_OK(cuda.cuMemMap(base + 2 * kGranule, kGranule, 0, pieces[0], 0));
  const CUmemAccessDesc access{{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  CHECK_OK(cuda.cuMemSetAccess(base + kGranule, 2 * kGranule, &access, 1));
  CUdeviceptr data = base + kGranule;
  unsigned items = 2 * kGranule / 4;
  unsigned amount = 1;
  CHECK_OK(cuda.cuMemsetD32_v2(data, 5, items));
  std::vector<unsigned> back(items);
  void* parameters[] = {&data, &items, &amount};
  while (link.Receive() != 0) {
    CHECK_OK(cuda.cuLaunchKernel(add, items / 256, 1, 1, 256, 1, 1, 0, nullptr, parameters, nullptr));
    CHECK_OK(cuda.cuMemcpyDtoH_v2(back.data(), data, std::size_t{items} * 4));
    std::uint64_t sum = data + linear + pieces[1];
    for (const unsigned value : back) sum = sum * 31 + value;
    link.Send(sum);
  }
  unsigned ignored = 0;
  CHECK_RESULT(cuda.cuMemcpyDtoH_v2(&ignored, base, 4), CUDA_ERROR_INVALID_VALUE);
  CHECK_OK(cuda.cuMemRelease(pieces[1]));
  CHECK_OK(cuda.cuMemUnmap(data, 2 * kGranule));
  CHECK_OK(cuda.cuMemAddressFree(base, 4 * kGranule));
}

TEST_F(SoftGpuCheckpointTest, MappedMemoryMovesToAnotherDaemon) {
  SoftNode first({Spec(1)});
  SoftNode second({Spec(2), Spec(3)});
  PointAt(first);
  GpuProcess undisturbed(first.socket(), &RunMappedJob);
  GpuProcess job(socket_, &RunMappedJob);
  // Addresses differ from process to process, and handles need not: so both sums begin with a step of their own.
  std::uint64_t before[2] = {StepOf(job), StepOf(undisturbed)};
  PointAt(second);
  ASSERT_EQ(Lock(job.pid()), CUDA_SUCCESS);
  ASSERT_EQ(Checkpoint(job.pid()), CUDA_SUCCESS);
  ASSERT_EQ(Restore(job.pid(), {Pair(1, 3)}), CUDA_SUCCESS);
  ASSERT_EQ(Unlock(job.pid()), CUDA_SUCCESS);
  EXPECT_EQ(second.used_bytes(), (6 << 20) + 16384 + 4096);  // The last: a variable of the module.
  for (int i = 0; i < 3; ++i) {
    const std::uint64_t after[2] = {StepOf(job), StepOf(undisturbed)};
    EXPECT_EQ(after[0] - before[0], after[1] - before[1]);
    before[0] = after[0];
    before[1] = after[1];
  }
  job.link().Send(0);
  EXPECT_EQ(job.Wait(), 0);
  EXPECT_TRUE(second.WaitUntilUnused());
}

}  // namespace
}  // namespace softgpu_test
