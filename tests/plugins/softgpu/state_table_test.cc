// The state table of docs/software_gpu.md: each checkpoint call in each state, by a caller who may, by one who may not,
// and with bytes set that are reserved; and the ways into FAILED, time limits, and processes that end in a call.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/plugins/softgpu/gpu_process.h"
#include "tests/plugins/softgpu/soft_node.h"
#include "tests/support/needs.h"

namespace softgpu_test {
namespace {

constexpr unsigned kPlentyMs = 60'000;
constexpr unsigned kShortMs = 200;

enum Call : std::uint64_t {
  kGetState,
  kGetRestoreThreadId,
  kLock,
  kCheckpoint,
  kCheckpointCustom,
  kComplete,  // Of the operation that the same caller has begun on the process, if any.
  kRestore,
  kRestoreCustom,
  kUnlock,
  kCallCount,
  kShortLock = kCallCount,  // With kShortMs; kLock has kPlentyMs.
  kEndlessLock,
  kWrongArguments,  // The number of wrong arguments that were not refused with INVALID_VALUE.
};
constexpr std::array<const char*, kCallCount> kCallNames = {"GetState",   "GetRestoreThreadId", "Lock",
                                                            "Checkpoint", "Checkpoint custom",  "OperationComplete",
                                                            "Restore",    "Restore custom",     "Unlock"};

// A process without CUDA, then the states by the driver's numbers.
constexpr int kNoCuda = -1;
constexpr int kStateCount = 6;
constexpr int kRunning = CU_PROCESS_STATE_RUNNING;
constexpr int kLocked = CU_PROCESS_STATE_LOCKED;
constexpr int kCheckpointed = CU_PROCESS_STATE_CHECKPOINTED;
constexpr int kFailed = CU_PROCESS_STATE_FAILED;
constexpr int kCheckpointing = CU_PROCESS_STATE_CHECKPOINTING;
constexpr int kRestoring = CU_PROCESS_STATE_RESTORING;
constexpr const char* kStateNames[] = {"NoCuda", "Running",       "Locked",   "Checkpointed",
                                       "Failed", "Checkpointing", "Restoring"};

struct Cell {
  CUresult result;
  int after;
};

// What a call gives, and the state after it.
Cell Expected(Call call, int state) {
  if (call == kComplete) {
    if (state == kCheckpointing) return {CUDA_SUCCESS, kCheckpointed};
    if (state == kRestoring) return {CUDA_SUCCESS, kLocked};
    return {CUDA_ERROR_INVALID_HANDLE, state};
  }
  if (state == kNoCuda) return {CUDA_ERROR_NOT_INITIALIZED, state};
  if (call == kGetState || call == kGetRestoreThreadId) return {CUDA_SUCCESS, state};
  if (call == kLock && state == kRunning) return {CUDA_SUCCESS, kLocked};
  if (call == kCheckpoint && state == kLocked) return {CUDA_SUCCESS, kCheckpointed};
  if (call == kCheckpointCustom && state == kLocked) return {CUDA_SUCCESS, kCheckpointing};
  if (call == kRestore && state == kCheckpointed) return {CUDA_SUCCESS, kLocked};
  if (call == kRestoreCustom && state == kCheckpointed) return {CUDA_SUCCESS, kRestoring};
  if (call == kUnlock && state == kLocked) return {CUDA_SUCCESS, kRunning};
  return {CUDA_ERROR_ILLEGAL_STATE, state};
}

// Sets each byte of T that may not be set, one after the other, and counts the calls that do not refuse it.
template <typename T, typename Function>
std::uint64_t CountTaken(const std::vector<std::size_t>& meaningful, Function call) {
  std::uint64_t taken = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    bool skip = false;
    for (const std::size_t offset : meaningful) skip = skip || (i >= offset && i < offset + 8);
    if (skip) continue;
    for (const unsigned char value : {std::uint8_t{0x01}, std::uint8_t{0x80}}) {
      T args{};
      reinterpret_cast<unsigned char*>(&args)[i] = value;
      if (call(&args) != CUDA_ERROR_INVALID_VALUE) ++taken;
    }
  }
  return taken;
}

std::uint64_t CountWrongArgumentsTaken(Driver& cuda, pid_t pid) {
  std::uint64_t taken = 0;
  taken += CountTaken<CUcheckpointLockArgs>({}, [&](CUcheckpointLockArgs* args) {
    if (args->timeoutMs != 0) return CUDA_ERROR_INVALID_VALUE;  // A time limit, of four bytes.
    return cuda.cuCheckpointProcessLock(pid, args);
  });
  taken += CountTaken<CUcheckpointCheckpointArgs>(
      {offsetof(CUcheckpointCheckpointArgs, customStorageInfo_out)},
      [&](CUcheckpointCheckpointArgs* args) { return cuda.cuCheckpointProcessCheckpoint(pid, args); });
  CUcheckpointCustomStorageInfo* info = nullptr;
  taken += CountTaken<CUcheckpointCheckpointArgs>({offsetof(CUcheckpointCheckpointArgs, customStorageInfo_out)},
                                                  [&](CUcheckpointCheckpointArgs* args) {
                                                    args->customStorageInfo_out = &info;
                                                    return cuda.cuCheckpointProcessCheckpoint(pid, args);
                                                  });
  // gpuPairsCount without gpuPairs is as wrong as what is reserved.
  const std::vector<std::size_t> pointers = {offsetof(CUcheckpointRestoreArgs, gpuPairs),
                                             offsetof(CUcheckpointRestoreArgs, customStorageInfo_out)};
  taken += CountTaken<CUcheckpointRestoreArgs>(
      pointers, [&](CUcheckpointRestoreArgs* args) { return cuda.cuCheckpointProcessRestore(pid, args); });
  taken += CountTaken<CUcheckpointRestoreArgs>(pointers, [&](CUcheckpointRestoreArgs* args) {
    args->customStorageInfo_out = &info;
    return cuda.cuCheckpointProcessRestore(pid, args);
  });
  taken += CountTaken<CUcheckpointUnlockArgs>(
      {}, [&](CUcheckpointUnlockArgs* args) { return cuda.cuCheckpointProcessUnlock(pid, args); });
  if (cuda.cuCheckpointProcessGetState(pid, nullptr) != CUDA_ERROR_INVALID_VALUE) ++taken;
  if (cuda.cuCheckpointProcessGetRestoreThreadId(pid, nullptr) != CUDA_ERROR_INVALID_VALUE) ++taken;
  return taken;
}

CUresult DoLock(Driver& cuda, pid_t pid, unsigned timeout_ms) {
  CUcheckpointLockArgs args{};
  args.timeoutMs = timeout_ms;
  return cuda.cuCheckpointProcessLock(pid, &args);
}

// Makes calls as it is told: the call, the process; back comes the result, and for GetState the state after it.
void ServeCalls(Driver& cuda, Link& link) {
  std::map<pid_t, CUcheckpointOperationHandle> operations;
  for (;;) {
    const auto call = static_cast<Call>(link.Receive());
    const auto pid = static_cast<pid_t>(link.Receive());
    CUcheckpointCustomStorageInfo* info = nullptr;
    const auto begun = [&](CUresult result) {
      if (result == CUDA_SUCCESS) operations[pid] = info->handle;
      return result;
    };
    const auto serve = [&]() -> CUresult {
      CUcheckpointCheckpointArgs checkpoint{};
      CUcheckpointRestoreArgs restore{};
      checkpoint.customStorageInfo_out = &info;
      restore.customStorageInfo_out = &info;
      int tid = 0;
      CUprocessState state{};
      switch (call) {
        case kGetState:
          return cuda.cuCheckpointProcessGetState(pid, &state);
        case kGetRestoreThreadId:
          return cuda.cuCheckpointProcessGetRestoreThreadId(pid, &tid);
        case kLock:
          return DoLock(cuda, pid, kPlentyMs);
        case kShortLock:
          return DoLock(cuda, pid, kShortMs);
        case kEndlessLock:
          return cuda.cuCheckpointProcessLock(pid, nullptr);
        case kCheckpoint:
          return cuda.cuCheckpointProcessCheckpoint(pid, nullptr);
        case kCheckpointCustom:
          return begun(cuda.cuCheckpointProcessCheckpoint(pid, &checkpoint));
        case kComplete:
          return cuda.cuCheckpointOperationComplete(operations[pid]);
        case kRestore:
          return cuda.cuCheckpointProcessRestore(pid, nullptr);
        case kRestoreCustom:
          return begun(cuda.cuCheckpointProcessRestore(pid, &restore));
        case kUnlock:
          return cuda.cuCheckpointProcessUnlock(pid, nullptr);
        default:
          return static_cast<CUresult>(CountWrongArgumentsTaken(cuda, pid));
      }
    };
    link.Send(static_cast<std::uint64_t>(serve()));
  }
}

// As a caller that has all that custom storage asks for.
void ServeCallsOfOneWhoMay(Driver& cuda, Link& link) {
  CUcontext context = nullptr;
  CHECK_OK(cuda.cuInit(0));
  CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
  CHECK_OK(cuda.cuCtxSetCurrent(context));
  ServeCalls(cuda, link);
}

// The same, with another user's rights.
void ServeCallsOfAStranger(Driver& cuda, Link& link) {
  CUcontext context = nullptr;
  CHECK_OK(cuda.cuInit(0));
  CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
  CHECK_THAT(setgid(65534) == 0 && setuid(65534) == 0);
  ServeCalls(cuda, link);
}

void RunWithoutCuda(Driver&, Link& link) {
  link.Send(1);
  link.Receive();
}

// Device memory that must stay as it is: for each number, whether it has.
void RunWithMemory(Driver& cuda, Link& link) {
  CUcontext context = nullptr;
  CUdeviceptr memory = 0;
  CHECK_OK(cuda.cuInit(0));
  CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
  CHECK_OK(cuda.cuCtxSetCurrent(context));
  std::vector<unsigned> values(1 << 16);
  for (unsigned i = 0; i < values.size(); ++i) values[i] = i * 2654435761U;
  const std::size_t bytes = values.size() * sizeof(unsigned);
  CHECK_OK(cuda.cuMemAlloc_v2(&memory, bytes));
  CHECK_OK(cuda.cuMemcpyHtoD_v2(memory, values.data(), bytes));
  link.Send(1);
  while (link.Receive() != 0) {
    std::vector<unsigned> back(values.size());
    const CUresult copied = cuda.cuMemcpyDtoH_v2(back.data(), memory, bytes);
    link.Send(copied == CUDA_SUCCESS && back == values ? 1 : 0);
  }
}

class Caller {
 public:
  Caller(const SoftNode& node, GpuProcess::Body body) : process_(node.socket(), std::move(body)) {}
  CUresult Do(Call call, pid_t pid) {
    Begin(call, pid);
    return End();
  }
  void Begin(Call call, pid_t pid) {
    process_.link().Send(call);
    process_.link().Send(static_cast<std::uint64_t>(pid));
  }
  CUresult End() { return static_cast<CUresult>(process_.link().Receive()); }

