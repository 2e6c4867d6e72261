// Driver entry points: looking up functions by name and version, and names of errors.
#include <cstring>

#include "plugins/softgpu/client/entry_points.h"
#include "plugins/softgpu/client/unsupported.h"

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

#define CUDA_ABI_ALIAS(name, target, is_same) SOFTGPU_ALIAS(name, target)
#include "plugins/cuda_abi/cuda_aliases.inc"

namespace softgpu {
namespace {

struct EntryPoint {
  const char* symbol;
  const char* base_name;
  int since;
  bool is_per_thread;  // The flavour whose default stream is the calling thread's own.
  void* address;
};

template <typename Function>
void* Address(Function* function) {
  return reinterpret_cast<void*>(function);
}

// Both flavours of a stream function are one here, see Session::StreamOf().
const EntryPoint kEntryPoints[] = {
#define CUDA_ABI_FUNCTION(symbol, base_name, since, ...) {#symbol, #base_name, since, false, Address(&::symbol)},
#define CUDA_ABI_STREAM_FUNCTION(symbol, base_name, since, suffix, suffix_since, ...) \
  {#symbol, #base_name, since, false, Address(&::symbol)},                            \
      {#symbol "_" #suffix, #base_name, suffix_since, true, Address(&::symbol)},
#include "plugins/cuda_abi/cuda_functions.inc"
};

bool IsImplemented(const char* symbol) {
  for (const EntryPoint& entry : kEntryPoints) {
    if (std::strcmp(entry.symbol, symbol) == 0) return true;
  }
  return false;
}

// What an older name is here. Null: it is none of ours. `is_same` as in cuda_aliases.inc.
const char* AliasTarget(const char* symbol, bool& is_same) {
  struct Alias {
    const char* name;
    const char* target;
    bool is_same;
  };
  static constexpr Alias kAliases[] = {
#define CUDA_ABI_ALIAS(name, target, is_same) {#name, #target, is_same != 0},
#include "plugins/cuda_abi/cuda_aliases.inc"
  };
  for (const Alias& alias : kAliases) {
    if (std::strcmp(alias.name, symbol) != 0) continue;
    is_same = alias.is_same;
    return alias.target;
  }
  return nullptr;
}

void* AddressOf(const char* symbol) {
  for (const EntryPoint& entry : kEntryPoints) {
    if (std::strcmp(entry.symbol, symbol) == 0) return entry.address;
  }
  return nullptr;
}

// The newest that is not newer than what the caller was built for, as the real call does.
class Search {
 public:
  Search(int version, bool per_thread) : version_(version), per_thread_(per_thread) {}

  // For every symbol of the name; `address` null: it is there, but cannot be given.
  void See(int since, bool is_per_thread, void* address) {
    exists_ = true;
    if (since > version_ || address == nullptr || (is_per_thread && !per_thread_)) return;
    // Of one age, the flavour that was asked for.
    if (best_ != nullptr && (since < best_since_ || (since == best_since_ && best_is_per_thread_))) return;
    best_ = address;
    best_since_ = since;
    best_is_per_thread_ = is_per_thread;
  }
  void* best() const { return best_; }
  bool exists() const { return exists_; }

 private:
  const int version_;
  const bool per_thread_;
  void* best_ = nullptr;
  int best_since_ = 0;
  bool best_is_per_thread_ = false;
  bool exists_ = false;
};

CUresult FindEntryPoint(const char* name, int version, bool per_thread, void** function,
                        CUdriverProcAddressQueryResult& found) {
  Search search(version, per_thread);
  for (const EntryPoint& entry : kEntryPoints) {
    if (std::strcmp(entry.base_name, name) == 0) search.See(entry.since, entry.is_per_thread, entry.address);
  }
  for (const UnsupportedSymbol& symbol : UnsupportedSymbols()) {
    if (std::strcmp(symbol.base_name, name) != 0 || IsImplemented(symbol.symbol)) continue;
    bool is_same = true;
    const char* target = AliasTarget(symbol.symbol, is_same);
    void* address = target == nullptr ? symbol.stub : is_same ? AddressOf(target) : nullptr;
    search.See(symbol.since, symbol.is_per_thread, address);
  }
  found = search.best() != nullptr ? CU_GET_PROC_ADDRESS_SUCCESS
          : search.exists()        ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                                   : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  *function = search.best();
  return search.best() != nullptr ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
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
  const CUresult result =
      softgpu::FindEntryPoint(name, version, flags == kGetProcAddressPerThreadDefaultStream, function, found);
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
