// Driver entry points: modules and functions.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>

#include "plugins/softgpu/client/entry_points.h"
#include "plugins/softgpu/client/module.h"
#include "plugins/softgpu/wire/unique_fd.h"

using namespace cuda_abi;  // Signatures are the interface's own.
using softgpu::CallDaemon;
using softgpu::Client;
using softgpu::Id;
using softgpu::ToHandle;
using softgpu::ToId;
namespace request = softgpu::request;

namespace softgpu {

CUresult LoadModuleText(Id context, const void* image, Id& module) {
  Client* client = Client::Get();
  if (client == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  // A cubin begins with 0x7f 'E' 'L' 'F', a fatbin with 0xba55ed50: neither is text.
  const auto* text = static_cast<const char*>(image);
  if (static_cast<unsigned char>(text[0]) == 0x7f || static_cast<unsigned char>(text[0]) >= 0x80) {
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  }
  const std::size_t bytes = strnlen(text, kMaxModuleTextBytes + 1);
  if (bytes > kMaxModuleTextBytes) return CUDA_ERROR_INVALID_IMAGE;
  const UniqueFd file(memfd_create("softgpu-module", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.valid()) return CUDA_ERROR_OUT_OF_MEMORY;
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t count = write(file.get(), text + done, bytes - done);
    if (count <= 0) return CUDA_ERROR_OUT_OF_MEMORY;
    done += static_cast<std::size_t>(count);
  }
  request::ModuleLoad load;
  load.text_bytes = bytes;
  request::ModuleLoad::Reply reply;
  const CUresult result = client->Call(context, load, reply, {}, nullptr, file.get());
  if (result == CUDA_SUCCESS) module = reply.module;
  return result;
}

CUresult FindFunction(Id module, const char* name, Id& function) {
  const std::size_t length = strnlen(name, kMaxNameBytes + 1);
  if (length > kMaxNameBytes) return CUDA_ERROR_NOT_FOUND;
  Client* client = Client::Get();
  if (client == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  std::vector<ParameterPlace> places(kMaxParameters);
  request::ModuleFunction find;
  find.module = module;
  FunctionDescription description;
  std::span<std::byte> payload = std::as_writable_bytes(std::span(places));
  const CUresult result = CallDaemon(find, description, std::as_bytes(std::span(name, length)), &payload);
  if (result != CUDA_SUCCESS) return result;
  client->AddLayout(description.function, std::span(places).first(payload.size() / sizeof(ParameterPlace)));
  function = description.function;
  return CUDA_SUCCESS;
}

CUresult FindGlobal(Id module, CUdeviceptr* pointer, std::size_t* bytes, const char* name) {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const std::size_t length = strnlen(name, kMaxNameBytes + 1);
  if (length > kMaxNameBytes) return CUDA_ERROR_NOT_FOUND;
  request::ModuleGlobal find;
  find.module = module;
  request::ModuleGlobal::Reply reply;
  const CUresult result = CallDaemon(find, reply, std::as_bytes(std::span(name, length)));
  if (result != CUDA_SUCCESS) return result;
  if (pointer != nullptr) *pointer = reply.address;
  if (bytes != nullptr) *bytes = reply.bytes;
  return CUDA_SUCCESS;
}

CUresult InspectFunction(Id handle, FunctionDescription& info, std::string* name) {
  request::FunctionInfo ask;
  const CUresult resolved = ResolveKernel(handle, CurrentContexts().current(), ask.function);
  if (resolved != CUDA_SUCCESS) return resolved;
  char text[kMaxNameBytes];
  std::span<std::byte> payload = std::as_writable_bytes(std::span(text));
  const CUresult result = CallDaemon(ask, info, {}, &payload);
  if (result == CUDA_SUCCESS && name != nullptr) name->assign(text, payload.size());
  return result;
}

const char* KeepName(const std::string& name) {
  static std::mutex mutex;
  static auto* names = new std::set<std::string>();
  const std::lock_guard lock(mutex);
  return names->insert(name).first->c_str();
}

CUresult ModuleKernel(Id module, std::uint32_t index, std::uint32_t& count, std::string* name) {
  request::ModuleKernel ask;
  ask.module = module;
  ask.index = index;
  request::ModuleKernel::Reply reply;
  char text[kMaxNameBytes];
  std::span<std::byte> payload = std::as_writable_bytes(std::span(text));
  const CUresult result = CallDaemon(ask, reply, {}, &payload);
  if (result != CUDA_SUCCESS) return result;
  count = reply.count;
  if (name != nullptr) name->assign(text, payload.size());
  return CUDA_SUCCESS;
}

CUresult ReadModuleFile(const char* path, std::string& text) {
  const UniqueFd file(open(path, O_RDONLY | O_CLOEXEC));
  struct stat status{};
  if (!file.valid() || fstat(file.get(), &status) != 0) return CUDA_ERROR_FILE_NOT_FOUND;
  if (status.st_size > static_cast<off_t>(kMaxModuleTextBytes)) return CUDA_ERROR_INVALID_IMAGE;
  text.assign(static_cast<std::size_t>(status.st_size), '\0');
  const ssize_t count = read(file.get(), text.data(), text.size());
  return count == static_cast<ssize_t>(text.size()) ? CUDA_SUCCESS : CUDA_ERROR_FILE_NOT_FOUND;
}

CUresult FunctionAttribute(const FunctionDescription& info, CUfunction_attribute attribute, int& value) {
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      value = static_cast<int>(info.max_threads);
      break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
      value = static_cast<int>(info.static_shared_bytes);
      break;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
      value = static_cast<int>(info.local_bytes);
      break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      value = static_cast<int>(info.register_count);
      break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      value = 90;
      break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      value = static_cast<int>(info.max_dynamic_shared_bytes);
      break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      value = -1;
      break;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
    case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA:
      value = 0;
      break;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult SetFunctionAttribute(Id handle, CUfunction_attribute attribute, int value) {
  FunctionDescription info;
  if (const CUresult result = InspectFunction(handle, info); result != CUDA_SUCCESS) return result;
  if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) {
    return value >= -1 && value <= 100 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  }
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0) return CUDA_ERROR_INVALID_VALUE;
  request::FunctionSet set;
  set.function = info.function;
  set.max_dynamic_shared_bytes = static_cast<std::uint32_t>(value);
  return CallDaemon(set);
}

}  // namespace softgpu

using softgpu::CurrentContexts;
using softgpu::FunctionDescription;

extern "C" {

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  if (module == nullptr || image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Id id = 0;
  const CUresult result = softgpu::LoadModuleText(CurrentContexts().current(), image, id);
  if (result == CUDA_SUCCESS) *module = ToHandle<CUmodule>(id);
  return result;
}

// Options tune a compiler that is not here.
CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
  return cuModuleLoadData(module, image);
}

CUresult cuModuleLoad(CUmodule* module, const char* path) {
  if (module == nullptr || path == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::string text;
  const CUresult result = softgpu::ReadModuleFile(path, text);
  if (result != CUDA_SUCCESS) return result;
  return cuModuleLoadData(module, text.c_str());
}

CUresult cuModuleUnload(CUmodule module) {
  request::ModuleUnload unload;
  unload.module = ToId(module);
  return CallDaemon(unload);
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  if (function == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Id id = 0;
  const CUresult result = softgpu::FindFunction(ToId(module), name, id);
  if (result == CUDA_SUCCESS) *function = ToHandle<CUfunction>(id);
  return result;
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr* pointer, std::size_t* bytes, CUmodule module, const char* name) {
  return softgpu::FindGlobal(ToId(module), pointer, bytes, name);
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
  FunctionDescription info;
  const CUresult result = softgpu::InspectFunction(ToId(function), info);
  if (result != CUDA_SUCCESS) return result;
  return value == nullptr ? CUDA_ERROR_INVALID_VALUE : softgpu::FunctionAttribute(info, attribute, *value);
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  return softgpu::SetFunctionAttribute(ToId(function), attribute, value);
}

CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache) {
  FunctionDescription info;
  return softgpu::InspectFunction(ToId(function), info);
}

CUresult cuFuncGetModule(CUmodule* module, CUfunction function) {
  if (module == nullptr) return CUDA_ERROR_INVALID_VALUE;
  FunctionDescription info;
  const CUresult result = softgpu::InspectFunction(ToId(function), info);
  if (result == CUDA_SUCCESS) *module = ToHandle<CUmodule>(info.module);
  return result;
}

CUresult cuFuncGetName(const char** name, CUfunction function) {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  FunctionDescription info;
  std::string text;
  const CUresult result = softgpu::InspectFunction(ToId(function), info, &text);
  if (result == CUDA_SUCCESS) *name = softgpu::KeepName(text);
  return result;
}

CUresult cuFuncGetParamInfo(CUfunction function, std::size_t index, std::size_t* offset, std::size_t* bytes) {
  FunctionDescription info;
  const CUresult result = softgpu::InspectFunction(ToId(function), info);
  if (result != CUDA_SUCCESS) return result;
  std::vector<softgpu::ParameterPlace> places;
  if (!Client::Get()->FindLayout(info.function, places)) return CUDA_ERROR_INVALID_HANDLE;
  if (offset == nullptr || index >= places.size()) return CUDA_ERROR_INVALID_VALUE;
  *offset = places[index].offset;
  if (bytes != nullptr) *bytes = places[index].bytes;
  return CUDA_SUCCESS;
}

// All is loaded when its module is: see cuModuleGetLoadingMode.
CUresult cuFuncIsLoaded(CUfunctionLoadingState* state, CUfunction function) {
  if (state == nullptr) return CUDA_ERROR_INVALID_VALUE;
  FunctionDescription info;
  const CUresult result = softgpu::InspectFunction(ToId(function), info);
  if (result == CUDA_SUCCESS) *state = CU_FUNCTION_LOADING_STATE_LOADED;
  return result;
}

CUresult cuFuncLoad(CUfunction function) {
  FunctionDescription info;
  return softgpu::InspectFunction(ToId(function), info);
}

CUresult cuFuncSetSharedMemConfig(CUfunction function, CUsharedconfig) { return cuFuncLoad(function); }

CUresult cuModuleGetFunctionCount(unsigned* count, CUmodule module) {
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return softgpu::ModuleKernel(ToId(module), 0, *count, nullptr);
}

CUresult cuModuleEnumerateFunctions(CUfunction* functions, unsigned most, CUmodule module) {
  if (functions == nullptr || most == 0) return CUDA_ERROR_INVALID_VALUE;
  unsigned count = most;
  for (unsigned i = 0; i < most && i < count; ++i) {
    std::string name;
    CUresult result = softgpu::ModuleKernel(ToId(module), i, count, &name);
    if (result == CUDA_SUCCESS && i < count) result = cuModuleGetFunction(&functions[i], module, name.c_str());
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

// A fat binary holds code for real devices.
CUresult cuModuleLoadFatBinary(CUmodule* module, const void* image) {
  if (module == nullptr || image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return Client::Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_ERROR_NO_BINARY_FOR_GPU;
}

}  // extern "C"
