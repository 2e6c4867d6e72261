// Driver entry points: virtual memory management, and memory of other processes.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "plugins/softgpu/client/entry_points.h"
#include "plugins/softgpu/wire/unique_fd.h"

using namespace cuda_abi;  // Signatures are the interface's own.
using softgpu::CallDaemon;
using softgpu::Client;
namespace request = softgpu::request;

namespace softgpu {
namespace {

constexpr std::uint64_t kPageBytes = 4096;
constexpr std::uint64_t kIpcMagic = 0x6370692d75706753;  // "Sgpu-ipc"

// What a CUipcMemHandle holds.
struct IpcName {
  std::uint64_t magic = kIpcMagic;
  Token token{};
  std::uint64_t bytes = 0;
};
static_assert(sizeof(IpcName) <= sizeof(CUipcMemHandle));

void GiveAddressesBack(std::uint64_t base, std::uint64_t bytes) { munmap(ToPointer(base), bytes); }

CUresult CheckProperties(const CUmemAllocationProp* properties) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (properties == nullptr || properties->type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
  if (properties->location.type == CU_MEM_LOCATION_TYPE_INVALID) return CUDA_ERROR_INVALID_VALUE;
  if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
  if ((properties->requestedHandleTypes & ~static_cast<unsigned>(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)) != 0) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  const int device = properties->location.id;
  const bool exists = device >= 0 && static_cast<std::uint32_t>(device) < Client::Get()->device_count();
  return exists ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

PhysicalProperties ToWire(const CUmemAllocationProp& properties) {
  PhysicalProperties wire;
  wire.ordinal = static_cast<std::uint32_t>(properties.location.id);
  wire.handle_types = properties.requestedHandleTypes;
  wire.compression = properties.allocFlags.compressionType;
  wire.is_rdma_capable = properties.allocFlags.gpuDirectRDMACapable;
  wire.usage = properties.allocFlags.usage;
  return wire;
}

}  // namespace
}  // namespace softgpu

extern "C" {

CUresult cuMemAddressReserve(CUdeviceptr* pointer, std::size_t bytes, std::size_t alignment, CUdeviceptr hint,
                             unsigned long long flags) {
  Client* client = Client::Get();
  if (client == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const bool is_power = (alignment & (alignment - 1)) == 0;  // 0 too: the default.
  if (pointer == nullptr || bytes == 0 || flags != 0 || !is_power) return CUDA_ERROR_INVALID_VALUE;
  if (bytes % softgpu::kPageBytes != 0 || hint % softgpu::kPageBytes != 0) return CUDA_ERROR_INVALID_VALUE;
  if (bytes > softgpu::kMaxSpanBytes || alignment > softgpu::kMaxSpanBytes) return CUDA_ERROR_OUT_OF_MEMORY;
  const std::uint64_t aligned = std::max<std::uint64_t>(alignment, softgpu::kMapGranuleBytes);
  request::Reserve reserve{softgpu::ReserveAddresses(bytes, aligned, hint), bytes};
  if (reserve.base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = CallDaemon(reserve);
  if (result != CUDA_SUCCESS) {
    softgpu::GiveAddressesBack(reserve.base, bytes);
    return result;
  }
  client->AddRange(reserve.base, bytes);
  *pointer = reserve.base;
  return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr pointer, std::size_t bytes) {
  const CUresult result = CallDaemon(request::Unreserve{pointer, bytes});
  if (result != CUDA_SUCCESS) return result;
  Client::Get()->RemoveRange(pointer);
  softgpu::GiveAddressesBack(pointer, bytes);
  return CUDA_SUCCESS;
}

CUresult cuMemGetAllocationGranularity(std::size_t* granularity, const CUmemAllocationProp* properties,
                                       CUmemAllocationGranularity_flags option) {
  if (granularity == nullptr || option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) return CUDA_ERROR_INVALID_VALUE;
  const CUresult checked = softgpu::CheckProperties(properties);
  if (checked == CUDA_SUCCESS) *granularity = softgpu::kMapGranuleBytes;
  return checked;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, std::size_t bytes, const CUmemAllocationProp* properties,
                     unsigned long long flags) {
  const CUresult checked = softgpu::CheckProperties(properties);
  if (checked != CUDA_SUCCESS) return checked;
  if (handle == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  request::PhysicalCreate create;
  create.bytes = bytes;
  create.properties = softgpu::ToWire(*properties);
  request::PhysicalCreate::Reply reply;
  const CUresult result = CallDaemon(create, reply);
  if (result == CUDA_SUCCESS) *handle = reply.handle;
  return result;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) { return CallDaemon(request::PhysicalRelease{handle}); }

CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* address) {
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::PhysicalRetain::Reply reply;
  const CUresult result = CallDaemon(request::PhysicalRetain{softgpu::ToAddress(address)}, reply);
  if (result == CUDA_SUCCESS) *handle = reply.handle;
  return result;
}

CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* properties, CUmemGenericAllocationHandle handle) {
  if (properties == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::PhysicalInfo::Reply info;
  const CUresult result = CallDaemon(request::PhysicalInfo{handle}, info);
  if (result != CUDA_SUCCESS) return result;
  *properties = {};
  properties->type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties->requestedHandleTypes = static_cast<CUmemAllocationHandleType>(info.properties.handle_types);
  properties->location = {CU_MEM_LOCATION_TYPE_DEVICE, static_cast<int>(info.properties.ordinal)};
  properties->allocFlags.compressionType = static_cast<unsigned char>(info.properties.compression);
  properties->allocFlags.gpuDirectRDMACapable = static_cast<unsigned char>(info.properties.is_rdma_capable);
  properties->allocFlags.usage = static_cast<unsigned short>(info.properties.usage);
  return CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr pointer, std::size_t bytes, std::size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags) {
  // Source: cuMemMap: the offset "currently must be zero".
  if (flags != 0 || offset != 0) return CUDA_ERROR_INVALID_VALUE;
  return CallDaemon(request::Map{pointer, bytes, offset, handle});
}

CUresult cuMemUnmap(CUdeviceptr pointer, std::size_t bytes) { return CallDaemon(request::Unmap{pointer, bytes}); }

CUresult cuMemSetAccess(CUdeviceptr pointer, std::size_t bytes, const CUmemAccessDesc* descriptions,
                        std::size_t count) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (descriptions == nullptr || count == 0 || count > 1024) return CUDA_ERROR_INVALID_VALUE;
  std::vector<softgpu::AccessDescription> wire;
  for (std::size_t i = 0; i < count; ++i) {
    const CUmemAccessDesc& description = descriptions[i];
    if (description.location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
    wire.push_back({static_cast<std::uint32_t>(description.location.id), description.flags});
  }
  softgpu::Empty reply;
  return CallDaemon(request::SetAccess{pointer, bytes}, reply, std::as_bytes(std::span(wire)));
}

CUresult cuMemGetAccess(unsigned long long* flags, const CUmemLocation* location, CUdeviceptr pointer) {
  if (flags == nullptr || location == nullptr || location->type != CU_MEM_LOCATION_TYPE_DEVICE) {
    return Client::Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_ERROR_INVALID_VALUE;
  }
  request::GetAccess::Reply reply;
  const CUresult result = CallDaemon(request::GetAccess{pointer, static_cast<std::uint32_t>(location->id)}, reply);
  if (result == CUDA_SUCCESS) *flags = reply.flags;
  return result;
}

CUresult cuMemExportToShareableHandle(void* shareable, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType type, unsigned long long flags) {
  if (shareable == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  request::PhysicalInfo::Reply info;
  CUresult result = CallDaemon(request::PhysicalInfo{handle}, info);
  if (result != CUDA_SUCCESS) return result;
  if ((info.properties.handle_types & CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) == 0) return CUDA_ERROR_INVALID_VALUE;
  int fd = -1;
  softgpu::Empty reply;
  result = CallDaemon(request::PhysicalExport{handle}, reply, {}, nullptr, -1, &fd);
  if (result != CUDA_SUCCESS) return result;
  if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  std::memcpy(shareable, &fd, sizeof(fd));
  return CUDA_SUCCESS;
}

// Source: cuMemImportFromShareableHandle: the descriptor itself is passed where the pointer is.
CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* os_handle,
                                        CUmemAllocationHandleType type) {
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  const int fd = static_cast<int>(reinterpret_cast<std::intptr_t>(os_handle));
  // Sending a descriptor that is none would end the connection.
  const softgpu::UniqueFd own(fd < 0 ? -1 : dup(fd));
  if (!own.valid()) return CUDA_ERROR_INVALID_VALUE;
  request::PhysicalImport::Reply reply;
  const CUresult result = CallDaemon(request::PhysicalImport{}, reply, {}, nullptr, own.get());
  if (result == CUDA_SUCCESS) *handle = reply.handle;
  return result;
}

CUresult cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr pointer) {
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::IpcExport::Reply reply;
  const CUresult result = CallDaemon(request::IpcExport{pointer}, reply);
  if (result != CUDA_SUCCESS) return result;
  softgpu::IpcName name;
  name.token = reply.token;
  name.bytes = reply.bytes;
  *handle = {};
  std::memcpy(handle->reserved, &name, sizeof(name));
  return CUDA_SUCCESS;
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr* pointer, CUipcMemHandle handle, unsigned flags) {
  Client* client = Client::Get();
  if (client == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (pointer == nullptr || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) return CUDA_ERROR_INVALID_VALUE;
  softgpu::IpcName name;
  std::memcpy(&name, handle.reserved, sizeof(name));
  if (name.magic != softgpu::kIpcMagic || name.bytes == 0 || name.bytes > softgpu::kMaxSpanBytes) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const std::uint64_t span = (name.bytes + softgpu::kPageBytes - 1) / softgpu::kPageBytes * softgpu::kPageBytes;
  request::IpcOpen open;
  open.token = name.token;
  open.bytes = name.bytes;
  open.address = softgpu::ReserveAddresses(span, softgpu::kMapGranuleBytes);
  if (open.address == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  request::IpcOpen::Reply reply;
  const CUresult result = CallDaemon(open, reply);
  if (result != CUDA_SUCCESS || reply.address != open.address) softgpu::GiveAddressesBack(open.address, span);
  if (result != CUDA_SUCCESS) return result;
  if (reply.address == open.address) client->AddRange(open.address, span);
  *pointer = reply.address;
  return CUDA_SUCCESS;
}

CUresult cuIpcCloseMemHandle(CUdeviceptr pointer) {
  request::IpcClose::Reply reply;
  const CUresult result = CallDaemon(request::IpcClose{pointer}, reply);
  if (result != CUDA_SUCCESS || reply.freed_bytes == 0) return result;
  Client::Get()->RemoveRange(pointer);
  softgpu::GiveAddressesBack(pointer, reply.freed_bytes);
  return CUDA_SUCCESS;
}

}  // extern "C"
