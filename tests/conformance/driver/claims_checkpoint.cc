// Claims: cuCheckpointProcess*, of a second process.
#include <unistd.h>

#include <cstring>
#include <vector>

#include "tests/conformance/driver/probe.h"

namespace conformance {
namespace {

constexpr unsigned kItems = 1 << 20;

// Checks that the memory at `base` counts up from `first`.
void ExpectCounting(Probe& probe, CUdeviceptr base, unsigned items, unsigned first) {
  std::vector<unsigned> back(items);
  EXPECT_CU(probe.cuda.cuMemcpyDtoH_v2(back.data(), base, std::size_t{items} * 4), CUDA_SUCCESS);
  bool same = true;
  for (unsigned i = 0; i < items; ++i) same &= back[i] == i + first;
  EXPECT_HOLDS(same);
}

// A second process with linear memory and a module, which adds 1 to it whenever it is told to.
void LinearTarget(Probe& probe, Partner& first) {
  probe.Begin();
  CUdeviceptr memory = probe.Memory(std::size_t{kItems} * 4);
  unsigned items = kItems;
  unsigned amount = 1;
  NEED_CU(probe.Launch(probe.Kernel("fill"), items, {&memory, &items}));
  NEED_CU(probe.cuda.cuCtxSynchronize());
  CUfunction add = probe.Kernel("add");
  pid_t pid = getpid();
  first.Send(&pid, sizeof(pid));
  for (unsigned round = 1;; ++round) {
    int go = 0;
    first.Receive(&go, sizeof(go));
    if (go == 0) return;
    EXPECT_CU(probe.Launch(add, items, {&memory, &items, &amount}), CUDA_SUCCESS);
    ExpectCounting(probe, memory, items, round);
    first.Send(&go, sizeof(go));
  }
}

CUresult Lock(Probe& probe, pid_t pid) {
  CUcheckpointLockArgs args{};
  args.timeoutMs = 10000;
  return probe.cuda.cuCheckpointProcessLock(pid, &args);
}

// The second process, and the calls, in one place.
class Target {
 public:
  Target(Probe& probe, const Partner::Body& body) : probe_(probe), partner_(probe, body) {
    NEED_FUNCTION(cuCheckpointProcessLock);
    partner_.Receive(&pid, sizeof(pid));
    NEED_CU(probe.cuda.cuInit(0));
  }
  void Step() {
    int go = 1;
    partner_.Send(&go, sizeof(go));
    partner_.Receive(&go, sizeof(go));
  }
  void End() {
    const int go = 0;
    partner_.Send(&go, sizeof(go));
    partner_.Join(probe_);
  }
  int State() {
    CUprocessState state{};
    Probe& probe = probe_;
    EXPECT_CU(probe.cuda.cuCheckpointProcessGetState(pid, &state), CUDA_SUCCESS);
    return static_cast<int>(state);
  }

  pid_t pid = 0;

