// Driver entry points: library, devices and contexts.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "plugins/softgpu/client/driver_facts.h"
#include "plugins/softgpu/client/entry_points.h"

using namespace cuda_abi;  // Signatures are the interface's own.
using softgpu::CallDaemon;
using softgpu::Client;
using softgpu::CurrentContexts;
using softgpu::Id;
using softgpu::ToHandle;
using softgpu::ToId;
namespace request = softgpu::request;

namespace softgpu {

ContextStack& CurrentContexts() {
  thread_local ContextStack stack{};
  return stack;
}

namespace {

// SUCCESS and the device, or why not. Copied inside the gate: a restore changes it.
CUresult FindDevice(CUdevice device, DeviceDescription& description) {
  Client* client = Client::Get();
  if (client == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (device < 0 || static_cast<std::uint32_t>(device) >= client->device_count()) return CUDA_ERROR_INVALID_DEVICE;
  const Gate::Pass pass(client->gate());
  description = client->link().devices[static_cast<std::size_t>(device)].description;
  return CUDA_SUCCESS;
}

// As an H200 answers where it matters to programs; what the emulation cannot do is 0.
int Attribute(CUdevice_attribute attribute, const DeviceDescription& device) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID:
      return device.numa_node;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
      return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
      return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
      return 0x7fffffff;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
      return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
      return 48 * 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      return 227 * 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
      return 228 * 1024;
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
      return 1024;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
      return 65536;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
      return 32;
    case CU_DEVICE_ATTRIBUTE_MAX_PITCH:
      return 0x7fffffff;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
      return 1000000;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT:
      return 512;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      return 4;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
      return 2048;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
      return 32;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
      return 64;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
      return 1 << 20;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      return 9;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      return 0;
    case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID:
      return static_cast<int>(device.pci_domain);
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
      return static_cast<int>(device.pci_bus);
    case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID:
      return static_cast<int>(device.pci_device);
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
      return 1;
    default:
      return 0;
  }
}

void FormatPci(const DeviceDescription& device, char (&text)[16]) {
  std::snprintf(text, sizeof(text), "%04x:%02x:%02x.0", device.pci_domain & 0xffff, device.pci_bus & 0xff,
                device.pci_device & 0xff);
}

CUresult CopyText(const char* text, char* out, int length) {
  if (out == nullptr || length <= 0) return CUDA_ERROR_INVALID_VALUE;
  std::snprintf(out, static_cast<std::size_t>(length), "%s", text);
  return CUDA_SUCCESS;
}

CUresult CheckFlags(CUdevice device) { return device < 0 ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS; }

CUresult CreateContext(CUcontext* context, unsigned flags, CUdevice device) {
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult checked = CheckFlags(device); checked != CUDA_SUCCESS) return checked;
  ContextStack& stack = CurrentContexts();
  if (stack.depth == ContextStack::kMaxDepth) return CUDA_ERROR_OUT_OF_MEMORY;
  request::ContextCreate create;
  create.ordinal = static_cast<std::uint32_t>(device);
  create.flags = flags;
  request::ContextCreate::Reply reply;
  const CUresult result = CallDaemon(create, reply);
  if (result != CUDA_SUCCESS) return result;
  stack.contexts[stack.depth++] = reply.context;
  *context = ToHandle<CUcontext>(reply.context);
  return CUDA_SUCCESS;
}

CUresult Inspect(Id context, request::ContextInfo::Reply& info) {
  request::ContextInfo ask;
  ask.context = context;
  return CallDaemon(ask, info);
}

}  // namespace
}  // namespace softgpu

using softgpu::ContextStack;
using softgpu::DeviceDescription;
using softgpu::FindDevice;

