// Driver entry points: library and devices.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "plugins/softgpu/client/driver_facts.h"
#include "plugins/softgpu/client/entry_points.h"

using namespace cuda_abi;  // Signatures are the interface's own.
using softgpu::Client;

namespace softgpu {

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
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
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

}  // namespace
}  // namespace softgpu

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

// Peers do not reach each other: see cuDeviceCanAccessPeer.
CUresult cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attribute, CUdevice device, CUdevice peer) {
  DeviceDescription description;
  CUresult result = FindDevice(device, description);
  if (result == CUDA_SUCCESS) result = FindDevice(peer, description);
  if (result != CUDA_SUCCESS) return result;
  if (device == peer) return CUDA_ERROR_INVALID_DEVICE;
  const bool is_known = attribute >= CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK &&
                        attribute <= CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED;
  if (value == nullptr || !is_known) return CUDA_ERROR_INVALID_VALUE;
  *value = 0;
  return CUDA_SUCCESS;
}

CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice device) {
  if (major == nullptr || minor == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = cuDeviceGetAttribute(major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
  if (result != CUDA_SUCCESS) return result;
  return cuDeviceGetAttribute(minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
}

CUresult cuDeviceGetProperties(CUdevprop* properties, CUdevice device) {
  DeviceDescription description;
  const CUresult result = FindDevice(device, description);
  if (result != CUDA_SUCCESS) return result;
  if (properties == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto value = [&](CUdevice_attribute attribute) { return softgpu::Attribute(attribute, description); };
  properties->maxThreadsPerBlock = value(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
  properties->maxThreadsDim[0] = value(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X);
  properties->maxThreadsDim[1] = value(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y);
  properties->maxThreadsDim[2] = value(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z);
  properties->maxGridSize[0] = value(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X);
  properties->maxGridSize[1] = value(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y);
  properties->maxGridSize[2] = value(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z);
  properties->sharedMemPerBlock = value(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
  properties->totalConstantMemory = value(CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY);
  properties->SIMDWidth = value(CU_DEVICE_ATTRIBUTE_WARP_SIZE);
  properties->memPitch = value(CU_DEVICE_ATTRIBUTE_MAX_PITCH);
  properties->regsPerBlock = value(CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK);
  properties->clockRate = value(CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
  properties->textureAlign = value(CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT);
  return CUDA_SUCCESS;
}

// Source: cuDeviceGetLuid is of Windows; elsewhere it is not supported.
CUresult cuDeviceGetLuid(char*, unsigned*, CUdevice) {
  return Client::Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_ERROR_NOT_SUPPORTED;
}

}  // extern "C"