 private:
  Probe& probe_;
  Partner partner_;
};

void StatesFollowTheCalls(Probe& probe) {
  auto& cuda = probe.cuda;
  Target target(probe, &LinearTarget);
  EXPECT_HOLDS(target.State() == CU_PROCESS_STATE_RUNNING);
  target.Step();
  EXPECT_CU(cuda.cuCheckpointProcessCheckpoint(target.pid, nullptr), CUDA_ERROR_ILLEGAL_STATE);
  EXPECT_CU(cuda.cuCheckpointProcessRestore(target.pid, nullptr), CUDA_ERROR_ILLEGAL_STATE);
  EXPECT_CU(cuda.cuCheckpointProcessUnlock(target.pid, nullptr), CUDA_ERROR_ILLEGAL_STATE);
  NEED_CU(Lock(probe, target.pid));
  EXPECT_HOLDS(target.State() == CU_PROCESS_STATE_LOCKED);
  EXPECT_CU(Lock(probe, target.pid), CUDA_ERROR_ILLEGAL_STATE);
  EXPECT_CU(cuda.cuCheckpointProcessRestore(target.pid, nullptr), CUDA_ERROR_ILLEGAL_STATE);
  EXPECT_CU(cuda.cuCheckpointProcessUnlock(target.pid, nullptr), CUDA_SUCCESS);
  target.Step();
  NEED_CU(Lock(probe, target.pid));
  NEED_CU(cuda.cuCheckpointProcessCheckpoint(target.pid, nullptr));
  EXPECT_HOLDS(target.State() == CU_PROCESS_STATE_CHECKPOINTED);
  EXPECT_CU(Lock(probe, target.pid), CUDA_ERROR_ILLEGAL_STATE);
  EXPECT_CU(cuda.cuCheckpointProcessCheckpoint(target.pid, nullptr), CUDA_ERROR_ILLEGAL_STATE);
  EXPECT_CU(cuda.cuCheckpointProcessUnlock(target.pid, nullptr), CUDA_ERROR_ILLEGAL_STATE);
  NEED_CU(cuda.cuCheckpointProcessRestore(target.pid, nullptr));
  EXPECT_HOLDS(target.State() == CU_PROCESS_STATE_LOCKED);
  NEED_CU(cuda.cuCheckpointProcessUnlock(target.pid, nullptr));
  target.Step();
  target.End();
}

void ReservedBytesMustBeZero(Probe& probe) {
  auto& cuda = probe.cuda;
  Target target(probe, &LinearTarget);
  CUcheckpointLockArgs lock{};
  lock.reserved1[6] = 1;
  EXPECT_CU(cuda.cuCheckpointProcessLock(target.pid, &lock), CUDA_ERROR_INVALID_VALUE);
  EXPECT_HOLDS(target.State() == CU_PROCESS_STATE_RUNNING);
  CUcheckpointRestoreArgs restore{};
  restore.gpuPairsCount = 1;
  EXPECT_CU(cuda.cuCheckpointProcessRestore(target.pid, &restore), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuCheckpointProcessGetState(target.pid, nullptr), CUDA_ERROR_INVALID_VALUE);
  target.End();
}

void ACheckpointedProcessHoldsNoDeviceMemory(Probe& probe) {
  auto& cuda = probe.cuda;
  Target target(probe, &LinearTarget);
  probe.Begin();
  std::size_t during = 0;
  std::size_t after = 0;
  std::size_t total = 0;
  NEED_CU(cuda.cuMemGetInfo_v2(&during, &total));
  NEED_CU(Lock(probe, target.pid));
  NEED_CU(cuda.cuCheckpointProcessCheckpoint(target.pid, nullptr));
  NEED_CU(cuda.cuMemGetInfo_v2(&after, &total));
  EXPECT_HOLDS(after >= during + std::size_t{kItems} * 4);
  NEED_CU(cuda.cuCheckpointProcessRestore(target.pid, nullptr));
  NEED_CU(cuda.cuCheckpointProcessUnlock(target.pid, nullptr));
  target.Step();
  target.End();
}

void ABusyProcessIsNotLockedInTimeInTheOtherProcess(Probe& probe, Partner& first) {
  probe.Begin();
  CUstream stream = nullptr;
  CUstream side = nullptr;
  NEED_CU(probe.cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  NEED_CU(probe.cuda.cuStreamCreate(&side, CU_STREAM_NON_BLOCKING));
  CUdeviceptr flag = probe.Memory(4);
  NEED_CU(probe.cuda.cuMemsetD32_v2(flag, 0, 1));
  NEED_CU(probe.Launch(probe.Kernel("spin"), 1, {&flag}, stream));
  pid_t pid = getpid();
  first.Send(&pid, sizeof(pid));
  int go = 0;
  first.Receive(&go, sizeof(go));
  EXPECT_CU(probe.cuda.cuMemsetD32Async(flag, 1, 1, side), CUDA_SUCCESS);
  EXPECT_CU(probe.cuda.cuCtxSynchronize(), CUDA_SUCCESS);
}

void ABusyProcessIsNotLockedInTime(Probe& probe) {
  auto& cuda = probe.cuda;
  Target target(probe, &ABusyProcessIsNotLockedInTimeInTheOtherProcess);
  CUcheckpointLockArgs args{};
  args.timeoutMs = 200;
  EXPECT_CU(cuda.cuCheckpointProcessLock(target.pid, &args), CUDA_ERROR_NOT_READY);
  EXPECT_HOLDS(target.State() == CU_PROCESS_STATE_RUNNING);
  target.End();
}

// Reservations with and without memory behind them, a hole, memory mapped twice, memory that nothing maps, read-only.
void MappedTarget(Probe& probe, Partner& first) {
  auto& cuda = probe.cuda;
  probe.Begin();
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  std::size_t g = 0;
  NEED_CU(cuda.cuMemGetAllocationGranularity(&g, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
  CUdeviceptr base = 0;
  CUdeviceptr alias = 0;
  CUdeviceptr empty = 0;
  CUmemGenericAllocationHandle one = 0;
  CUmemGenericAllocationHandle two = 0;
  CUmemGenericAllocationHandle apart = 0;
  NEED_CU(cuda.cuMemAddressReserve(&base, 8 * g, 0, 0, 0));
  NEED_CU(cuda.cuMemAddressReserve(&alias, 2 * g, 0, 0, 0));
  NEED_CU(cuda.cuMemAddressReserve(&empty, 2 * g, 0, 0, 0));
  NEED_CU(cuda.cuMemCreate(&one, g, &properties, 0));
  NEED_CU(cuda.cuMemCreate(&two, 2 * g, &properties, 0));
  NEED_CU(cuda.cuMemCreate(&apart, g, &properties, 0));
  NEED_CU(cuda.cuMemMap(base + g, 2 * g, 0, two, 0));
  NEED_CU(cuda.cuMemMap(base + 3 * g, g, 0, one, 0));
  NEED_CU(cuda.cuMemMap(alias, g, 0, one, 0));
  CUmemAccessDesc access{{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  NEED_CU(cuda.cuMemSetAccess(base + g, 3 * g, &access, 1));
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READ;
  NEED_CU(cuda.cuMemSetAccess(alias, g, &access, 1));
  NEED_CU(cuda.cuMemRelease(two));  // Its mapping keeps it.
  CUdeviceptr data = base + g;
  auto items = static_cast<unsigned>(3 * g / 4);
  unsigned amount = 1;
  CUfunction add = probe.Kernel("add");
  NEED_CU(probe.Launch(probe.Kernel("fill"), items, {&data, &items}));
  // What is in memory that is mapped nowhere must stay, too.
  NEED_CU(cuda.cuMemMap(empty, g, 0, apart, 0));
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  NEED_CU(cuda.cuMemSetAccess(empty, g, &access, 1));
  NEED_CU(cuda.cuMemsetD32_v2(empty + 400, 0x600df00d, 1));
  NEED_CU(cuda.cuMemUnmap(empty, g));
  pid_t pid = getpid();
  first.Send(&pid, sizeof(pid));
  for (unsigned round = 1;; ++round) {
    int go = 0;
    first.Receive(&go, sizeof(go));
    if (go == 0) break;
    EXPECT_CU(probe.Launch(add, items, {&data, &items, &amount}), CUDA_SUCCESS);
    ExpectCounting(probe, data, items, round);
    unsigned at_alias = 0;
    EXPECT_CU(cuda.cuMemcpyDtoH_v2(&at_alias, alias, 4), CUDA_SUCCESS);
    EXPECT_HOLDS(at_alias == 2 * g / 4 + round);
    EXPECT_CU(cuda.cuMemcpyDtoH_v2(&at_alias, base, 4), CUDA_ERROR_INVALID_VALUE);
    const CUmemLocation here{CU_MEM_LOCATION_TYPE_DEVICE, 0};
    unsigned long long flags = 0;
    EXPECT_CU(cuda.cuMemGetAccess(&flags, &here, alias), CUDA_SUCCESS);
    EXPECT_HOLDS(flags == CU_MEM_ACCESS_FLAGS_PROT_READ);
    first.Send(&go, sizeof(go));
  }
  // The handles are as good as before, too.
  unsigned value = 0;
  EXPECT_CU(cuda.cuMemMap(empty, g, 0, apart, 0), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemSetAccess(empty, g, &access, 1), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, empty + 400, 4), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 0x600df00d);
  CUmemGenericAllocationHandle again = 0;
  EXPECT_CU(cuda.cuMemRetainAllocationHandle(&again, reinterpret_cast<void*>(alias)), CUDA_SUCCESS);
  EXPECT_HOLDS(again == one);
  EXPECT_CU(cuda.cuMemRelease(one), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemRelease(one), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemUnmap(base + g, 3 * g), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemAddressFree(base, 8 * g), CUDA_SUCCESS);
}

void MappedMemorySurvives(Probe& probe) {
  auto& cuda = probe.cuda;
  Target target(probe, &MappedTarget);
  target.Step();
  for (int i = 0; i < 2; ++i) {
    NEED_CU(Lock(probe, target.pid));
    NEED_CU(cuda.cuCheckpointProcessCheckpoint(target.pid, nullptr));
    NEED_CU(cuda.cuCheckpointProcessRestore(target.pid, nullptr));
    NEED_CU(cuda.cuCheckpointProcessUnlock(target.pid, nullptr));
    target.Step();
  }
  target.End();
}

// Source: NVIDIA/cuda-checkpoint: memory shared between processes is not supported before driver 610.
void SharedMemoryIsRefusedInTheOtherProcess(Probe& probe, Partner& first) {
  probe.Begin();
  CUipcMemHandle handle{};
  NEED_CU(probe.cuda.cuIpcGetMemHandle(&handle, probe.Memory(1 << 20)));
  pid_t pid = getpid();
  first.Send(&pid, sizeof(pid));
  int go = 0;
  first.Receive(&go, sizeof(go));
}

void SharedMemoryIsRefused(Probe& probe) {
  auto& cuda = probe.cuda;
  Target target(probe, &SharedMemoryIsRefusedInTheOtherProcess);
  NEED_CU(Lock(probe, target.pid));
  EXPECT_CU(cuda.cuCheckpointProcessCheckpoint(target.pid, nullptr), CUDA_ERROR_NOT_SUPPORTED);
  target.End();
}

constexpr Claim kClaims[] = {
    {"StatesFollowTheCalls", "lock, checkpoint, restore, unlock: each in its state only, and the work goes on",
     &StatesFollowTheCalls},
    {"CheckpointReservedBytesMustBeZero", "reserved bytes and counts without pairs are INVALID_VALUE",
     &ReservedBytesMustBeZero},
    {"ACheckpointedProcessHoldsNoDeviceMemory", "a checkpoint frees the device memory",
     &ACheckpointedProcessHoldsNoDeviceMemory},
    {"ABusyProcessIsNotLockedInTime", "a lock whose time is over is NOT_READY, and leaves the process running",
     &ABusyProcessIsNotLockedInTime},
    {"MappedMemorySurvives", "reservations, mappings, access and handles are the same after a restore",
     &MappedMemorySurvives},
    {"SharedMemoryIsRefused", "a process that shares memory is not checkpointed", &SharedMemoryIsRefused},
};

}  // namespace

std::span<const Claim> CheckpointClaims() { return kClaims; }

}  // namespace conformance
