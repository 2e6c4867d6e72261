// Driver entry points: looking up functions by name and version, and names of errors.
#include <cstring>

#include "plugins/softgpu/client/entry_points.h"

using namespace cuda_abi;  // Signatures are the interface's own.

// Where a program links against, or asks dlsym for, another name than the newest: the plain one, or the twin with a
// per-thread default stream. Jumps, since an alias would have to be defined beside its target.
#define SOFTGPU_ALIAS(name, target)                                                                              \
  __asm__(".pushsection .text\n.globl " #name "\n.type " #name ", @function\n" #name ": endbr64\n\tjmp " #target \
          "@PLT\n.size " #name ", .-" #name "\n.popsection\n");
#define CUDA_ABI_FUNCTION(symbol, base_name, since, ...)
#define CUDA_ABI_STREAM_FUNCTION(symbol, base_name, since, suffix, suffix_since, ...) \
  SOFTGPU_ALIAS(symbol##_##suffix, symbol)
#include "plugins/cuda_abi/cuda_functions.inc"

SOFTGPU_ALIAS(cuMemAlloc, cuMemAlloc_v2)
SOFTGPU_ALIAS(cuMemAllocPitch, cuMemAllocPitch_v2)
SOFTGPU_ALIAS(cuMemFree, cuMemFree_v2)
SOFTGPU_ALIAS(cuMemGetInfo, cuMemGetInfo_v2)
SOFTGPU_ALIAS(cuMemGetAddressRange, cuMemGetAddressRange_v2)
SOFTGPU_ALIAS(cuMemAllocHost, cuMemAllocHost_v2)
SOFTGPU_ALIAS(cuMemHostRegister, cuMemHostRegister_v2)
SOFTGPU_ALIAS(cuMemHostGetDevicePointer, cuMemHostGetDevicePointer_v2)
SOFTGPU_ALIAS(cuMemcpyHtoD, cuMemcpyHtoD_v2)
SOFTGPU_ALIAS(cuMemcpyDtoH, cuMemcpyDtoH_v2)
SOFTGPU_ALIAS(cuMemcpyDtoD, cuMemcpyDtoD_v2)
SOFTGPU_ALIAS(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2)
SOFTGPU_ALIAS(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2)
SOFTGPU_ALIAS(cuMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2)
SOFTGPU_ALIAS(cuMemsetD8, cuMemsetD8_v2)
SOFTGPU_ALIAS(cuMemsetD16, cuMemsetD16_v2)
SOFTGPU_ALIAS(cuMemsetD32, cuMemsetD32_v2)
SOFTGPU_ALIAS(cuDeviceTotalMem, cuDeviceTotalMem_v2)
SOFTGPU_ALIAS(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2)
SOFTGPU_ALIAS(cuDevicePrimaryCtxReset, cuDevicePrimaryCtxReset_v2)
SOFTGPU_ALIAS(cuDevicePrimaryCtxSetFlags, cuDevicePrimaryCtxSetFlags_v2)
SOFTGPU_ALIAS(cuCtxCreate, cuCtxCreate_v2)
SOFTGPU_ALIAS(cuCtxDestroy, cuCtxDestroy_v2)
SOFTGPU_ALIAS(cuCtxPushCurrent, cuCtxPushCurrent_v2)
SOFTGPU_ALIAS(cuCtxPopCurrent, cuCtxPopCurrent_v2)
SOFTGPU_ALIAS(cuStreamDestroy, cuStreamDestroy_v2)
SOFTGPU_ALIAS(cuEventDestroy, cuEventDestroy_v2)
SOFTGPU_ALIAS(cuModuleGetGlobal, cuModuleGetGlobal_v2)

namespace softgpu {
namespace {

struct EntryPoint {
  const char* symbol;
  const char* base_name;
  int since;
  void* address;
};

template <typename Function>
void* Address(Function* function) {
  return reinterpret_cast<void*>(function);
}

// Both flavours of a stream function are one here, see Session::StreamOf().
const EntryPoint kEntryPoints[] = {
#define CUDA_ABI_FUNCTION(symbol, base_name, since, ...) {#symbol, #base_name, since, Address(&::symbol)},
#define CUDA_ABI_STREAM_FUNCTION(symbol, base_name, since, suffix, suffix_since, ...) \
  {#symbol, #base_name, since, Address(&::symbol)}, {#symbol "_" #suffix, #base_name, since, Address(&::symbol)},
#include "plugins/cuda_abi/cuda_functions.inc"
};

// The newest that is not newer than what the caller was built for, as the real call does; a full symbol is taken as is.
CUresult FindEntryPoint(const char* name, int version, void** function, CUdriverProcAddressQueryResult& found) {
  const EntryPoint* best = nullptr;
  bool exists = false;
  for (const EntryPoint& entry : kEntryPoints) {
    if (std::strcmp(entry.base_name, name) == 0) {
      exists = true;
      if (entry.since <= version && (best == nullptr || entry.since > best->since)) best = &entry;
    } else if (std::strcmp(entry.symbol, name) == 0) {
      exists = true;
      if (entry.since <= version) best = &entry;
    }
  }
  found = best != nullptr ? CU_GET_PROC_ADDRESS_SUCCESS
          : exists        ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                          : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  *function = best != nullptr ? best->address : nullptr;
  return best != nullptr ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

struct ErrorText {
  CUresult error;
  const char* name;
  const char* text;
};

constexpr ErrorText kErrors[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "not initialized"},
    {CUDA_ERROR_DEINITIALIZED, "CUDA_ERROR_DEINITIALIZED", "the driver is shutting down"},
    {CUDA_ERROR_STUB_LIBRARY, "CUDA_ERROR_STUB_LIBRARY", "a stub library was loaded"},
    {CUDA_ERROR_DEVICE_UNAVAILABLE, "CUDA_ERROR_DEVICE_UNAVAILABLE", "the device is busy or unavailable"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no device found"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "invalid kernel image"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid context"},
    {CUDA_ERROR_MAP_FAILED, "CUDA_ERROR_MAP_FAILED", "mapping failed"},
    {CUDA_ERROR_UNMAP_FAILED, "CUDA_ERROR_UNMAP_FAILED", "unmapping failed"},
    {CUDA_ERROR_NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no code in the image that this device can run"},
    {CUDA_ERROR_UNSUPPORTED_LIMIT, "CUDA_ERROR_UNSUPPORTED_LIMIT", "limit not supported"},
    {CUDA_ERROR_INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "invalid PTX"},
    {CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "PTX version not supported"},
    {CUDA_ERROR_INVALID_SOURCE, "CUDA_ERROR_INVALID_SOURCE", "invalid source"},
    {CUDA_ERROR_FILE_NOT_FOUND, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
    {CUDA_ERROR_OPERATING_SYSTEM, "CUDA_ERROR_OPERATING_SYSTEM", "a call of the operating system failed"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid handle"},
    {CUDA_ERROR_ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "not possible in the present state"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "name not found"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "not ready"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "a kernel accessed an illegal address"},
    {CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources for a launch"},
    {CUDA_ERROR_LAUNCH_TIMEOUT, "CUDA_ERROR_LAUNCH_TIMEOUT", "a kernel ran for too long"},
    {CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE, "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", "the primary context is active"},
    {CUDA_ERROR_CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "the context is destroyed"},
    {CUDA_ERROR_ASSERT, "CUDA_ERROR_ASSERT", "an assertion in a kernel failed"},
    {CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "host memory is registered already"},
    {CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", "host memory is not registered"},
    {CUDA_ERROR_ILLEGAL_INSTRUCTION, "CUDA_ERROR_ILLEGAL_INSTRUCTION", "a kernel met an illegal instruction"},
    {CUDA_ERROR_MISALIGNED_ADDRESS, "CUDA_ERROR_MISALIGNED_ADDRESS", "a kernel accessed a misaligned address"},
    {CUDA_ERROR_INVALID_ADDRESS_SPACE, "CUDA_ERROR_INVALID_ADDRESS_SPACE", "address of the wrong space"},
    {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "a kernel failed"},
    {CUDA_ERROR_NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED", "not permitted"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "not supported"},
    {CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
     "library and softgpud are of different versions"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "not possible during capture"},
    {CUDA_ERROR_TIMEOUT, "CUDA_ERROR_TIMEOUT", "timed out"},
    {CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

const ErrorText* FindError(CUresult error) {
  for (const ErrorText& entry : kErrors) {
    if (entry.error == error) return &entry;
  }
  return nullptr;
}

}  // namespace
}  // namespace softgpu

extern "C" {

CUresult cuGetProcAddress_v2(const char* name, void** function, int version, std::uint64_t flags,
                             CUdriverProcAddressQueryResult* status) {
  if (name == nullptr || function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (flags > kGetProcAddressPerThreadDefaultStream) return CUDA_ERROR_INVALID_VALUE;
  // Source: drivers refuse a version that is newer than theirs (13.4's cuCheckpointOperationComplete asked of a 13.0).
  if (version > static_cast<int>(softgpu::kDefaultDriverVersion)) {
    int newest = 0;
    cuDriverGetVersion(&newest);
    if (version > newest) return CUDA_ERROR_INVALID_VALUE;
  }
  CUdriverProcAddressQueryResult found{};
  const CUresult result = softgpu::FindEntryPoint(name, version, function, found);
  if (status == nullptr) return result;
  // Source: cuGetProcAddress 12.0: with a place for the status, only a bad argument is an error.
  *status = found;
  return CUDA_SUCCESS;
}

CUresult cuGetProcAddress(const char* name, void** function, int version, std::uint64_t flags) {
  return cuGetProcAddress_v2(name, function, version, flags, nullptr);
}

CUresult cuGetErrorName(CUresult error, const char** name) {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const softgpu::ErrorText* entry = softgpu::FindError(error);
  *name = entry != nullptr ? entry->name : nullptr;
  return entry != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char** text) {
  if (text == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const softgpu::ErrorText* entry = softgpu::FindError(error);
  *text = entry != nullptr ? entry->text : nullptr;
  return entry != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // extern "C"
