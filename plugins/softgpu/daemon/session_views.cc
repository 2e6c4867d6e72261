// Session: views of other sessions' memory, and the speed of copies.
#include <algorithm>
#include <thread>

#include "plugins/softgpu/daemon/session.h"

namespace softgpu {

using cuda_abi::CUresult;

CUresult Session::OpenView(const request::OpenView& open, int memory, std::span<const ViewPiece> pieces) {
  constexpr std::uint64_t kMaxAddress = std::uint64_t{1} << 56;
  if (open.base == 0 || open.base % Arena::kGranuleBytes != 0 || open.base > kMaxAddress) {
    return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  const std::lock_guard lock(mutex_);
  if (closed_ || views_.size() >= kMaxDevices) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  if (open.bytes > kMaxSpanBytes) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  const auto overlaps = [&](std::uint64_t base, std::uint64_t bytes) {
    return open.base < base + bytes && base < open.base + open.bytes;
  };
  for (const auto& arena : arenas_) {
    if (overlaps(arena->base(), arena->span_bytes())) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  for (const auto& [base, view] : views_) {
    if (overlaps(base, view->bytes())) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  std::unique_ptr<View> view = View::Open(open.base, open.bytes, memory, pieces);
  if (view == nullptr) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  views_.emplace(open.base, std::move(view));
  map_.reset();
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::CloseView(std::uint64_t base) {
  scheduler_.WaitAll(std::nullopt);
  std::unique_lock lock(mutex_);
  // What has begun since then must not find it gone.
  if (!WaitUnused(lock)) return cuda_abi::CUDA_ERROR_DEINITIALIZED;
  map_.reset();
  return views_.erase(base) == 1 ? cuda_abi::CUDA_SUCCESS : cuda_abi::CUDA_ERROR_INVALID_VALUE;
}

CUresult Session::WaitForBandwidth(std::uint64_t ordinal, std::uint64_t bytes) {
  // Nobody books the device for hours.
  if (bytes > kMaxSpanBytes) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  std::chrono::steady_clock::time_point until;
  {
    const std::lock_guard lock(mutex_);
    if (ordinal >= arenas_.size()) return cuda_abi::CUDA_ERROR_INVALID_DEVICE;
    until = arenas_[ordinal]->device().WhenMoved(bytes);
  }
  // In slices, so that the end of the session ends it.
  constexpr auto kSlice = std::chrono::milliseconds(20);
  for (;;) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= until || abort_) return cuda_abi::CUDA_SUCCESS;
    std::this_thread::sleep_until(std::min(until, now + kSlice));
  }
}

void Session::WaitForBandwidthAt(std::uint64_t address, std::uint64_t bytes) {
  std::uint64_t ordinal = kMaxDevices;
  {
    const std::lock_guard lock(mutex_);
    request::MemFind::Reply found;
    if (space_.Find(address, found)) ordinal = found.ordinal;
  }
  WaitForBandwidth(ordinal, bytes);
}

}  // namespace softgpu
