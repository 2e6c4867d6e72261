// One session's memory on one device: a range of addresses, and the memfd that holds its bytes.
//
// Address base + n is byte n of the memfd. The client has reserved the same range of its own address space, so
// addresses mean one thing in both, and gets the memfd for its bulk copies: it can reach its own device memory and no
// other's. The memfd cannot be shrunk, so that nobody makes the daemon fault.
//
// Ownership: the pages and what is taken of the device's capacity go back when an allocation is freed and, all, when
// the Arena goes. Thread safety: none; the session guards it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "plugins/cuda_abi/cuda_abi.h"
#include "plugins/softgpu/daemon/device.h"
#include "plugins/softgpu/wire/unique_fd.h"

namespace softgpu {

struct Allocation {
  std::uint64_t base = 0;
  std::uint64_t bytes = 0;
  Id context = 0;
  bool is_module = false;    // Holds a module's variables: not the application's to free.
  bool is_physical = false;  // Of cuMemCreate: addressed where it is mapped, not here; of no context.
  bool is_moved = false;     // Its bytes, and its part of the capacity, are SharedMemory's.
};

class Arena {
 public:
  static constexpr std::uint64_t kGranuleBytes = 4096;
  static constexpr std::size_t kMaxAllocations = std::size_t{1} << 20;

  // Null if the system gives no memfd or no address range for it.
  static std::unique_ptr<Arena> Create(Device& device, std::uint64_t base, std::uint64_t span_bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // First fit, at a multiple of kGranuleBytes. Fresh memory reads as zero. `what` says all but the base, which comes
  // back in it. kMaxAllocations, or not enough of capacity or range left: OUT_OF_MEMORY.
  cuda_abi::CUresult Allocate(Allocation& what);
  // INVALID_VALUE: not inside the range, or not free.
  cuda_abi::CUresult AllocateAt(const Allocation& allocation);
  // Nothing happens if no allocation begins at `base`.
  void Free(std::uint64_t base);
  // SharedMemory has the bytes of the allocation at `base` now, and gives its part of the capacity back one day.
  void Disown(std::uint64_t base);

  // The allocation that holds `address`, or null.
  const Allocation* Find(std::uint64_t address) const;
  const std::map<std::uint64_t, Allocation>& allocations() const { return allocations_; }

  std::byte* host(std::uint64_t address) const { return host_ + (address - base_); }
  bool contains(std::uint64_t address) const { return address - base_ < span_bytes_; }
  std::uint64_t base() const { return base_; }
  std::uint64_t span_bytes() const { return span_bytes_; }
  int fd() const { return memory_.get(); }
  Device& device() const { return device_; }

 private:
  Arena(Device& device, std::uint64_t base, std::uint64_t span_bytes, UniqueFd memory, std::byte* host);
  cuda_abi::CUresult Insert(const Allocation& allocation);

  Device& device_;
  std::uint64_t base_;
  std::uint64_t span_bytes_;
  UniqueFd memory_;
  std::byte* host_;
  std::map<std::uint64_t, Allocation> allocations_;  // By base.
};

}  // namespace softgpu
