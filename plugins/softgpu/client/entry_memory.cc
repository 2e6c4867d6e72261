// Driver entry points: memory of devices and pinned memory of the program.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "plugins/softgpu/client/entry_points.h"

using namespace cuda_abi;  // Signatures are the interface's own.
using softgpu::CallDaemon;
using softgpu::Client;
using softgpu::CurrentContexts;
using softgpu::Id;
namespace request = softgpu::request;

namespace softgpu {
namespace {

CUresult CheckCurrent() {
  request::ContextInfo ask;
  ask.context = CurrentContexts().current();
  request::ContextInfo::Reply info;
  const CUresult result = CallDaemon(ask, info);
  return result == CUDA_SUCCESS ? static_cast<CUresult>(info.error) : result;
}

CUresult AllocateHost(void** pointer, std::size_t bytes, unsigned flags) {
  if (pointer == nullptr) return CUDA_ERROR_INVALID_VALUE;
  constexpr unsigned kKnown = kMemHostAllocPortable | kMemHostAllocDeviceMap | kMemHostAllocWriteCombined;
  if ((flags & ~kKnown) != 0 || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult checked = CheckCurrent(); checked != CUDA_SUCCESS) return checked;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  Client::Get()->AddPinned(ToAddress(memory), bytes, flags, /*is_ours=*/true);
  *pointer = memory;
  return CUDA_SUCCESS;
}

template <typename T>
CUresult Store(void* data, T value) {
  std::memcpy(data, &value, sizeof(value));
  return CUDA_SUCCESS;
}

// What cuMemExportToShareableHandle would take.
std::uint64_t HandleTypesOf(CUdeviceptr pointer) {
  request::PhysicalRetain retain;
  retain.address = pointer;
  request::PhysicalRetain::Reply held;
  if (CallDaemon(retain, held) != CUDA_SUCCESS) return CU_MEM_HANDLE_TYPE_NONE;
  request::PhysicalInfo ask;
  ask.handle = held.handle;
  request::PhysicalInfo::Reply info;
  const CUresult result = CallDaemon(ask, info);
  request::PhysicalRelease release;
  release.handle = held.handle;
  CallDaemon(release);
  return result == CUDA_SUCCESS ? info.properties.handle_types : std::uint64_t{CU_MEM_HANDLE_TYPE_NONE};
}

// Of the current context's device.
unsigned AccessOf(CUdeviceptr pointer, const request::MemFind::Reply& found) {
  request::ContextInfo ask;
  ask.context = CurrentContexts().current();
  request::ContextInfo::Reply info;
  if (CallDaemon(ask, info) != CUDA_SUCCESS) return CU_MEM_ACCESS_FLAGS_PROT_NONE;
  if (found.is_mapped == 0) {
    return info.ordinal == found.ordinal ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_NONE;
  }
  request::GetAccess get;
  get.address = pointer;
  get.ordinal = info.ordinal;
  request::GetAccess::Reply access;
  return CallDaemon(get, access) == CUDA_SUCCESS ? static_cast<unsigned>(access.flags) : 0;
}

CUresult DeviceAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr pointer,
                         const request::MemFind::Reply& found) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      return Store(data, found.context);
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return Store<unsigned>(data, CU_MEMORYTYPE_DEVICE);
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      return Store(data, pointer);
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      return Store(data, found.base);
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      return Store(data, found.bytes);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return Store(data, static_cast<int>(found.ordinal));
    case CU_POINTER_ATTRIBUTE_MAPPED:
      return Store<unsigned char>(data, 1);
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      return Store<unsigned char>(data, found.is_mapped == 0 ? 1 : 0);
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
      return Store<unsigned char>(data, 0);
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
      return Store<std::uint64_t>(data, HandleTypesOf(pointer));
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      return Store<unsigned>(data, AccessOf(pointer, found));
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
      return Store<std::uint64_t>(data, 0);
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
      return Store(data, found.base);
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
      return Store(data, found.bytes);
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
      return Store(data, found.base);
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult HostAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  std::uint64_t base = 0;
  Client::Pinned pinned;
  if (!Client::Get()->FindPinned(pointer, 1, base, pinned)) return CUDA_ERROR_INVALID_VALUE;
  if (attribute == CU_POINTER_ATTRIBUTE_MEMORY_TYPE) return Store<unsigned>(data, CU_MEMORYTYPE_HOST);
  if (attribute == CU_POINTER_ATTRIBUTE_HOST_POINTER) return Store(data, pointer);
  if (attribute == CU_POINTER_ATTRIBUTE_IS_MANAGED) return Store<unsigned char>(data, 0);
  if (attribute == CU_POINTER_ATTRIBUTE_RANGE_START_ADDR) return Store(data, base);
  if (attribute == CU_POINTER_ATTRIBUTE_RANGE_SIZE) return Store(data, pinned.bytes);
  return CUDA_ERROR_INVALID_VALUE;
}

