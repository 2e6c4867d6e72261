// Driver entry points: libraries and their kernels.
//
// A library is text that becomes a module in every context where it is used, when it is first used there; a kernel is a
// name in it. Both are this process's own: the daemon knows the modules only.
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "plugins/softgpu/client/module.h"

using namespace cuda_abi;  // Signatures are the interface's own.
using softgpu::Client;
using softgpu::CurrentContexts;
using softgpu::FunctionDescription;
using softgpu::Id;
using softgpu::ToHandle;
using softgpu::ToId;

namespace softgpu {
namespace {

// Far from the daemon's ids.
constexpr Id kFirstLibrary = std::uint64_t{0x4c49} << 32;
constexpr Id kFirstKernel = std::uint64_t{0x4b45} << 32;

// Thread safety: any number of threads at once; the lock is never held over a call to the daemon.
class LibraryTable {
 public:
  struct Kernel {
    Id library = 0;
    std::string name;
  };

  Id Add(std::string text) {
    const std::lock_guard lock(mutex_);
    libraries_.emplace(next_library_, Library{std::move(text), {}});
    return next_library_++;
  }
  // Nothing if there is no such library; else the modules that it became.
  std::optional<std::map<Id, Id>> Remove(Id library) {
    const std::lock_guard lock(mutex_);
    const auto found = libraries_.find(library);
    if (found == libraries_.end()) return std::nullopt;
    std::map<Id, Id> modules = std::move(found->second.modules);
    libraries_.erase(found);
    std::erase_if(kernels_, [&](const auto& item) { return item.second.library == library; });
    return modules;
  }
  std::optional<std::string> Text(Id library) {
    const std::lock_guard lock(mutex_);
    const auto found = libraries_.find(library);
    return found == libraries_.end() ? std::nullopt : std::optional(found->second.text);
  }
  // 0: it is not loaded there.
  Id Module(Id library, Id context) {
    const std::lock_guard lock(mutex_);
    const auto found = libraries_.find(library);
    if (found == libraries_.end()) return 0;
    const auto module = found->second.modules.find(context);
    return module == found->second.modules.end() ? 0 : module->second;
  }
  void SetModule(Id library, Id context, Id module) {
    const std::lock_guard lock(mutex_);
    const auto found = libraries_.find(library);
    if (found != libraries_.end()) found->second.modules[context] = module;
  }
  // The same kernel for the same name.
  Id KernelOf(Id library, const std::string& name) {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, kernel] : kernels_) {
      if (kernel.library == library && kernel.name == name) return id;
    }
    kernels_.emplace(next_kernel_, Kernel{library, name});
    return next_kernel_++;
  }
  std::optional<Kernel> FindKernel(Id kernel) {
    const std::lock_guard lock(mutex_);
    const auto found = kernels_.find(kernel);
    return found == kernels_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  struct Library {
    std::string text;
    std::map<Id, Id> modules;  // By context.
  };

  std::mutex mutex_;
  std::map<Id, Library> libraries_;
  std::map<Id, Kernel> kernels_;
  Id next_library_ = kFirstLibrary;
  Id next_kernel_ = kFirstKernel;
};

LibraryTable& Table() {
  static auto* table = new LibraryTable();  // Never deleted: calls come until the process exits.
  return *table;
}

// The module that `library` is in `context`. One that went with its context, or with a reset of it, is made anew.
CUresult ModuleIn(Id library, Id context, Id& module) {
  module = Table().Module(library, context);
  std::uint32_t ignored = 0;
  if (module != 0 && ModuleKernel(module, 0, ignored, nullptr) == CUDA_SUCCESS) return CUDA_SUCCESS;
  const std::optional<std::string> text = Table().Text(library);
  if (!text) return CUDA_ERROR_INVALID_HANDLE;
  const CUresult result = LoadModuleText(context, text->c_str(), module);
  if (result == CUDA_SUCCESS) Table().SetModule(library, context, module);
  return result;
}

CUresult LoadLibrary(CUlibrary* library, const char* text) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const auto first = static_cast<unsigned char>(text[0]);
  if (first == 0x7f || first >= 0x80) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  const Id id = Table().Add(text);
  // Where there is a context, what is wrong with the text shows now.
  if (const Id context = CurrentContexts().current(); context != 0) {
    Id module = 0;
    const CUresult result = ModuleIn(id, context, module);
    if (result != CUDA_SUCCESS) {
      Table().Remove(id);
      return result;
    }
  }
  *library = ToHandle<CUlibrary>(id);
  return CUDA_SUCCESS;
}

}  // namespace

bool IsKernel(Id handle) { return handle >= kFirstKernel && handle < kFirstLibrary; }

CUresult ResolveKernel(Id handle, Id context, Id& function) {
  function = handle;
  if (!IsKernel(handle)) return CUDA_SUCCESS;
  const auto kernel = Table().FindKernel(handle);
  if (!kernel) return CUDA_ERROR_INVALID_HANDLE;
  Id module = 0;
  const CUresult result = ModuleIn(kernel->library, context, module);
  return result == CUDA_SUCCESS ? FindFunction(module, kernel->name.c_str(), function) : result;
}

}  // namespace softgpu

using softgpu::Table;

