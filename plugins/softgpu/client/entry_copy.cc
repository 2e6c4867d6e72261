// Driver entry points: copies and fills.
#include <algorithm>
#include <cstring>

#include "plugins/softgpu/client/entry_points.h"
#include "plugins/softgpu/client/host_copy.h"

using namespace cuda_abi;  // Signatures are the interface's own.
using softgpu::CallDaemon;
using softgpu::Client;
using softgpu::CurrentContexts;
using softgpu::Id;
using softgpu::ToId;
namespace request = softgpu::request;

namespace softgpu {
namespace {

// When the stream comes to it, copies between `host` and device memory that is ours while we hold the turn.
CUresult CopyInTurn(Client& client, Id stream, std::uint64_t device, void* host, std::size_t bytes, bool to_device) {
  const Gate::Pass pass(client.gate());
  Client::Channel channel(client);
  const Id context = CurrentContexts().current();
  request::CopyTurn take;
  take.stream = stream;
  take.address = device;
  take.bytes = bytes;
  take.to_device = to_device ? 1 : 0;
  request::CopyTurn::Reply turn;
  CUresult result = channel.Call(context, take, turn);
  if (result != CUDA_SUCCESS) return result;
  const HostCopy copy{device, static_cast<std::byte*>(host), bytes, to_device};
  if (turn.is_linear != 0) {
    CopyLinear(client, copy);
  } else {
    result = CopyPlaced(client, channel.socket(), copy);
  }
  request::CopyTurnDone done;
  done.turn = turn.turn;
  Empty reply;
  const CUresult ended = channel.Call(context, done, reply);
  return result == CUDA_SUCCESS ? ended : result;
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
  Client* client = Client::Get();
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

struct RowFill {
  CUdeviceptr to = 0;
  std::size_t pitch = 0;
  std::size_t width = 0;  // In units.
  std::size_t height = 0;
  std::uint32_t value = 0;
  std::uint32_t unit_bytes = 0;
};

CUresult FillRows(const RowFill& rows, Id stream, bool wait) {
  if (rows.width == 0 || rows.height == 0) {
    return Client::Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_SUCCESS;
  }
  request::Fill fill;
  fill.stream = stream;
  fill.address = rows.to;
  fill.count = rows.width;
  fill.value = rows.value;
  fill.unit_bytes = rows.unit_bytes;
  fill.wait = wait ? 1 : 0;
  fill.rows = rows.height;
  fill.pitch = rows.pitch;
  return CallDaemon(fill);
}

// --- two dimensions ---

// One side of a 2D copy: `height` rows of `width` bytes, `pitch` apart.
struct Plane {
  bool is_device = false;
  std::uint64_t address = 0;
  std::uint64_t pitch = 0;
};

CUresult ToPlane(CUmemorytype type, std::uint64_t host, CUdeviceptr device, std::size_t x_bytes, std::size_t y,
                 std::size_t pitch, const CUDA_MEMCPY2D& copy, Plane& plane) {
  switch (type) {
    case CU_MEMORYTYPE_HOST:
      plane = {false, host, pitch};
      break;
    case CU_MEMORYTYPE_DEVICE:
      plane = {true, device, pitch};
      break;
    case CU_MEMORYTYPE_UNIFIED:
      plane = {Client::Get()->IsDevice(device), device, pitch};
      break;
    case CU_MEMORYTYPE_ARRAY:
      return CUDA_ERROR_NOT_SUPPORTED;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  // Source: cuMemcpy2D: a pitch of 0 means that the rows are as wide as the copy.
  if (plane.pitch == 0) plane.pitch = x_bytes + copy.WidthInBytes;
  constexpr std::uint64_t kMost = kMaxSpanBytes;
  if (x_bytes > kMost || y > kMost || plane.pitch > 0x7fffffff ||
      copy.WidthInBytes > plane.pitch - std::min(plane.pitch, x_bytes)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  plane.address += y * plane.pitch + x_bytes;
  return plane.address == 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

// Between the program and a device. In one turn, so that it is one copy to the stream.
CUresult CopyRowsInTurn(Client& client, Id stream, const Plane& device, const Plane& host, const CUDA_MEMCPY2D& copy,
                        bool to_device) {
  const Gate::Pass pass(client.gate());
  Client::Channel channel(client);
  request::CopyTurn take;
  take.stream = stream;
  take.address = device.address;
  take.bytes = device.pitch * (copy.Height - 1) + copy.WidthInBytes;
  take.to_device = to_device ? 1 : 0;
  request::CopyTurn::Reply turn;
  CUresult result = channel.Call(CurrentContexts().current(), take, turn);
  if (result != CUDA_SUCCESS) return result;
  for (std::size_t row = 0; row < copy.Height && result == CUDA_SUCCESS; ++row) {
    const HostCopy part{device.address + row * device.pitch,
                        static_cast<std::byte*>(ToPointer(host.address + row * host.pitch)), copy.WidthInBytes,
                        to_device};
    if (turn.is_linear != 0) {
      CopyLinear(client, part);
    } else {
      result = CopyPlaced(client, channel.socket(), part);
    }
  }
  request::CopyTurnDone done;
  done.turn = turn.turn;
  Empty reply;
  const CUresult ended = channel.Call(CurrentContexts().current(), done, reply);
  return result == CUDA_SUCCESS ? ended : result;
}

CUresult CopyRowsOnDevice(const Plane& to, const Plane& from, const CUDA_MEMCPY2D& rows, Id stream, bool wait) {
  request::CopyDevice copy;
  copy.stream = stream;
  copy.to = to.address;
  copy.from = from.address;
  copy.bytes = rows.WidthInBytes;
  copy.wait = wait ? 1 : 0;
  copy.rows = rows.Height;
  copy.to_pitch = to.pitch;
  copy.from_pitch = from.pitch;
  return CallDaemon(copy);
}

CUresult Copy2D(const CUDA_MEMCPY2D* copy, Id stream, bool wait) {
  Client* client = Client::Get();
  if (client == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (copy == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (copy->WidthInBytes == 0 || copy->Height == 0) return CUDA_SUCCESS;
  Plane to;
  Plane from;
  CUresult result = ToPlane(copy->dstMemoryType, ToAddress(copy->dstHost), copy->dstDevice, copy->dstXInBytes,
                            copy->dstY, copy->dstPitch, *copy, to);
  if (result == CUDA_SUCCESS) {
    result = ToPlane(copy->srcMemoryType, ToAddress(copy->srcHost), copy->srcDevice, copy->srcXInBytes, copy->srcY,
                     copy->srcPitch, *copy, from);
  }
  if (result != CUDA_SUCCESS) return result;
  if (copy->Height > kMaxSpanBytes / std::max(to.pitch, from.pitch)) return CUDA_ERROR_INVALID_VALUE;
  if (to.is_device && from.is_device) return CopyRowsOnDevice(to, from, *copy, stream, wait);
  if (to.is_device || from.is_device) {
    const Plane& device = to.is_device ? to : from;
    const Plane& host = to.is_device ? from : to;
    if (!client->IsDevice(device.address)) return CUDA_ERROR_INVALID_VALUE;
    const std::size_t host_bytes = host.pitch * (copy->Height - 1) + copy->WidthInBytes;
    if (wait || !IsPinned(*client, host.address, host_bytes)) {
      return CopyRowsInTurn(*client, stream, device, host, *copy, to.is_device);
    }
    for (std::size_t row = 0; row < copy->Height && result == CUDA_SUCCESS; ++row) {
      result = CopyLater(*client, stream, device.address + row * device.pitch, host.address + row * host.pitch,
                         copy->WidthInBytes, to.is_device);
    }
    return result;
  }
  request::StreamWait first;
  first.stream = stream;
  result = CallDaemon(first);
  for (std::size_t row = 0; row < copy->Height && result == CUDA_SUCCESS; ++row) {
    std::memmove(ToPointer(to.address + row * to.pitch), ToPointer(from.address + row * from.pitch),
                 copy->WidthInBytes);
  }
  return result;
}

CUresult CheckPeers(CUcontext to, CUcontext from) {
  for (const CUcontext context : {to, from}) {
    request::ContextInfo ask;
    ask.context = ToId(context);
    request::ContextInfo::Reply info;
    if (const CUresult result = CallDaemon(ask, info); result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace softgpu

extern "C" {

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

CUresult cuMemsetD2D8_v2(CUdeviceptr to, std::size_t pitch, unsigned char value, std::size_t width,
                         std::size_t height) {
  return softgpu::FillRows({to, pitch, width, height, value, 1}, 0, true);
}
CUresult cuMemsetD2D8Async(CUdeviceptr to, std::size_t pitch, unsigned char value, std::size_t width,
                           std::size_t height, CUstream stream) {
  return softgpu::FillRows({to, pitch, width, height, value, 1}, ToId(stream), false);
}
CUresult cuMemsetD2D16_v2(CUdeviceptr to, std::size_t pitch, unsigned short value, std::size_t width,
                          std::size_t height) {
  return softgpu::FillRows({to, pitch, width, height, value, 2}, 0, true);
}
CUresult cuMemsetD2D16Async(CUdeviceptr to, std::size_t pitch, unsigned short value, std::size_t width,
                            std::size_t height, CUstream stream) {
  return softgpu::FillRows({to, pitch, width, height, value, 2}, ToId(stream), false);
}
CUresult cuMemsetD2D32_v2(CUdeviceptr to, std::size_t pitch, unsigned value, std::size_t width, std::size_t height) {
  return softgpu::FillRows({to, pitch, width, height, value, 4}, 0, true);
}
CUresult cuMemsetD2D32Async(CUdeviceptr to, std::size_t pitch, unsigned value, std::size_t width, std::size_t height,
                            CUstream stream) {
  return softgpu::FillRows({to, pitch, width, height, value, 4}, ToId(stream), false);
}

CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D* copy) { return softgpu::Copy2D(copy, 0, true); }
CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* copy) { return softgpu::Copy2D(copy, 0, true); }
CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* copy, CUstream stream) {
  return softgpu::Copy2D(copy, ToId(stream), false);
}

// Any device's memory is at hand for a copy: the contexts need only exist.
CUresult cuMemcpyPeer(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                      std::size_t bytes) {
  const CUresult checked = softgpu::CheckPeers(to_context, from_context);
  return checked == CUDA_SUCCESS ? softgpu::CopyOnDevice(to, from, bytes, 0, true) : checked;
}
CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                           std::size_t bytes, CUstream stream) {
  const CUresult checked = softgpu::CheckPeers(to_context, from_context);
  return checked == CUDA_SUCCESS ? softgpu::CopyOnDevice(to, from, bytes, ToId(stream), false) : checked;
}

}  // extern "C"
