// Driver entry points: memory and copies.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

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
namespace {

std::uint64_t ToAddress(const void* pointer) { return reinterpret_cast<std::uint64_t>(pointer); }
void* ToPointer(std::uint64_t address) { return reinterpret_cast<void*>(address); }

// When the stream comes to it, copies between `host` and device memory that is ours while we hold the turn.
CUresult CopyInTurn(Client& client, Id stream, std::uint64_t device, void* host, std::size_t bytes, bool to_device) {
  const Gate::Pass pass(client.gate());
  Client::Channel channel(client);
  const Id context = CurrentContexts().current();
  request::CopyTurn take;
  take.stream = stream;
  take.address = device;
  take.bytes = bytes;
  request::CopyTurn::Reply turn;
  CUresult result = channel.Call(context, take, turn);
  if (result != CUDA_SUCCESS) return result;
  std::byte* window = client.Window(device);
  if (to_device) {
    std::memcpy(window, host, bytes);
  } else {
    std::memcpy(host, window, bytes);
  }
  request::CopyTurnDone done;
  done.turn = turn.turn;
  Empty reply;
  return channel.Call(context, done, reply);
}

// Pinned memory may change until the stream comes to the copy, so the service thread does it then.
bool IsPinned(Client& client, std::uint64_t host, std::size_t bytes) {
  std::uint64_t base = 0;
  Client::Pinned pinned;
  return client.FindPinned(host, bytes, base, pinned);
}

CUresult CopyLater(Client& client, Id stream, std::uint64_t device, std::uint64_t host, std::size_t bytes,
                   bool to_device) {
  if (const CUresult result = client.EnsureService(); result != CUDA_SUCCESS) return result;
  request::CopyDeferred copy;
  copy.stream = stream;
  copy.address = device;
  copy.host = host;
  copy.bytes = bytes;
  copy.to_device = to_device ? 1 : 0;
  return CallDaemon(copy);
}

CUresult CopyToDevice(CUdeviceptr to, const void* from, std::size_t bytes, Id stream, bool wait) {
  Client* client = Client::Get();
  if (client == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (bytes == 0) return CUDA_SUCCESS;
  if (from == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!wait && IsPinned(*client, ToAddress(from), bytes)) {
    return CopyLater(*client, stream, to, ToAddress(from), bytes, /*to_device=*/true);
  }
  if (bytes > kMaxInlineBytes) {
    return client->IsDevice(to) ? CopyInTurn(*client, stream, to, const_cast<void*>(from), bytes, true)
                                : CUDA_ERROR_INVALID_VALUE;
  }
  request::CopyIn copy;
  copy.stream = stream;
  copy.address = to;
  copy.wait = wait ? 1 : 0;
  Empty reply;
  return CallDaemon(copy, reply, std::span(static_cast<const std::byte*>(from), bytes));
}

CUresult CopyToHost(void* to, CUdeviceptr from, std::size_t bytes, Id stream, bool wait) {
  Client* client = Client::Get();
  if (client == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (bytes == 0) return CUDA_SUCCESS;
  if (to == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!wait && IsPinned(*client, ToAddress(to), bytes)) {
    return CopyLater(*client, stream, from, ToAddress(to), bytes, /*to_device=*/false);
  }
  if (bytes > kMaxInlineBytes) {
    return client->IsDevice(from) ? CopyInTurn(*client, stream, from, to, bytes, false) : CUDA_ERROR_INVALID_VALUE;
  }
  request::CopyOut copy;
  copy.stream = stream;
  copy.address = from;
  copy.bytes = bytes;
  Empty reply;
  std::span out(static_cast<std::byte*>(to), bytes);
  const CUresult result = CallDaemon(copy, reply, {}, &out);
  return result == CUDA_SUCCESS && out.size() != bytes ? kConnectionLost : result;
}

CUresult CopyOnDevice(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, Id stream, bool wait) {
  if (bytes == 0) return Client::Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_SUCCESS;
  request::CopyDevice copy;
  copy.stream = stream;
  copy.to = to;
  copy.from = from;
  copy.bytes = bytes;
  copy.wait = wait ? 1 : 0;
  return CallDaemon(copy);
}

// Either end on either side: unified addressing tells them apart.
CUresult CopyAny(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, Id stream, bool wait) {
  const Client* client = Client::Get();
  if (client == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const bool to_device = client->IsDevice(to);
  const bool from_device = client->IsDevice(from);
  if (to_device && from_device) return CopyOnDevice(to, from, bytes, stream, wait);
  if (to_device) return CopyToDevice(to, ToPointer(from), bytes, stream, wait);
  if (from_device) return CopyToHost(ToPointer(to), from, bytes, stream, wait);
  request::StreamWait first;
  first.stream = stream;
  const CUresult result = CallDaemon(first);
  if (result == CUDA_SUCCESS && bytes > 0) std::memmove(ToPointer(to), ToPointer(from), bytes);
  return result;
}

CUresult Fill(CUdeviceptr to, std::uint32_t value, std::uint32_t unit_bytes, std::size_t count, Id stream, bool wait) {
  if (count == 0) return Client::Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_SUCCESS;
  request::Fill fill;
  fill.stream = stream;
  fill.address = to;
  fill.count = count;
  fill.value = value;
  fill.unit_bytes = unit_bytes;
  fill.wait = wait ? 1 : 0;
  return CallDaemon(fill);
}

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
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      return Store<unsigned char>(data, 0);
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

CUresult cuPointerGetAttributes(unsigned count, CUpointer_attribute* attributes, void** data, CUdeviceptr pointer) {
  if (attributes == nullptr || data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < count; ++i) {
    const CUresult result = cuPointerGetAttribute(data[i], attributes[i], pointer);
    // Source: cuPointerGetAttributes: what does not apply to a plain host pointer is zero, not an error.
    if (result == CUDA_ERROR_INVALID_VALUE && data[i] != nullptr) {
      std::memset(data[i], 0, attributes[i] == CU_POINTER_ATTRIBUTE_MEMORY_TYPE ? sizeof(unsigned) : 1);
    } else if (result != CUDA_SUCCESS) {
      return result;
    }
  }
  return CUDA_SUCCESS;
}

CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
  return softgpu::CopyAny(to, from, bytes, 0, true);
}
CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  return softgpu::CopyAny(to, from, bytes, ToId(stream), false);
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t bytes) {
  return softgpu::CopyToDevice(to, from, bytes, 0, true);
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t bytes, CUstream stream) {
  return softgpu::CopyToDevice(to, from, bytes, ToId(stream), false);
}
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t bytes) {
  return softgpu::CopyToHost(to, from, bytes, 0, true);
}
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  return softgpu::CopyToHost(to, from, bytes, ToId(stream), false);
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
  return softgpu::CopyOnDevice(to, from, bytes, 0, true);
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  return softgpu::CopyOnDevice(to, from, bytes, ToId(stream), false);
}

CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, std::size_t count) {
  return softgpu::Fill(to, value, 1, count, 0, true);
}
CUresult cuMemsetD16_v2(CUdeviceptr to, unsigned short value, std::size_t count) {
  return softgpu::Fill(to, value, 2, count, 0, true);
}
CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, std::size_t count) {
  return softgpu::Fill(to, value, 4, count, 0, true);
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t count, CUstream stream) {
  return softgpu::Fill(to, value, 1, count, ToId(stream), false);
}
CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, std::size_t count, CUstream stream) {
  return softgpu::Fill(to, value, 2, count, ToId(stream), false);
}
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, std::size_t count, CUstream stream) {
  return softgpu::Fill(to, value, 4, count, ToId(stream), false);
}

}  // extern "C"