// How many bytes its value has; 0: there is no such attribute.
std::size_t AttributeBytes(CUpointer_attribute attribute) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      return 4;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_MAPPED:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
      return 1;
    case CU_POINTER_ATTRIBUTE_CONTEXT:
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
      return 8;
  }
  return 0;
}

}  // namespace
}  // namespace softgpu

extern "C" {

CUresult cuMemAlloc_v2(CUdeviceptr* pointer, std::size_t bytes) {
  if (pointer == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::MemAlloc allocate;
  allocate.bytes = bytes;
  request::MemAlloc::Reply reply;
  const CUresult result = CallDaemon(allocate, reply);
  if (result == CUDA_SUCCESS) *pointer = reply.address;
  return result;
}

CUresult cuMemAllocPitch_v2(CUdeviceptr* pointer, std::size_t* pitch, std::size_t width, std::size_t height,
                            unsigned element_bytes) {
  constexpr std::size_t kPitchAlignment = 512;
  if (pointer == nullptr || pitch == nullptr || width == 0 || height == 0) return CUDA_ERROR_INVALID_VALUE;
  if (element_bytes != 4 && element_bytes != 8 && element_bytes != 16) return CUDA_ERROR_INVALID_VALUE;
  if (width > softgpu::kMaxSpanBytes || height > softgpu::kMaxSpanBytes / width) return CUDA_ERROR_OUT_OF_MEMORY;
  const std::size_t row = (width + kPitchAlignment - 1) / kPitchAlignment * kPitchAlignment;
  const CUresult result = cuMemAlloc_v2(pointer, row * height);
  if (result == CUDA_SUCCESS) *pitch = row;
  return result;
}

CUresult cuMemFree_v2(CUdeviceptr pointer) {
  request::MemFree free;
  free.address = pointer;
  return CallDaemon(free);
}

CUresult cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  request::MemInfo::Reply reply;
  const CUresult result = CallDaemon(request::MemInfo{}, reply);
  if (result != CUDA_SUCCESS) return result;
  if (free != nullptr) *free = reply.free_bytes;
  if (total != nullptr) *total = reply.total_bytes;
  return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, std::size_t* bytes, CUdeviceptr pointer) {
  request::MemFind find;
  find.address = pointer;
  request::MemFind::Reply reply;
  const CUresult result = CallDaemon(find, reply);
  // Source: cuMemGetAddressRange: NOT_FOUND if the pointer is of no allocation.
  if (result != CUDA_SUCCESS) return result == CUDA_ERROR_INVALID_VALUE ? CUDA_ERROR_NOT_FOUND : result;
  if (base != nullptr) *base = reply.base;
  if (bytes != nullptr) *bytes = reply.bytes;
  return CUDA_SUCCESS;
}

CUresult cuMemAllocHost_v2(void** pointer, std::size_t bytes) { return softgpu::AllocateHost(pointer, bytes, 0); }

CUresult cuMemHostAlloc(void** pointer, std::size_t bytes, unsigned flags) {
  return softgpu::AllocateHost(pointer, bytes, flags);
}

CUresult cuMemFreeHost(void* pointer) {
  if (const CUresult checked = softgpu::CheckCurrent(); checked != CUDA_SUCCESS) return checked;
  CallDaemon(request::ContextWait{});  // A copy may still use it.
  Client::Pinned pinned;
  if (!Client::Get()->TakePinned(softgpu::ToAddress(pointer), /*is_ours=*/true, pinned)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  munmap(pointer, pinned.bytes);
  return CUDA_SUCCESS;
}

CUresult cuMemHostRegister_v2(void* pointer, std::size_t bytes, unsigned flags) {
  if (const CUresult checked = softgpu::CheckCurrent(); checked != CUDA_SUCCESS) return checked;
  if (pointer == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if ((flags & ~(kMemHostRegisterPortable | kMemHostRegisterDeviceMap)) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  std::uint64_t base = 0;
  Client::Pinned pinned;
  if (Client::Get()->FindPinned(softgpu::ToAddress(pointer), 1, base, pinned)) {
    return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  }
  Client::Get()->AddPinned(softgpu::ToAddress(pointer), bytes, flags, /*is_ours=*/false);
  return CUDA_SUCCESS;
}

CUresult cuMemHostUnregister(void* pointer) {
  if (const CUresult checked = softgpu::CheckCurrent(); checked != CUDA_SUCCESS) return checked;
  CallDaemon(request::ContextWait{});  // A copy may still use it.
  Client::Pinned pinned;
  return Client::Get()->TakePinned(softgpu::ToAddress(pointer), /*is_ours=*/false, pinned)
             ? CUDA_SUCCESS
             : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
}

// Kernels here reach device memory only.
CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr*, void*, unsigned) {
  return Client::Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuMemHostGetFlags(unsigned* flags, void* pointer) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  std::uint64_t base = 0;
  Client::Pinned pinned;
  if (flags == nullptr || !Client::Get()->FindPinned(softgpu::ToAddress(pointer), 1, base, pinned)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *flags = pinned.flags;
  return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::MemFind find;
  find.address = pointer;
  request::MemFind::Reply found;
  const CUresult result = CallDaemon(find, found);
  if (result == CUDA_SUCCESS) return softgpu::DeviceAttribute(data, attribute, pointer, found);
  return result == CUDA_ERROR_INVALID_VALUE ? softgpu::HostAttribute(data, attribute, pointer) : result;
}

CUresult cuPointerSetAttribute(const void* value, CUpointer_attribute attribute, CUdeviceptr pointer) {
  if (value == nullptr || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS) return CUDA_ERROR_INVALID_VALUE;
  // Synchronous copies are synchronous here in any case.
  unsigned char ignored = 0;
  return cuPointerGetAttribute(&ignored, attribute, pointer);
}

CUresult cuPointerGetAttributes(unsigned count, CUpointer_attribute* attributes, void** data, CUdeviceptr pointer) {
  if (attributes == nullptr || data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < count; ++i) {
    const CUresult result = cuPointerGetAttribute(data[i], attributes[i], pointer);
    // Source: cuPointerGetAttributes: what does not apply to a plain host pointer is a default, not an error.
    if (result == CUDA_ERROR_INVALID_VALUE && data[i] != nullptr) {
      const std::size_t bytes = softgpu::AttributeBytes(attributes[i]);
      if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
      std::memset(data[i], 0, bytes);
      // Source: CU_DEVICE_INVALID of cuda.h is -2.
      if (attributes[i] == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) softgpu::Store(data[i], -2);
    } else if (result != CUDA_SUCCESS) {
      return result;
    }
  }
  return CUDA_SUCCESS;
}

}  // extern "C"
