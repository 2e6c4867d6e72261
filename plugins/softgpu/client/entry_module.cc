// Driver entry points: modules, libraries, functions, launches and occupancy.
//
// A library is a module of the context that is current when it is loaded, a kernel is a function: one device at a time
// is what the programs that run here use.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>

#include "plugins/softgpu/client/entry_points.h"
#include "plugins/softgpu/wire/unique_fd.h"

using namespace cuda_abi;  // Signatures are the interface's own.
using softgpu::CallDaemon;
using softgpu::Client;
using softgpu::Id;
using softgpu::ToHandle;
using softgpu::ToId;
namespace request = softgpu::request;

namespace softgpu {

CUresult LoadModuleText(const void* image, Id& module) {
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
  const CUresult result = CallDaemon(load, reply, {}, nullptr, file.get());
  if (result == CUDA_SUCCESS) module = reply.module;
  return result;
}

namespace {

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

CUresult Inspect(Id function, FunctionDescription& info, std::string* name = nullptr) {
  request::FunctionInfo ask;
  ask.function = function;
  char text[kMaxNameBytes];
  std::span<std::byte> payload = std::as_writable_bytes(std::span(text));
  const CUresult result = CallDaemon(ask, info, {}, &payload);
  if (result == CUDA_SUCCESS && name != nullptr) name->assign(text, payload.size());
  return result;
}

// What `extra` of a launch holds instead of kernelParams.
CUresult ReadExtra(void** extra, std::vector<std::byte>& packed) {
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
  for (std::size_t i = 0; reinterpret_cast<std::uintptr_t>(extra[i]) != kLaunchParamEnd; i += 2) {
    const auto key = reinterpret_cast<std::uintptr_t>(extra[i]);
    if (key == kLaunchParamBufferPointer) {
      data = static_cast<const std::byte*>(extra[i + 1]);
    } else if (key == kLaunchParamBufferSize) {
      bytes = *static_cast<const std::size_t*>(extra[i + 1]);
    } else {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  if (data == nullptr || bytes > kMaxMessageBytes / 2) return CUDA_ERROR_INVALID_VALUE;
  packed.assign(data, data + bytes);
  return CUDA_SUCCESS;
}

CUresult PackParameters(Id function, void** parameters, void** extra, std::vector<std::byte>& packed) {
  if (parameters != nullptr && extra != nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (extra != nullptr) return ReadExtra(extra, packed);
  std::vector<ParameterPlace> places;
  if (!Client::Get()->FindLayout(function, places)) return CUDA_ERROR_INVALID_HANDLE;
  if (places.empty()) return CUDA_SUCCESS;
  if (parameters == nullptr) return CUDA_ERROR_INVALID_VALUE;
  packed.resize(places.back().offset + places.back().bytes);
  for (std::size_t i = 0; i < places.size(); ++i) {
    if (parameters[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
    std::memcpy(packed.data() + places[i].offset, parameters[i], places[i].bytes);
  }
  return CUDA_SUCCESS;
}

CUresult Launch(CUfunction function, const CUlaunchConfig& config, void** parameters, void** extra) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  request::Launch launch;
  launch.function = ToId(function);
  launch.stream = ToId(config.hStream);
  launch.grid = {config.gridDimX, config.gridDimY, config.gridDimZ};
  launch.block = {config.blockDimX, config.blockDimY, config.blockDimZ};
  launch.dynamic_shared_bytes = config.sharedMemBytes;
  std::vector<std::byte> packed;
  const CUresult result = PackParameters(launch.function, parameters, extra, packed);
  if (result != CUDA_SUCCESS) return result;
  Empty reply;
  return CallDaemon(launch, reply, packed);
}

constexpr std::size_t kSharedPerMultiprocessor = 227 * 1024;

int BlocksPerMultiprocessor(const FunctionDescription& info, std::size_t threads, std::size_t dynamic_bytes) {
  if (threads == 0 || threads > info.max_threads) return 0;
  std::size_t blocks = std::min<std::size_t>(32, 2048 / threads);
  const std::size_t shared = info.static_shared_bytes + dynamic_bytes;
  if (shared > 0) blocks = std::min(blocks, kSharedPerMultiprocessor / shared);
  return static_cast<int>(blocks);
}

}  // namespace
}  // namespace softgpu

using softgpu::FunctionDescription;

extern "C" {

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  if (module == nullptr || image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Id id = 0;
  const CUresult result = softgpu::LoadModuleText(image, id);
  if (result == CUDA_SUCCESS) *module = ToHandle<CUmodule>(id);
  return result;
}

// Options tune a compiler that is not here.
CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
  return cuModuleLoadData(module, image);
}

CUresult cuModuleLoad(CUmodule* module, const char* path) {
  if (module == nullptr || path == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const softgpu::UniqueFd file(open(path, O_RDONLY | O_CLOEXEC));
  struct stat status{};
  if (!file.valid() || fstat(file.get(), &status) != 0) return CUDA_ERROR_FILE_NOT_FOUND;
  if (status.st_size > static_cast<off_t>(softgpu::kMaxModuleTextBytes)) return CUDA_ERROR_INVALID_IMAGE;
  std::string text(static_cast<std::size_t>(status.st_size), '\0');
  const ssize_t count = read(file.get(), text.data(), text.size());
  if (count != static_cast<ssize_t>(text.size())) return CUDA_ERROR_FILE_NOT_FOUND;
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

CUresult cuLibraryLoadData(CUlibrary* library, const void* image, CUjit_option*, void**, unsigned, CUlibraryOption*,
                           void**, unsigned) {
  if (library == nullptr || image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Id id = 0;
  const CUresult result = softgpu::LoadModuleText(image, id);
  if (result == CUDA_SUCCESS) *library = ToHandle<CUlibrary>(id);
  return result;
}

CUresult cuLibraryUnload(CUlibrary library) { return cuModuleUnload(ToHandle<CUmodule>(ToId(library))); }

CUresult cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
  if (kernel == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Id id = 0;
  const CUresult result = softgpu::FindFunction(ToId(library), name, id);
  if (result == CUDA_SUCCESS) *kernel = ToHandle<CUkernel>(id);
  return result;
}

CUresult cuLibraryGetModule(CUmodule* module, CUlibrary library) {
  if (module == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *module = ToHandle<CUmodule>(ToId(library));
  return Client::Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_SUCCESS;
}

CUresult cuLibraryGetGlobal(CUdeviceptr* pointer, std::size_t* bytes, CUlibrary library, const char* name) {
  return softgpu::FindGlobal(ToId(library), pointer, bytes, name);
}

CUresult cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  FunctionDescription info;
  const CUresult result = softgpu::Inspect(ToId(kernel), info);
  if (result == CUDA_SUCCESS) *function = ToHandle<CUfunction>(ToId(kernel));
  return result;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
  FunctionDescription info;
  const CUresult result = softgpu::Inspect(ToId(function), info);
  if (result != CUDA_SUCCESS) return result;
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      *value = static_cast<int>(info.max_threads);
      break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
      *value = static_cast<int>(info.static_shared_bytes);
      break;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
      *value = static_cast<int>(info.local_bytes);
      break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      *value = static_cast<int>(info.register_count);
      break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      *value = 90;
      break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      *value = static_cast<int>(info.max_dynamic_shared_bytes);
      break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      *value = -1;
      break;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
    case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA:
      *value = 0;
      break;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  if (attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) {
    FunctionDescription info;
    return softgpu::Inspect(ToId(function), info);
  }
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0) return CUDA_ERROR_INVALID_VALUE;
  request::FunctionSet set;
  set.function = ToId(function);
  set.max_dynamic_shared_bytes = static_cast<std::uint32_t>(value);
  return CallDaemon(set);
}

CUresult cuFuncSetCacheConfig(CUfunction function, CUfunc_cache) {
  FunctionDescription info;
  return softgpu::Inspect(ToId(function), info);
}

CUresult cuFuncGetModule(CUmodule* module, CUfunction function) {
  if (module == nullptr) return CUDA_ERROR_INVALID_VALUE;
  FunctionDescription info;
  const CUresult result = softgpu::Inspect(ToId(function), info);
  if (result == CUDA_SUCCESS) *module = ToHandle<CUmodule>(info.module);
  return result;
}

CUresult cuFuncGetName(const char** name, CUfunction function) {
  if (name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  FunctionDescription info;
  std::string text;
  const CUresult result = softgpu::Inspect(ToId(function), info, &text);
  // The caller may keep it as long as it likes, so names are never freed; there are few.
  static std::mutex mutex;
  static auto* names = new std::set<std::string>();
  const std::lock_guard lock(mutex);
  if (result == CUDA_SUCCESS) *name = names->insert(text).first->c_str();
  return result;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters,
                        void** extra) {
  const CUlaunchConfig config{grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream, nullptr, 0};
  return softgpu::Launch(function, config, parameters, extra);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void** extra) {
  if (config == nullptr || (config->numAttrs > 0 && config->attrs == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config->attrs[i];
    const bool is_harmless = attribute.id == CU_LAUNCH_ATTRIBUTE_IGNORE || attribute.id == CU_LAUNCH_ATTRIBUTE_PRIORITY;
    const bool is_plain = attribute.id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE && attribute.value.cooperative == 0;
    if (!is_harmless && !is_plain) return CUDA_ERROR_NOT_SUPPORTED;
  }
  return softgpu::Launch(function, *config, parameters, extra);
}

// Blocks run one after the other, so a block can never wait for a later one.
CUresult cuLaunchCooperativeKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                   CUstream, void**) {
  return Client::Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int block_size,
                                                     std::size_t dynamic_bytes) {
  if (blocks == nullptr || block_size <= 0) return CUDA_ERROR_INVALID_VALUE;
  FunctionDescription info;
  const CUresult result = softgpu::Inspect(ToId(function), info);
  if (result == CUDA_SUCCESS) {
    *blocks = softgpu::BlocksPerMultiprocessor(info, static_cast<std::size_t>(block_size), dynamic_bytes);
  }
  return result;
}

CUresult cuOccupancyMaxPotentialBlockSize(int* min_grid, int* block, CUfunction function, CUoccupancyB2DSize to_bytes,
                                          std::size_t dynamic_bytes, int limit) {
  if (min_grid == nullptr || block == nullptr) return CUDA_ERROR_INVALID_VALUE;
  FunctionDescription info;
  const CUresult result = softgpu::Inspect(ToId(function), info);
  if (result != CUDA_SUCCESS) return result;
  int best = 0;
  int best_blocks = 0;
  const int most = limit > 0 ? std::min<int>(limit, 1024) : 1024;
  for (int size = 32; size <= most; size += 32) {
    const std::size_t bytes = to_bytes != nullptr ? to_bytes(size) : dynamic_bytes;
    const int blocks = softgpu::BlocksPerMultiprocessor(info, static_cast<std::size_t>(size), bytes);
    if (blocks * size < best * best_blocks || blocks == 0) continue;
    best = size;
    best_blocks = blocks;
  }
  if (best == 0) return CUDA_ERROR_INVALID_VALUE;
  *block = best;
  *min_grid = best_blocks * 4;  // As many multiprocessors as CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT says.
  return CUDA_SUCCESS;
}

}  // extern "C"
