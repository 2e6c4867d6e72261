// Session: copies and fills.
//
// Work finds its bytes when it runs, not when it is added: its memory may be freed by then, or be somebody's new one,
// but it stays inside this session.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "plugins/softgpu/daemon/session.h"

namespace softgpu {

using cuda_abi::CUresult;

namespace {

using Pieces = std::vector<AddressSpace::Piece>;

// Calls act(host, offset in the whole, bytes) for all pieces.
template <typename Act>
void ForEach(const Pieces& pieces, Act act) {
  std::uint64_t offset = 0;
  for (const AddressSpace::Piece& piece : pieces) {
    act(piece.host, offset, piece.bytes);
    offset += piece.bytes;
  }
}

void CopyPieces(const Pieces& to, const Pieces& from) {
  std::size_t i = 0;
  std::size_t j = 0;
  std::uint64_t skip_to = 0;
  std::uint64_t skip_from = 0;
  while (i < to.size() && j < from.size()) {
    const std::uint64_t count = std::min(to[i].bytes - skip_to, from[j].bytes - skip_from);
    std::memmove(to[i].host + skip_to, from[j].host + skip_from, count);
    skip_to += count;
    skip_from += count;
    if (skip_to == to[i].bytes) ++i, skip_to = 0;
    if (skip_from == from[j].bytes) ++j, skip_from = 0;
  }
}

// The bytes from the first of the first row to the last of the last; 0: too many to count, or no row.
std::uint64_t SpanOf(std::uint64_t row_bytes, std::uint64_t rows, std::uint64_t pitch) {
  if (rows == 0 || rows > kMaxSpanBytes || row_bytes > kMaxSpanBytes) return 0;
  if (rows == 1) return row_bytes;
  if (pitch < row_bytes || pitch > kMaxSpanBytes / rows) return 0;
  return pitch * (rows - 1) + row_bytes;
}

// An aligned value never lies across two pieces, which begin and end at pages.
void FillPiece(std::byte* host, std::uint64_t bytes, const request::Fill& fill) {
  if (fill.unit_bytes == 1) std::memset(host, static_cast<int>(fill.value & 0xff), bytes);
  if (fill.unit_bytes == 2) {
    std::fill_n(reinterpret_cast<std::uint16_t*>(host), bytes / 2, static_cast<std::uint16_t>(fill.value));
  }
  if (fill.unit_bytes == 4) std::fill_n(reinterpret_cast<std::uint32_t*>(host), bytes / 4, fill.value);
}

}  // namespace

CUresult Session::CopyIn(Id context, Id stream, std::uint64_t to, std::span<const std::byte> data, bool wait) {
  {
    const std::lock_guard lock(mutex_);
    if (!space_.Holds(to, data.size(), /*write=*/true)) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  return AddWork(context, stream, wait, [this, to, copy = std::vector<std::byte>(data.begin(), data.end())] {
    WaitForBandwidthAt(to, copy.size());
    const std::lock_guard lock(mutex_);
    Pieces pieces;
    if (!space_.Locate(to, copy.size(), /*write=*/true, pieces)) return cuda_abi::CUDA_ERROR_ILLEGAL_ADDRESS;
    ForEach(pieces, [&](std::byte* host, std::uint64_t offset, std::uint64_t bytes) {
      std::memcpy(host, copy.data() + offset, bytes);
    });
    return cuda_abi::CUDA_SUCCESS;
  });
}

CUresult Session::CopyOut(Id context, Id stream, std::uint64_t from, std::span<std::byte> data) {
  {
    const std::lock_guard lock(mutex_);
    if (!space_.Holds(from, data.size(), /*write=*/false)) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  // Shared with the work, which may outlive our waiting for it when the session is closed.
  auto copied = std::make_shared<std::vector<std::byte>>(data.size());
  const CUresult result = AddWork(context, stream, /*wait=*/true, [this, from, copied] {
    WaitForBandwidthAt(from, copied->size());
    const std::lock_guard lock(mutex_);
    Pieces pieces;
    if (!space_.Locate(from, copied->size(), /*write=*/false, pieces)) return cuda_abi::CUDA_ERROR_ILLEGAL_ADDRESS;
    ForEach(pieces, [&](const std::byte* host, std::uint64_t offset, std::uint64_t bytes) {
      std::memcpy(copied->data() + offset, host, bytes);
    });
    return cuda_abi::CUDA_SUCCESS;
  });
  if (result == cuda_abi::CUDA_SUCCESS) std::memcpy(data.data(), copied->data(), data.size());
  return result;
}

CUresult Session::CopyTurn(Id context, const request::CopyTurn& copy, request::CopyTurn::Reply& reply) {
  Id stream = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!space_.Holds(copy.address, copy.bytes, copy.to_device != 0)) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    reply.turn = NewId();
  }
  if (const CUresult result = StreamOf(context, copy.stream, stream); result != cuda_abi::CUDA_SUCCESS) return result;
  if (const CUresult result = scheduler_.TakeTurn(stream, reply.turn); result != cuda_abi::CUDA_SUCCESS) return result;
  WaitForBandwidthAt(copy.address, copy.bytes);
  std::unique_lock lock(mutex_);
  memory_unused_.wait(lock, [&] { return movers_ == 0 || closed_; });
  copying_turns_.insert(reply.turn);
  reply.is_linear = space_.IsLinear(copy.address) ? 1 : 0;
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::FinishTurn(Id turn) {
  if (!scheduler_.FinishTurn(turn)) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  const std::lock_guard lock(mutex_);
  if (copying_turns_.erase(turn) > 0) memory_unused_.notify_all();
  return cuda_abi::CUDA_SUCCESS;
}

request::ServiceWait::Reply Session::NextService() {
  const request::ServiceWait::Reply item = scheduler_.NextService();
  if (item.kind == request::ServiceWait::Kind::kCopy) {
    std::unique_lock lock(mutex_);
    memory_unused_.wait(lock, [&] { return movers_ == 0 || closed_; });
    copying_turns_.insert(item.turn);
  }
  return item;
}

CUresult Session::CopyDeferred(Id context, const request::CopyDeferred& copy) {
  request::ServiceWait::Reply item;
  {
    const std::lock_guard lock(mutex_);
    if (!space_.Holds(copy.address, copy.bytes, copy.to_device != 0)) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    item.turn = NewId();
  }
  item.kind = request::ServiceWait::Kind::kCopy;
  item.to_device = copy.to_device != 0 ? 1 : 0;
  item.function_or_address = copy.address;
  item.argument_or_host = copy.host;
  item.bytes = copy.bytes;
  Id stream = 0;
  if (const CUresult result = StreamOf(context, copy.stream, stream); result != cuda_abi::CUDA_SUCCESS) return result;
  return scheduler_.AddService(stream, item);
}

CUresult Session::HostFunction(Id context, const request::HostFunction& call) {
  request::ServiceWait::Reply item;
  {
    const std::lock_guard lock(mutex_);
    item.turn = NewId();
  }
  item.kind = request::ServiceWait::Kind::kHostFunction;
  item.function_or_address = call.function;
  item.argument_or_host = call.argument;
  Id stream = 0;
  if (const CUresult result = StreamOf(context, call.stream, stream); result != cuda_abi::CUDA_SUCCESS) return result;
  return scheduler_.AddService(stream, item);
}

CUresult Session::CopyDevice(Id context, const request::CopyDevice& copy) {
  const std::uint64_t to_bytes = SpanOf(copy.bytes, copy.rows, copy.to_pitch);
  const std::uint64_t from_bytes = SpanOf(copy.bytes, copy.rows, copy.from_pitch);
  if (to_bytes == 0 || from_bytes == 0) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  {
    const std::lock_guard lock(mutex_);
    if (!space_.Holds(copy.to, to_bytes, true) || !space_.Holds(copy.from, from_bytes, false)) {
      return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    }
  }
  return AddWork(context, copy.stream, copy.wait != 0, [this, copy] {
    const UseOfMemory use(*this);
    Pieces to;
    Pieces from;
    for (std::uint64_t row = 0; row < copy.rows; ++row) {
      {
        const std::lock_guard lock(mutex_);
        if (!space_.Locate(copy.to + row * copy.to_pitch, copy.bytes, true, to) ||
            !space_.Locate(copy.from + row * copy.from_pitch, copy.bytes, false, from)) {
          return cuda_abi::CUDA_ERROR_ILLEGAL_ADDRESS;
        }
      }
      CopyPieces(to, from);
    }
    return cuda_abi::CUDA_SUCCESS;
  });
}

CUresult Session::Fill(Id context, const request::Fill& fill) {
  if (fill.unit_bytes != 1 && fill.unit_bytes != 2 && fill.unit_bytes != 4) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  if (fill.address % fill.unit_bytes != 0 || fill.count > kMaxSpanBytes) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  if (fill.rows > 1 && fill.pitch % fill.unit_bytes != 0) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  const std::uint64_t bytes = fill.count * fill.unit_bytes;
  const std::uint64_t span = SpanOf(bytes, fill.rows, fill.pitch);
  if (span == 0) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  {
    const std::lock_guard lock(mutex_);
    if (!space_.Holds(fill.address, span, true)) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  return AddWork(context, fill.stream, fill.wait != 0, [this, fill, bytes] {
    const UseOfMemory use(*this);
    Pieces pieces;
    for (std::uint64_t row = 0; row < fill.rows; ++row) {
      {
        const std::lock_guard lock(mutex_);
        if (!space_.Locate(fill.address + row * fill.pitch, bytes, true, pieces)) {
          return cuda_abi::CUDA_ERROR_ILLEGAL_ADDRESS;
        }
      }
      ForEach(pieces, [&](std::byte* host, std::uint64_t, std::uint64_t count) { FillPiece(host, count, fill); });
    }
    return cuda_abi::CUDA_SUCCESS;
  });
}

CUresult Session::Translate(const request::Translate& translate, std::vector<MemoryPiece>& found) {
  const std::lock_guard lock(mutex_);
  Pieces pieces;
  if (!space_.Locate(translate.address, translate.bytes, /*write=*/false, pieces)) {
    return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  for (const AddressSpace::Piece& piece : pieces) {
    const bool is_windowed = piece.arena != nullptr;
    const auto offset =
        is_windowed ? static_cast<std::uint64_t>(piece.host - piece.arena->host(piece.arena->base())) : 0;
    if (!found.empty()) {
      MemoryPiece& last = found.back();
      const bool follows = last.ordinal == piece.ordinal && last.offset + last.bytes == offset;
      if ((last.is_windowed != 0) == is_windowed && (follows || !is_windowed)) {
        last.bytes += piece.bytes;
        continue;
      }
    }
    if (found.size() == kMaxPieces) break;
    found.push_back({piece.ordinal, is_windowed ? 1U : 0U, offset, piece.bytes});
  }
  return cuda_abi::CUDA_SUCCESS;
}

// Under the lock, so that the memory stays: it is little at a time, between two pieces of memory.
CUresult Session::CopyNow(const request::CopyNow& copy, int fd) {
  if (copy.bytes > kMaxCopyNowBytes) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard lock(mutex_);
  Pieces pieces;
  if (!space_.Locate(copy.address, copy.bytes, copy.to_device != 0, pieces)) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  bool whole = true;
  ForEach(pieces, [&](std::byte* host, std::uint64_t offset, std::uint64_t bytes) {
    std::uint64_t done = 0;
    while (whole && done < bytes) {
      const auto place = static_cast<off_t>(offset + done);
      const ssize_t count = copy.to_device != 0 ? pread(fd, host + done, bytes - done, place)
                                                : pwrite(fd, host + done, bytes - done, place);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) whole = false;
      if (count > 0) done += static_cast<std::uint64_t>(count);
    }
  });
  return whole ? cuda_abi::CUDA_SUCCESS : cuda_abi::CUDA_ERROR_INVALID_VALUE;
}

}  // namespace softgpu
