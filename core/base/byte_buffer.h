// ByteBuffer: bytes that come in or go out in bulk, in memory that begins at a page and is not cleared first.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <limits>
#include <new>
#include <utility>
#include <vector>

namespace gpumig {

inline constexpr std::size_t kBufferAlignment = 4096;

// Buffers of chunks come and go by the thousand: a few are kept for the next, since memory that the kernel gives anew
// costs more than what it is used for. At most kMostBlocksKept * kBlockBytes are kept.
class BlockPool {
 public:
  static constexpr std::size_t kBlockBytes = (std::size_t{4} << 20) + (std::size_t{64} << 10);
  static constexpr std::size_t kMostBlocksKept = 16;

  // Null: there is no memory.
  static void* Take();
  static void Give(void* block);
};

template <typename T>
struct BulkAllocator {
  using value_type = T;

  BulkAllocator() = default;
  template <typename U>
  // NOLINTNEXTLINE(google-explicit-constructor): what allocators must allow.
  BulkAllocator(const BulkAllocator<U>&) {}

  T* allocate(std::size_t count) {
    if (count > (std::numeric_limits<std::size_t>::max() - kBufferAlignment) / sizeof(T)) throw std::bad_alloc();
    const std::size_t bytes = RoundUp(count);
    void* memory = IsBlock(bytes) ? BlockPool::Take() : std::aligned_alloc(kBufferAlignment, bytes);
    if (memory == nullptr) throw std::bad_alloc();
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t count) {
    if (IsBlock(RoundUp(count))) {
      BlockPool::Give(memory);
    } else {
      std::free(memory);
    }
  }

  // resize() leaves new bytes as they are: whoever reads into them writes them all.
  template <typename U, typename... Args>
  void construct(U* at, Args&&... args) {
    if constexpr (sizeof...(Args) == 0) {
      ::new (static_cast<void*>(at)) U;
    } else {
      ::new (static_cast<void*>(at)) U(std::forward<Args>(args)...);
    }
  }

  bool operator==(const BulkAllocator&) const = default;

 private:
  static std::size_t RoundUp(std::size_t count) {
    return (count * sizeof(T) + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
  }
  static bool IsBlock(std::size_t bytes) {
    return bytes > BlockPool::kBlockBytes / 8 && bytes <= BlockPool::kBlockBytes;
  }
};

using ByteBuffer = std::vector<std::byte, BulkAllocator<std::byte>>;

}  // namespace gpumig