extern "C" {

// Options tune a compiler that is not here.
CUresult cuLibraryLoadData(CUlibrary* library, const void* image, CUjit_option*, void**, unsigned, CUlibraryOption*,
                           void**, unsigned) {
  if (library == nullptr || image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return softgpu::LoadLibrary(library, static_cast<const char*>(image));
}

CUresult cuLibraryLoadFromFile(CUlibrary* library, const char* path, CUjit_option*, void**, unsigned, CUlibraryOption*,
                               void**, unsigned) {
  if (library == nullptr || path == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::string text;
  const CUresult result = softgpu::ReadModuleFile(path, text);
  return result == CUDA_SUCCESS ? softgpu::LoadLibrary(library, text.c_str()) : result;
}

CUresult cuLibraryUnload(CUlibrary library) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const auto modules = Table().Remove(ToId(library));
  if (!modules) return CUDA_ERROR_INVALID_HANDLE;
  // Those of contexts that have gone are gone.
  for (const auto& [context, module] : *modules) cuModuleUnload(ToHandle<CUmodule>(module));
  return CUDA_SUCCESS;
}

CUresult cuLibraryGetModule(CUmodule* module, CUlibrary library) {
  if (module == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Id id = 0;
  const CUresult result = softgpu::ModuleIn(ToId(library), CurrentContexts().current(), id);
  if (result == CUDA_SUCCESS) *module = ToHandle<CUmodule>(id);
  return result;
}

CUresult cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
  if (kernel == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  CUresult result = cuLibraryGetModule(&module, library);
  if (result == CUDA_SUCCESS) result = cuModuleGetFunction(&function, module, name);
  if (result == CUDA_SUCCESS) *kernel = ToHandle<CUkernel>(Table().KernelOf(ToId(library), name));
  return result;
}

CUresult cuLibraryGetKernelCount(unsigned* count, CUlibrary library) {
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUmodule module = nullptr;
  const CUresult result = cuLibraryGetModule(&module, library);
  return result == CUDA_SUCCESS ? cuModuleGetFunctionCount(count, module) : result;
}

CUresult cuLibraryEnumerateKernels(CUkernel* kernels, unsigned most, CUlibrary library) {
  if (kernels == nullptr || most == 0) return CUDA_ERROR_INVALID_VALUE;
  CUmodule module = nullptr;
  CUresult result = cuLibraryGetModule(&module, library);
  unsigned count = most;
  for (unsigned i = 0; result == CUDA_SUCCESS && i < most && i < count; ++i) {
    std::string name;
    result = softgpu::ModuleKernel(ToId(module), i, count, &name);
    if (result == CUDA_SUCCESS && i < count) {
      kernels[i] = ToHandle<CUkernel>(Table().KernelOf(ToId(library), name));
    }
  }
  return result;
}

CUresult cuLibraryGetGlobal(CUdeviceptr* pointer, std::size_t* bytes, CUlibrary library, const char* name) {
  CUmodule module = nullptr;
  const CUresult result = cuLibraryGetModule(&module, library);
  return result == CUDA_SUCCESS ? softgpu::FindGlobal(ToId(module), pointer, bytes, name) : result;
}

// Managed variables, and functions that host and device share, are not there to be found.
CUresult cuLibraryGetManaged(CUdeviceptr*, std::size_t*, CUlibrary library, const char* name) {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUmodule module = nullptr;
  const CUresult result = cuLibraryGetModule(&module, library);
  return result == CUDA_SUCCESS ? CUDA_ERROR_NOT_FOUND : result;
}

CUresult cuLibraryGetUnifiedFunction(void**, CUlibrary library, const char* name) {
  return cuLibraryGetManaged(nullptr, nullptr, library, name);
}

CUresult cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (!softgpu::IsKernel(ToId(kernel))) return CUDA_ERROR_INVALID_HANDLE;
  Id id = 0;
  const CUresult result = softgpu::ResolveKernel(ToId(kernel), CurrentContexts().current(), id);
  if (result == CUDA_SUCCESS) *function = ToHandle<CUfunction>(id);
  return result;
}

CUresult cuKernelGetLibrary(CUlibrary* library, CUkernel kernel) {
  if (library == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto found = Table().FindKernel(ToId(kernel));
  if (!found) return CUDA_ERROR_INVALID_HANDLE;
  *library = ToHandle<CUlibrary>(found->library);
  return CUDA_SUCCESS;
}

CUresult cuKernelGetName(const char** name, CUkernel kernel) {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto found = Table().FindKernel(ToId(kernel));
  if (!found) return CUDA_ERROR_INVALID_HANDLE;
  *name = softgpu::KeepName(found->name);
  return CUDA_SUCCESS;
}

// Attributes are those of the current context's device, and the same on all here.
CUresult cuKernelGetAttribute(int* value, CUfunction_attribute attribute, CUkernel kernel, CUdevice) {
  CUfunction function = nullptr;
  const CUresult result = cuKernelGetFunction(&function, kernel);
  return result == CUDA_SUCCESS ? cuFuncGetAttribute(value, attribute, function) : result;
}

CUresult cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel kernel, CUdevice) {
  CUfunction function = nullptr;
  const CUresult result = cuKernelGetFunction(&function, kernel);
  return result == CUDA_SUCCESS ? cuFuncSetAttribute(function, attribute, value) : result;
}

CUresult cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache, CUdevice) {
  CUfunction function = nullptr;
  return cuKernelGetFunction(&function, kernel);
}

CUresult cuKernelGetParamInfo(CUkernel kernel, std::size_t index, std::size_t* offset, std::size_t* bytes) {
  CUfunction function = nullptr;
  const CUresult result = cuKernelGetFunction(&function, kernel);
  return result == CUDA_SUCCESS ? cuFuncGetParamInfo(function, index, offset, bytes) : result;
}

}  // extern "C"