extern "C" {

CUresult cuInit(unsigned flags) { return flags != 0 ? CUDA_ERROR_INVALID_VALUE : Client::Initialize(); }

CUresult cuDriverGetVersion(int* version) {
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Client* client = Client::Get();
  *version = static_cast<int>(client != nullptr ? client->driver_version() : softgpu::AskDriverFacts().version);
  return CUDA_SUCCESS;
}

// NVIDIA's runtime library would take tables of undocumented functions from here. There are none.
CUresult cuGetExportTable(const void** table, const CUuuid* id) {
  if (table == nullptr || id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *table = nullptr;
  return CUDA_ERROR_NOT_FOUND;
}

CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode* mode) {
  if (mode == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *mode = CU_MODULE_EAGER_LOADING;
  return CUDA_SUCCESS;
}

// --- devices ---

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  DeviceDescription description;
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = FindDevice(ordinal, description);
  if (result == CUDA_SUCCESS) *device = ordinal;
  return result;
}

CUresult cuDeviceGetCount(int* count) {
  const Client* client = Client::Get();
  if (client == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *count = static_cast<int>(client->device_count());
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  DeviceDescription description;
  const CUresult result = FindDevice(device, description);
  return result == CUDA_SUCCESS ? softgpu::CopyText(description.chip, name, length) : result;
}

CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
  DeviceDescription description;
  const CUresult result = FindDevice(device, description);
  if (result != CUDA_SUCCESS) return result;
  if (uuid == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(uuid->bytes, description.uuid.data(), sizeof(uuid->bytes));
  return CUDA_SUCCESS;
}

// The first flavour tells the GPU that a partition is of. Source: cuda.h, cuDeviceGetUuid.
CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  DeviceDescription description;
  const CUresult result = FindDevice(device, description);
  if (result != CUDA_SUCCESS || description.is_partition == 0) return cuDeviceGetUuid_v2(uuid, device);
  if (uuid == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(uuid->bytes, description.parent.data(), description.parent.size());
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(std::size_t* bytes, CUdevice device) {
  DeviceDescription description;
  const CUresult result = FindDevice(device, description);
  if (result != CUDA_SUCCESS) return result;
  if (bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *bytes = description.memory_bytes;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  DeviceDescription description;
  const CUresult result = FindDevice(device, description);
  if (result != CUDA_SUCCESS) return result;
  if (value == nullptr || attribute == 0 || attribute > 4096) return CUDA_ERROR_INVALID_VALUE;
  *value = softgpu::Attribute(attribute, description);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char* text, int length, CUdevice device) {
  DeviceDescription description;
  const CUresult result = FindDevice(device, description);
  if (result != CUDA_SUCCESS) return result;
  char id[16];
  softgpu::FormatPci(description, id);
  return softgpu::CopyText(id, text, length);
}

CUresult cuDeviceGetByPCIBusId(CUdevice* device, const char* text) {
  if (device == nullptr || text == nullptr) return CUDA_ERROR_INVALID_VALUE;
  DeviceDescription description;
  for (CUdevice i = 0;; ++i) {
    const CUresult result = FindDevice(i, description);
    if (result != CUDA_SUCCESS) return result;
    char id[16];
    softgpu::FormatPci(description, id);
    // With or without domain and function, as the real call takes it.
    const std::size_t length = std::strlen(text);
    for (const char* form : {static_cast<const char*>(id), static_cast<const char*>(id) + 5}) {
      if (length < 5 || strncasecmp(form, text, length) != 0) continue;
      *device = i;
      return CUDA_SUCCESS;
    }
  }
}

CUresult cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer) {
  DeviceDescription description;
  CUresult result = FindDevice(device, description);
  if (result == CUDA_SUCCESS) result = FindDevice(peer, description);
  if (result != CUDA_SUCCESS) return result;
  if (can == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *can = 0;
  return CUDA_SUCCESS;
}

// --- contexts ---

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::PrimaryRetain retain;
  retain.ordinal = static_cast<std::uint32_t>(device);
  request::PrimaryRetain::Reply reply;
  const CUresult result = CallDaemon(retain, reply);
  if (result == CUDA_SUCCESS) *context = ToHandle<CUcontext>(reply.context);
  return result;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  request::PrimaryRelease release;
  release.ordinal = static_cast<std::uint32_t>(device);
  return CallDaemon(release);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
  if (flags == nullptr || active == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::PrimaryState ask;
  ask.ordinal = static_cast<std::uint32_t>(device);
  request::PrimaryState::Reply reply;
  const CUresult result = CallDaemon(ask, reply);
  *flags = reply.flags;
  *active = reply.active != 0 ? 1 : 0;
  return result;
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
  request::PrimaryReset reset;
  reset.ordinal = static_cast<std::uint32_t>(device);
  return CallDaemon(reset);
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
  request::PrimarySetFlags set;
  set.ordinal = static_cast<std::uint32_t>(device);
  set.flags = flags;
  return CallDaemon(set);
}

CUresult cuCtxCreate_v2(CUcontext* context, unsigned flags, CUdevice device) {
  return softgpu::CreateContext(context, flags, device);
}

CUresult cuCtxCreate_v4(CUcontext* context, CUctxCreateParams* parameters, unsigned flags, CUdevice device) {
  if (parameters != nullptr && (parameters->numExecAffinityParams != 0 || parameters->cigParams != nullptr)) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  return softgpu::CreateContext(context, flags, device);
}

CUresult cuCtxDestroy_v2(CUcontext context) {
  request::ContextDestroy destroy;
  destroy.context = ToId(context);
  request::ContextInfo::Reply info;
  const CUresult known = softgpu::Inspect(destroy.context, info);
  if (known != CUDA_SUCCESS) return known;
  if (info.is_primary != 0) return CUDA_ERROR_INVALID_CONTEXT;
  const CUresult result = CallDaemon(destroy);
  ContextStack& stack = CurrentContexts();
  if (result == CUDA_SUCCESS && stack.current() == destroy.context) --stack.depth;
  return result;
}

CUresult cuCtxSetCurrent(CUcontext context) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  ContextStack& stack = CurrentContexts();
  if (context == nullptr) {
    if (stack.depth > 0) --stack.depth;
    return CUDA_SUCCESS;
  }
  request::ContextInfo::Reply info;
  const CUresult known = softgpu::Inspect(ToId(context), info);
  if (known != CUDA_SUCCESS) return known;
  if (stack.depth == 0) stack.depth = 1;
  stack.contexts[stack.depth - 1] = ToId(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* context) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *context = ToHandle<CUcontext>(CurrentContexts().current());
  return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext context) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  ContextStack& stack = CurrentContexts();
  request::ContextInfo::Reply info;
  const CUresult known = softgpu::Inspect(ToId(context), info);
  if (known != CUDA_SUCCESS) return known;
  if (stack.depth == ContextStack::kMaxDepth) return CUDA_ERROR_OUT_OF_MEMORY;
  stack.contexts[stack.depth++] = ToId(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  ContextStack& stack = CurrentContexts();
  if (stack.depth == 0) return CUDA_ERROR_INVALID_CONTEXT;
  if (context != nullptr) *context = ToHandle<CUcontext>(stack.current());
  --stack.depth;
  return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() { return CallDaemon(request::ContextWait{}); }

CUresult cuCtxGetDevice(CUdevice* device) {
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::ContextInfo::Reply info;
  const CUresult result = softgpu::Inspect(CurrentContexts().current(), info);
  if (result == CUDA_SUCCESS) *device = static_cast<CUdevice>(info.ordinal);
  return result;
}

CUresult cuCtxGetFlags(unsigned* flags) {
  if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::ContextInfo::Reply info;
  const CUresult result = softgpu::Inspect(CurrentContexts().current(), info);
  if (result == CUDA_SUCCESS) *flags = info.flags;
  return result;
}

CUresult cuCtxGetApiVersion(CUcontext context, unsigned* version) {
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::ContextInfo::Reply info;
  const CUresult result = softgpu::Inspect(context != nullptr ? ToId(context) : CurrentContexts().current(), info);
  if (result == CUDA_SUCCESS) *version = 3020;
  return result;
}

CUresult cuCtxGetId(CUcontext context, unsigned long long* id) {
  if (id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Id asked = context != nullptr ? ToId(context) : CurrentContexts().current();
  request::ContextInfo::Reply info;
  const CUresult result = softgpu::Inspect(asked, info);
  if (result == CUDA_SUCCESS) *id = asked;
  return result;
}

// Limits are taken and forgotten: nothing here runs out of a stack, a FIFO or a heap.
CUresult cuCtxGetLimit(std::size_t* value, CUlimit limit) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::ContextInfo::Reply info;
  const CUresult result = softgpu::Inspect(CurrentContexts().current(), info);
  if (result != CUDA_SUCCESS) return result;
  if (limit > CU_LIMIT_MALLOC_HEAP_SIZE) return CUDA_ERROR_UNSUPPORTED_LIMIT;
  constexpr std::size_t kDefaults[] = {1024, std::size_t{1} << 20, std::size_t{8} << 20};
  *value = kDefaults[limit];
  return CUDA_SUCCESS;
}

CUresult cuCtxSetLimit(CUlimit limit, std::size_t) {
  std::size_t ignored = 0;
  return cuCtxGetLimit(&ignored, limit);
}

CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  request::ContextInfo::Reply info;
  const CUresult result = softgpu::Inspect(CurrentContexts().current(), info);
  if (result != CUDA_SUCCESS) return result;
  if (least != nullptr) *least = 0;
  if (greatest != nullptr) *greatest = -5;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCacheConfig(CUfunc_cache) {
  request::ContextInfo::Reply info;
  return softgpu::Inspect(CurrentContexts().current(), info);
}

CUresult cuCtxGetCacheConfig(CUfunc_cache* config) {
  if (config == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *config = CU_FUNC_CACHE_PREFER_NONE;
  request::ContextInfo::Reply info;
  return softgpu::Inspect(CurrentContexts().current(), info);
}

}  // extern "C"