 private:
  GpuProcess process_;
};

class StateTableTest : public testing::Test {
 protected:
  void UseNode(const std::string& more = "") {
    node_ = std::make_unique<SoftNode>(std::vector<std::string>{"memory=512MiB,uuid=" + TestUuid(1) + more},
                                       std::vector<std::string>{"--driver-version", "13040"});
    caller_ = std::make_unique<Caller>(*node_, &ServeCallsOfOneWhoMay);
  }
  std::unique_ptr<GpuProcess> Start(const GpuProcess::Body& body = &RunWithMemory, const std::string& visible = "") {
    auto process = std::make_unique<GpuProcess>(node_->socket(), body, visible);
    process->link().Receive();
    return process;
  }
  CUresult Do(Call call, const GpuProcess& process) { return caller_->Do(call, process.pid()); }
  int State(const GpuProcess& process) {
    CUprocessState state{};
    const CUresult result = cuda_.cuCheckpointProcessGetState(process.pid(), &state);
    if (result == CUDA_ERROR_NOT_INITIALIZED) return kNoCuda;
    EXPECT_EQ(result, CUDA_SUCCESS);
    return static_cast<int>(state);
  }
  std::unique_ptr<GpuProcess> StartIn(int state) {
    if (state == kNoCuda) return Start(&RunWithoutCuda);
    auto process = Start();
    if (state != kRunning) {
      EXPECT_EQ(Do(kLock, *process), CUDA_SUCCESS);
    }
    if (state == kCheckpointed) {
      EXPECT_EQ(Do(kCheckpoint, *process), CUDA_SUCCESS);
    }
    if (state == kFailed) {
      node_->Ctl("fault set F2");
      EXPECT_EQ(Do(kCheckpoint, *process), CUDA_ERROR_NOT_SUPPORTED);
      node_->Ctl("fault clear F2");
    }
    if (state == kCheckpointing || state == kRestoring) {
      EXPECT_EQ(Do(kCheckpointCustom, *process), CUDA_SUCCESS);
    }
    if (state == kRestoring) {
      EXPECT_EQ(Do(kComplete, *process), CUDA_SUCCESS);
      EXPECT_EQ(Do(kRestoreCustom, *process), CUDA_SUCCESS);
    }
    EXPECT_EQ(State(*process), state);
    return process;
  }
  static bool HasItsMemory(GpuProcess& process) {
    process.link().Send(1);
    return process.link().Receive() == 1;
  }

