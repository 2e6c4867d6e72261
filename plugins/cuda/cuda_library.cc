#include "plugins/cuda/cuda_library.h"

#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <string_view>

#include "plugins/cuda/cuda_error.h"

namespace gpumig {
namespace {

using cuda_abi::CUDA_SUCCESS;
using cuda_abi::CUresult;

using GetProcAddress = CUresult (*)(const char* symbol, void** address, int version, std::uint64_t flags,
                                    cuda_abi::CUdriverProcAddressQueryResult* status);

// The first driver that captures processes. Source: cuda.h 12.8, PFN_cuCheckpointProcessLock_v12080.
constexpr int kCheckpointVersion = 12080;

// The first that lends device memory of other processes. Source: cuda.h 13.4, cuCheckpointOperationComplete.
constexpr int kLendingVersion = 13040;

// Looks functions up until one is missing.
class Resolver {
 public:
  explicit Resolver(GetProcAddress get) : get_(get) {}

  template <typename Function>
  void Find(Function*& function, const char* name, int version) {
    void* address = nullptr;
    cuda_abi::CUdriverProcAddressQueryResult status{};
    const CUresult result = get_(name, &address, version, cuda_abi::kGetProcAddressDefault, &status);
    if (result != CUDA_SUCCESS || address == nullptr) {
      if (missing_.empty()) missing_ = fmt::format("{} (CUDA {}.{})", name, version / 1000, version % 1000 / 10);
      return;
    }
    // POSIX lets dlsym() give functions as object pointers; a copy of the bits says so without a cast.
    static_assert(sizeof(function) == sizeof(address));
    std::memcpy(&function, &address, sizeof(function));
  }
  // One that we can do without.
  template <typename Function>
  void FindOptional(Function*& function, const char* name, int version) {
    const std::string before = missing_;
    Find(function, name, version);
    missing_ = before;
  }
  const std::string& missing() const { return missing_; }

 private:
  GetProcAddress get_;
  std::string missing_;
};

}  // namespace

void CudaLibrary::Closer::operator()(void* handle) const { dlclose(handle); }

Result<CudaLibrary> CudaLibrary::Open(const std::string& name) {
  CudaLibrary library;
  library.handle_.reset(dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL));
  if (!library.handle_) {
    const char* why = dlerror();
    return MakeError(ErrorCode::kUnavailable, "{}", why != nullptr ? why : "dlopen failed");
  }
  link_map* map = nullptr;
  library.path_ = name;
  if (dlinfo(library.handle_.get(), RTLD_DI_LINKMAP, &map) == 0 && map != nullptr && map->l_name[0] != '\0') {
    library.path_ = map->l_name;
  }
  GPUMIG_TRY(library.LookUp());
  GPUMIG_TRY(library.ComeUp());
  return library;
}

Result<void> CudaLibrary::LookUp() {
  void* entry = dlsym(handle_.get(), "cuGetProcAddress_v2");
  if (entry == nullptr) {
    return MakeError(ErrorCode::kUnsupported,
                     "it has no cuGetProcAddress_v2: no CUDA driver, or one older than CUDA 12");
  }
  GetProcAddress get = nullptr;
  std::memcpy(&get, &entry, sizeof(get));
  Resolver resolver(get);
  CudaFunctions& f = functions_;
  resolver.Find(f.init, "cuInit", 2000);
  resolver.Find(f.driver_get_version, "cuDriverGetVersion", 2020);
  resolver.Find(f.get_error_name, "cuGetErrorName", 6000);
  resolver.Find(f.device_get_count, "cuDeviceGetCount", 2000);
  resolver.Find(f.device_get, "cuDeviceGet", 2000);
  resolver.Find(f.device_get_name, "cuDeviceGetName", 2000);
  resolver.Find(f.device_get_uuid, "cuDeviceGetUuid", 11040);
  resolver.Find(f.device_get_pci_bus_id, "cuDeviceGetPCIBusId", 4010);
  resolver.FindOptional(f.device_get_attribute, "cuDeviceGetAttribute", 2000);
  resolver.Find(f.device_total_mem, "cuDeviceTotalMem", 3020);
  resolver.Find(f.primary_context_retain, "cuDevicePrimaryCtxRetain", 7000);
  resolver.Find(f.primary_context_release, "cuDevicePrimaryCtxRelease", 11000);
  resolver.Find(f.context_push, "cuCtxPushCurrent", 4000);
  resolver.Find(f.context_pop, "cuCtxPopCurrent", 4000);
  resolver.Find(f.mem_get_info, "cuMemGetInfo", 3020);
  resolver.Find(f.checkpoint_lock, "cuCheckpointProcessLock", kCheckpointVersion);
  resolver.Find(f.checkpoint_checkpoint, "cuCheckpointProcessCheckpoint", kCheckpointVersion);
  resolver.Find(f.checkpoint_restore, "cuCheckpointProcessRestore", kCheckpointVersion);
  resolver.Find(f.checkpoint_unlock, "cuCheckpointProcessUnlock", kCheckpointVersion);
  resolver.Find(f.checkpoint_get_state, "cuCheckpointProcessGetState", kCheckpointVersion);
  resolver.Find(f.checkpoint_get_restore_thread_id, "cuCheckpointProcessGetRestoreThreadId", kCheckpointVersion);
  resolver.FindOptional(f.checkpoint_operation_complete, "cuCheckpointOperationComplete", kLendingVersion);
  resolver.FindOptional(f.copy_to_host, "cuMemcpyDtoHAsync", 3020);
  resolver.FindOptional(f.copy_to_device, "cuMemcpyHtoDAsync", 3020);
  resolver.FindOptional(f.stream_synchronize, "cuStreamSynchronize", 2000);
  if (void* extension = dlsym(handle_.get(), "softgpuProcessMemory"); extension != nullptr) {
    std::memcpy(&f.process_memory, &extension, sizeof(extension));
  }
  if (resolver.missing().empty()) return Ok();
  return MakeError(ErrorCode::kUnsupported, "it lacks {}; capturing processes needs driver 570 or newer",
                   resolver.missing());
}

Result<void> CudaLibrary::ComeUp() {
  if (const CUresult result = functions_.init(0); result != CUDA_SUCCESS) {
    return MakeError(ErrorCode::kUnavailable, "cuInit: {}", CudaResultName(functions_, result));
  }
  int count = 0;
  if (const CUresult result = functions_.device_get_count(&count); result != CUDA_SUCCESS) {
    return MakeError(ErrorCode::kUnavailable, "cuDeviceGetCount: {}", CudaResultName(functions_, result));
  }
  if (count < 1) return MakeError(ErrorCode::kUnavailable, "it has no GPU");
  if (const CUresult result = functions_.driver_get_version(&version_); result != CUDA_SUCCESS) {
    return MakeError(ErrorCode::kUnavailable, "cuDriverGetVersion: {}", CudaResultName(functions_, result));
  }
  return Ok();
}

}  // namespace gpumig
