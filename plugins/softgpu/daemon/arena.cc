#include "plugins/softgpu/daemon/arena.h"

#include <fcntl.h>
#include <sys/mman.h>

namespace softgpu {

using cuda_abi::CUresult;

namespace {

std::uint64_t RoundUp(std::uint64_t bytes) {
  return (bytes + Arena::kGranuleBytes - 1) / Arena::kGranuleBytes * Arena::kGranuleBytes;
}

}  // namespace

std::unique_ptr<Arena> Arena::Create(Device& device, std::uint64_t base, std::uint64_t span_bytes) {
  UniqueFd memory(memfd_create("softgpu-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.valid() || ftruncate(memory.get(), static_cast<off_t>(span_bytes)) != 0) return nullptr;
  if (fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) return nullptr;
  void* host = mmap(nullptr, span_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory.get(), 0);
  if (host == MAP_FAILED) return nullptr;
  return std::unique_ptr<Arena>(new Arena(device, base, span_bytes, std::move(memory), static_cast<std::byte*>(host)));
}

Arena::Arena(Device& device, std::uint64_t base, std::uint64_t span_bytes, UniqueFd memory, std::byte* host)
    : device_(device), base_(base), span_bytes_(span_bytes), memory_(std::move(memory)), host_(host) {
  device_.AddSession(1);
}

Arena::~Arena() {
  // The client may still hold the memfd for a moment: what is freed must not wait for it.
  fallocate(memory_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(span_bytes_));
  munmap(host_, span_bytes_);
  for (const auto& [base, allocation] : allocations_) {
    if (!allocation.is_moved) device_.GiveBack(RoundUp(allocation.bytes));
  }
  device_.AddSession(-1);
}

CUresult Arena::Allocate(Allocation& what) {
  if (what.bytes == 0) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  if (what.bytes > span_bytes_) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  const std::uint64_t wanted = RoundUp(what.bytes);
  std::uint64_t candidate = base_;
  for (const auto& [base, allocation] : allocations_) {
    if (base - candidate >= wanted) break;
    candidate = base + RoundUp(allocation.bytes);
  }
  if (wanted > base_ + span_bytes_ - candidate) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  what.base = candidate;
  return Insert(what);
}

CUresult Arena::AllocateAt(const Allocation& allocation) {
  const std::uint64_t offset = allocation.base - base_;
  if (allocation.bytes == 0 || offset % kGranuleBytes != 0 || offset >= span_bytes_ ||
      allocation.bytes > span_bytes_ - offset) {
    return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  const std::uint64_t end = allocation.base + RoundUp(allocation.bytes);
  const auto next = allocations_.lower_bound(allocation.base);
  if (next != allocations_.end() && next->first < end) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  if (Find(allocation.base) != nullptr) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  return Insert(allocation);
}

CUresult Arena::Insert(const Allocation& allocation) {
  if (allocations_.size() >= kMaxAllocations || !device_.Take(RoundUp(allocation.bytes))) {
    return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  allocations_.emplace(allocation.base, allocation);
  return cuda_abi::CUDA_SUCCESS;
}

void Arena::Free(std::uint64_t base) {
  const auto found = allocations_.find(base);
  if (found == allocations_.end()) return;
  const std::uint64_t bytes = RoundUp(found->second.bytes);
  fallocate(memory_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(base - base_),
            static_cast<off_t>(bytes));
  if (!found->second.is_moved) device_.GiveBack(bytes);
  allocations_.erase(found);
}

void Arena::Disown(std::uint64_t base) {
  const auto found = allocations_.find(base);
  if (found == allocations_.end()) return;
  found->second.is_moved = true;
  fallocate(memory_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(base - base_),
            static_cast<off_t>(RoundUp(found->second.bytes)));
}

const Allocation* Arena::Find(std::uint64_t address) const {
  auto next = allocations_.upper_bound(address);
  if (next == allocations_.begin()) return nullptr;
  const Allocation& allocation = std::prev(next)->second;
  return address - allocation.base < allocation.bytes ? &allocation : nullptr;
}

}  // namespace softgpu
