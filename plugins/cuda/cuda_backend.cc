#include "plugins/cuda/cuda_backend.h"

#include <algorithm>
#include <array>
#include <limits>

#include "core/base/check.h"
#include "plugins/cuda/cuda_error.h"
#include "plugins/cuda/cuda_regions.h"
#include "plugins/cuda/cuda_uuid.h"

namespace gpumig {
namespace {

using cuda_abi::CUDA_SUCCESS;
using cuda_abi::CUresult;

// The first driver whose restore takes a map. Source: cuda-checkpoint issue 35.
constexpr int kGpuPairsVersion = 13000;

// Far above any host; the count comes from a library that we do not trust with our memory.
constexpr int kMostGpus = 256;

}  // namespace

CudaBackend::CudaBackend(CudaLibrary library, std::unique_ptr<NvmlMemory> nvml)
    : library_(std::move(library)), cuda_(library_.functions()), nvml_(std::move(nvml)) {}

Result<void> CudaBackend::Checked(CUresult result, std::string_view call) const {
  if (result == CUDA_SUCCESS) return Ok();
  return CudaCheckpointError(cuda_, result, call);
}

std::string CudaBackend::Describe() {
  return fmt::format("CUDA {}.{} driver, {}", library_.version() / 1000, library_.version() % 1000 / 10,
                     library_.path());
}

Result<std::vector<GpuFacts>> CudaBackend::Devices() {
  int count = 0;
  GPUMIG_TRY(Checked(cuda_.device_get_count(&count), "cuDeviceGetCount"));
  if (count < 0 || count > kMostGpus) return MakeError(ErrorCode::kInternal, "the driver claims {} GPUs", count);
  std::vector<GpuFacts> gpus;
  for (int ordinal = 0; ordinal < count; ++ordinal) gpus.push_back(GPUMIG_TRY(Facts(ordinal), "GPU {}", ordinal));
  return gpus;
}

Result<GpuFacts> CudaBackend::Facts(int ordinal) {
  cuda_abi::CUdevice device = 0;
  GPUMIG_TRY(Checked(cuda_.device_get(&device, ordinal), "cuDeviceGet"));
  std::array<char, 256> name{};
  std::array<char, 32> bus_id{};
  cuda_abi::CUuuid uuid{};
  std::size_t total = 0;
  GPUMIG_TRY(Checked(cuda_.device_get_name(name.data(), static_cast<int>(name.size()) - 1, device), "cuDeviceGetName"));
  GPUMIG_TRY(Checked(cuda_.device_get_uuid(&uuid, device), "cuDeviceGetUuid"));
  GPUMIG_TRY(Checked(cuda_.device_get_pci_bus_id(bus_id.data(), static_cast<int>(bus_id.size()) - 1, device),
                     "cuDeviceGetPCIBusId"));
  GPUMIG_TRY(Checked(cuda_.device_total_mem(&total, device), "cuDeviceTotalMem"));
  GpuFacts facts;
  facts.uuid = FormatCudaUuid(uuid);
  facts.chip = name.data();
  facts.pci_bus_id = bus_id.data();
  facts.total_bytes = total;
  int node = -1;
  if (cuda_.device_get_attribute != nullptr &&
      cuda_.device_get_attribute(&node, cuda_abi::CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, device) == CUDA_SUCCESS) {
    facts.numa_node = node;
  }
  facts.free_bytes = GPUMIG_TRY(FreeBytes(facts.uuid, device));
  return facts;
}

Result<std::uint64_t> CudaBackend::FreeBytes(const std::string& uuid, cuda_abi::CUdevice device) {
  if (nvml_ != nullptr) {
    if (const std::optional<std::uint64_t> free_bytes = nvml_->FreeBytes(uuid)) return *free_bytes;
  }
  cuda_abi::CUcontext context = nullptr;
  const CUresult retained = cuda_.primary_context_retain(&context, device);
  // A GPU that is too full for a context has nothing free that anybody could use.
  if (retained == cuda_abi::CUDA_ERROR_OUT_OF_MEMORY) return std::uint64_t{0};
  GPUMIG_TRY(Checked(retained, "cuDevicePrimaryCtxRetain"));
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  CUresult result = cuda_.context_push(context);
  if (result == CUDA_SUCCESS) {
    result = cuda_.mem_get_info(&free_bytes, &total_bytes);
    cuda_abi::CUcontext popped = nullptr;
    cuda_.context_pop(&popped);
  }
  cuda_.primary_context_release(device);
  GPUMIG_TRY(Checked(result, "cuMemGetInfo"));
  return std::uint64_t{free_bytes};
}

std::optional<std::uint64_t> CudaBackend::HeldBytes(pid_t process) {
  if (cuda_.process_memory != nullptr) {
    unsigned long long bytes = 0;
    if (cuda_.process_memory(process, &bytes) != CUDA_SUCCESS) return std::nullopt;
    return bytes;
  }
  return nvml_ != nullptr ? nvml_->HeldBytes(process) : std::nullopt;
}

Result<GpuState> CudaBackend::State(pid_t process) {
  auto state = static_cast<cuda_abi::CUprocessState>(~0u);
  const CUresult result = cuda_.checkpoint_get_state(process, &state);
  if (result == cuda_abi::CUDA_ERROR_NOT_INITIALIZED) return GpuState::kNone;
  GPUMIG_TRY(Checked(result, "cuCheckpointProcessGetState"));
  switch (state) {
    case cuda_abi::CU_PROCESS_STATE_RUNNING:
      return GpuState::kRunning;
    case cuda_abi::CU_PROCESS_STATE_LOCKED:
      return GpuState::kLocked;
    case cuda_abi::CU_PROCESS_STATE_CHECKPOINTED:
      return GpuState::kCheckpointed;
    case cuda_abi::CU_PROCESS_STATE_FAILED:
      return GpuState::kFailed;
    case cuda_abi::CU_PROCESS_STATE_CHECKPOINTING:
    case cuda_abi::CU_PROCESS_STATE_RESTORING:
      break;
  }
  // CUDA 13.4 adds 4 and 5, for captures that another program has begun.
  return MakeError(ErrorCode::kFailedPrecondition,
                   "the driver reports state {}: another program is capturing the process",
                   static_cast<unsigned>(state));
}

Result<void> CudaBackend::Lock(pid_t process, std::chrono::milliseconds limit) {
  GPUMIG_CHECK(limit > std::chrono::milliseconds(0));
  cuda_abi::CUcheckpointLockArgs arguments{};
  constexpr std::int64_t kMost = std::numeric_limits<unsigned>::max();
  arguments.timeoutMs = static_cast<unsigned>(std::min<std::int64_t>(limit.count(), kMost));
  return Checked(cuda_.checkpoint_lock(process, &arguments),
                 fmt::format("cuCheckpointProcessLock within {} ms", limit.count()));
}

Result<void> CudaBackend::Checkpoint(pid_t process) {
  cuda_abi::CUcheckpointCheckpointArgs arguments{};
  return Checked(cuda_.checkpoint_checkpoint(process, &arguments), "cuCheckpointProcessCheckpoint");
}

Result<std::vector<cuda_abi::CUcheckpointGpuPair>> CudaBackend::Pairs(std::span<const GpuPair> map) {
  std::vector<cuda_abi::CUcheckpointGpuPair> pairs;
  for (const GpuPair& pair : map) {
    pairs.push_back({GPUMIG_TRY(ParseCudaUuid(pair.old_uuid)), GPUMIG_TRY(ParseCudaUuid(pair.new_uuid))});
  }
  return pairs;
}

Result<void> CudaBackend::Restore(pid_t process, std::span<const GpuPair> map) {
  std::vector<cuda_abi::CUcheckpointGpuPair> pairs = GPUMIG_TRY(Pairs(map));
  const bool in_place = std::ranges::all_of(map, [](const GpuPair& pair) { return pair.old_uuid == pair.new_uuid; });
  cuda_abi::CUcheckpointRestoreArgs arguments{};
  if (library_.version() >= kGpuPairsVersion) {
    arguments.gpuPairs = pairs.data();
    arguments.gpuPairsCount = static_cast<unsigned>(pairs.size());
  } else if (!in_place) {
    return MakeError(ErrorCode::kUnsupported,
                     "this driver restores onto the same GPUs only; others need driver 580 or newer");
  }
  CUresult result = cuda_.checkpoint_restore(process, &arguments);
  if (result == cuda_abi::CUDA_ERROR_INVALID_VALUE && in_place && arguments.gpuPairsCount > 0) {
    // Some drivers refuse every map for a process that did not see all GPUs, also one that moves nothing. Source:
    // cuda-checkpoint issues 35 and 46. Without a map state goes back to where it was.
    arguments = {};
    result = cuda_.checkpoint_restore(process, &arguments);
  }
  return Checked(result, "cuCheckpointProcessRestore");
}

Result<void> CudaBackend::Unlock(pid_t process) {
  cuda_abi::CUcheckpointUnlockArgs arguments{};
  return Checked(cuda_.checkpoint_unlock(process, &arguments), "cuCheckpointProcessUnlock");
}

Result<pid_t> CudaBackend::RestoreThread(pid_t process) {
  int thread = 0;
  GPUMIG_TRY(
      Checked(cuda_.checkpoint_get_restore_thread_id(process, &thread), "cuCheckpointProcessGetRestoreThreadId"));
  return thread;
}

Result<void> CudaBackend::CheckLends() const {
  const bool lends = cuda_.checkpoint_operation_complete != nullptr && cuda_.copy_to_host != nullptr &&
                     cuda_.copy_to_device != nullptr && cuda_.stream_synchronize != nullptr;
  if (lends) return Ok();
  return MakeError(ErrorCode::kUnsupported,
                   "this driver ({}.{}) does not lend device memory of other processes; CUDA 13.4 does",
                   library_.version() / 1000, library_.version() % 1000 / 10);
}

Result<std::unique_ptr<DeviceRegions>> CudaBackend::BeginCapture(pid_t process) {
  GPUMIG_TRY(CheckLends());
  HeldContexts contexts = GPUMIG_TRY(HeldContexts::Retain(cuda_));
  cuda_abi::CUcheckpointCustomStorageInfo* info = nullptr;
  cuda_abi::CUcheckpointCheckpointArgs arguments{};
  arguments.customStorageInfo_out = &info;
  GPUMIG_TRY(Checked(cuda_.checkpoint_checkpoint(process, &arguments), "cuCheckpointProcessCheckpoint"));
  return std::unique_ptr<DeviceRegions>(std::make_unique<CudaRegions>(cuda_, std::move(contexts), *info));
}

Result<std::unique_ptr<DeviceRegions>> CudaBackend::BeginRestore(pid_t process, std::span<const GpuPair> map) {
  GPUMIG_TRY(CheckLends());
  HeldContexts contexts = GPUMIG_TRY(HeldContexts::Retain(cuda_));
  std::vector<cuda_abi::CUcheckpointGpuPair> pairs = GPUMIG_TRY(Pairs(map));
  cuda_abi::CUcheckpointCustomStorageInfo* info = nullptr;
  cuda_abi::CUcheckpointRestoreArgs arguments{};
  arguments.gpuPairs = pairs.data();
  arguments.gpuPairsCount = static_cast<unsigned>(pairs.size());
  arguments.customStorageInfo_out = &info;
  GPUMIG_TRY(Checked(cuda_.checkpoint_restore(process, &arguments), "cuCheckpointProcessRestore"));
  return std::unique_ptr<DeviceRegions>(std::make_unique<CudaRegions>(cuda_, std::move(contexts), *info));
}

}  // namespace gpumig