  std::unique_ptr<SoftNode> node_;
  std::unique_ptr<Caller> caller_;
  Driver cuda_ = OpenSoftDriver();  // Of a caller without cuInit.
};

// One column of the table.
class StateTableColumnTest : public StateTableTest, public testing::WithParamInterface<int> {};

TEST_P(StateTableColumnTest, EachCallGivesWhatTheTableSaysAndLeadsThere) {
  UseNode();
  for (std::uint64_t call = 0; call < kCallCount; ++call) {
    SCOPED_TRACE(kCallNames[call]);
    const auto process = StartIn(GetParam());
    const Cell expected = Expected(static_cast<Call>(call), GetParam());
    EXPECT_EQ(Do(static_cast<Call>(call), *process), expected.result);
    EXPECT_EQ(State(*process), expected.after);
    // What did not go through custom storage is there again.
    if (expected.after == kLocked && GetParam() != kRestoring) {
      EXPECT_EQ(Do(kUnlock, *process), CUDA_SUCCESS);
    }
    if (State(*process) == kRunning) {
      EXPECT_TRUE(HasItsMemory(*process));
    }
  }
}

TEST_P(StateTableColumnTest, ACallOfAnotherUserIsRefusedAndChangesNothing) {
  GPUMIG_NEEDS_ROOT();
  UseNode();
  Caller stranger(*node_, &ServeCallsOfAStranger);
  const auto process = StartIn(GetParam());
  for (std::uint64_t call = 0; call < kCallCount; ++call) {
    SCOPED_TRACE(kCallNames[call]);
    CUresult expected = CUDA_ERROR_NOT_PERMITTED;
    // As NVIDIA's driver refuses custom storage to who lacks CAP_SYS_PTRACE.
    if (call == kCheckpointCustom || call == kRestoreCustom) expected = CUDA_ERROR_OPERATING_SYSTEM;
    if (call == kComplete) expected = CUDA_ERROR_INVALID_HANDLE;
    EXPECT_EQ(stranger.Do(static_cast<Call>(call), process->pid()), expected);
    EXPECT_EQ(State(*process), GetParam());
  }
}

TEST_P(StateTableColumnTest, ReservedBytesAreRefusedAndChangeNothing) {
  UseNode();
  const auto process = StartIn(GetParam());
  EXPECT_EQ(Do(kWrongArguments, *process), 0U);
  EXPECT_EQ(State(*process), GetParam());
}

INSTANTIATE_TEST_SUITE_P(State, StateTableColumnTest, testing::Range(kNoCuda, kStateCount),
                         [](const auto& column) { return std::string(kStateNames[column.param + 1]); });

TEST_F(StateTableTest, AProcessThatIsGoneIsAnErrorOfTheOperatingSystemToEachCall) {
  UseNode();
  const auto process = Start();
  const pid_t pid = process->pid();
  process->Kill();
  for (std::uint64_t call = 0; call < kCallCount; ++call) {
    if (call == kComplete) continue;
    EXPECT_EQ(caller_->Do(static_cast<Call>(call), pid), CUDA_ERROR_OPERATING_SYSTEM) << kCallNames[call];
    EXPECT_EQ(caller_->Do(static_cast<Call>(call), 0), CUDA_ERROR_INVALID_VALUE) << kCallNames[call];
    EXPECT_EQ(caller_->Do(static_cast<Call>(call), -1), CUDA_ERROR_INVALID_VALUE) << kCallNames[call];
  }
}

// Its device memory is gone with the daemon: nothing that can be saved is left.
TEST_F(StateTableTest, AProcessWhoseDaemonIsGoneFails) {
  for (const Call call : {kLock, kCheckpoint}) {
    SCOPED_TRACE(kCallNames[call]);
    UseNode();
    const auto process = StartIn(call == kLock ? kRunning : kLocked);
    node_->Kill();
    // Not by the caller, who has lost its own driver.
    EXPECT_EQ(call == kLock ? DoLock(cuda_, process->pid(), kPlentyMs)
                            : cuda_.cuCheckpointProcessCheckpoint(process->pid(), nullptr),
              CUDA_ERROR_OPERATING_SYSTEM);
    EXPECT_EQ(State(*process), kFailed);
    EXPECT_FALSE(HasItsMemory(*process));  // The gate is open: it finds out.
  }
}

TEST_F(StateTableTest, AProcessThatSharesMemoryFails) {
  UseNode();
  const auto process = Start([](Driver& cuda, Link& link) {
    CUcontext context = nullptr;
    CUdeviceptr memory = 0;
    CUipcMemHandle handle{};
    CHECK_OK(cuda.cuInit(0));
    CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
    CHECK_OK(cuda.cuCtxSetCurrent(context));
    CHECK_OK(cuda.cuMemAlloc_v2(&memory, 1 << 20));
    CHECK_OK(cuda.cuIpcGetMemHandle(&handle, memory));
    link.Send(1);
    link.Receive();
  });
  EXPECT_EQ(Do(kLock, *process), CUDA_SUCCESS);
  EXPECT_EQ(Do(kCheckpoint, *process), CUDA_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(State(*process), kFailed);
}

// What a driver cannot save into host memory it cannot save elsewhere either; but that takes no host memory.
TEST_F(StateTableTest, FaultsOfACheckpointShowInOneIntoCustomStorageToo) {
  const auto expect = [&](const std::string& fault, CUresult result, int after) {
    SCOPED_TRACE(fault);
    const auto process = Start(&RunWithMemory, "0");
    EXPECT_EQ(Do(kLock, *process), CUDA_SUCCESS);
    node_->Ctl("fault set " + fault);
    EXPECT_EQ(Do(kCheckpointCustom, *process), result);
    EXPECT_EQ(State(*process), after);
    node_->Ctl("fault clear " + fault);
  };
  UseNode();
  expect("F2", CUDA_ERROR_NOT_SUPPORTED, kFailed);
  expect("F11", CUDA_SUCCESS, kCheckpointing);
  expect("F15", CUDA_ERROR_NOT_SUPPORTED, kLocked);
  unsetenv("CUDA_CHECKPOINT_JOB_FILE");
  expect("F16", CUDA_ERROR_NOT_SUPPORTED, kLocked);
  UseNode(",mig=2");
  expect("F6", CUDA_ERROR_OUT_OF_MEMORY, kLocked);
}

// One that does not run at all does not take the lock later either, when its caller has long given up.
TEST_F(StateTableTest, ALockOfAStoppedProcessTimesOutAndIsNotTakenLater) {
  UseNode();
  const auto process = Start();
  ASSERT_EQ(kill(process->pid(), SIGSTOP), 0);
  int status = 0;
  ASSERT_EQ(waitpid(process->pid(), &status, WUNTRACED), process->pid());  // All its threads have come to a stop.
  EXPECT_EQ(Do(kShortLock, *process), CUDA_ERROR_NOT_READY);
  ASSERT_EQ(kill(process->pid(), SIGCONT), 0);
  EXPECT_TRUE(HasItsMemory(*process));
  EXPECT_EQ(Do(kUnlock, *process), CUDA_ERROR_ILLEGAL_STATE);
  EXPECT_EQ(State(*process), kRunning);
  EXPECT_EQ(Do(kLock, *process), CUDA_SUCCESS);
}

TEST_F(StateTableTest, ALockBehindOneThatNeverDrainsTimesOut) {
  UseNode();
  Caller other(*node_, &ServeCalls);
  auto process = Start();
  node_->Ctl("fault set F13");
  other.Begin(kEndlessLock, process->pid());
  EXPECT_EQ(Do(kShortLock, *process), CUDA_ERROR_NOT_READY);
  EXPECT_EQ(State(*process), kRunning);
  process->Kill();
  EXPECT_EQ(other.End(), CUDA_ERROR_OPERATING_SYSTEM);
}

// So much memory that to move it takes half a minute at the throttled rate, made on the device in no time.
constexpr std::size_t kBulkBytes = std::size_t{64} << 20;

void RunWithBulk(Driver& cuda, Link& link) {
  CUcontext context = nullptr;
  CUdeviceptr memory = 0;
  CHECK_OK(cuda.cuInit(0));
  CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
  CHECK_OK(cuda.cuCtxSetCurrent(context));
  CHECK_OK(cuda.cuMemAlloc_v2(&memory, kBulkBytes));
  CHECK_OK(cuda.cuMemsetD8_v2(memory, 0x5a, kBulkBytes));
  link.Send(1);
  link.Receive();
}

TEST_F(StateTableTest, AProcessThatIsKilledInACallIsAnErrorOfTheOperatingSystem) {
  // Early or late, as long as the call would take much longer.
  const auto killed_in = [&](Call call, GpuProcess& process) {
    SCOPED_TRACE(kCallNames[call]);
    caller_->Begin(call, process.pid());
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    process.Kill();
    EXPECT_EQ(caller_->End(), CUDA_ERROR_OPERATING_SYSTEM);
  };
  UseNode();
  SoftNode fast({"memory=512MiB,uuid=" + TestUuid(1)});
  SoftNode slow({"memory=512MiB,copy=2MiB,uuid=" + TestUuid(1)});
  std::string pattern = (std::filesystem::temp_directory_path() / "softgpu-link-XXXXXX").string();
  const std::filesystem::path directory = mkdtemp(pattern.data());
  const std::filesystem::path link = directory / "softgpud.sock";
  const auto start_on = [&](const SoftNode& node) {
    std::filesystem::remove(link);
    std::filesystem::create_symlink(node.socket(), link);
    auto process = std::make_unique<GpuProcess>(link, &RunWithBulk);
    process->link().Receive();
    return process;
  };

  auto process = start_on(fast);
  fast.Ctl("fault set F13");
  killed_in(kLock, *process);
  fast.Ctl("fault clear F13");

  process = start_on(slow);
  EXPECT_EQ(Do(kLock, *process), CUDA_SUCCESS);
  killed_in(kCheckpoint, *process);

  process = start_on(fast);
  EXPECT_EQ(Do(kLock, *process), CUDA_SUCCESS);
  EXPECT_EQ(Do(kCheckpoint, *process), CUDA_SUCCESS);
  std::filesystem::remove(link);
  std::filesystem::create_symlink(slow.socket(), link);
  killed_in(kRestore, *process);
  std::filesystem::remove_all(directory);
  EXPECT_TRUE(fast.WaitUntilUnused());
  EXPECT_TRUE(slow.WaitUntilUnused());
}

}  // namespace
}  // namespace softgpu_test
