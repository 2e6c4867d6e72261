#include "core/base/byte_buffer.h"

#include <sys/mman.h>

#include <mutex>

namespace gpumig {
namespace {

struct Kept {
  std::mutex mutex;
  std::vector<void*> blocks;  // guarded by mutex
};

// Never destroyed: buffers may outlive every other static object.
Kept& KeptBlocks() {
  static auto* kept = new Kept();
  return *kept;
}

}  // namespace

void* BlockPool::Take() {
  Kept& kept = KeptBlocks();
  {
    const std::lock_guard lock(kept.mutex);
    if (!kept.blocks.empty()) {
      void* block = kept.blocks.back();
      kept.blocks.pop_back();
      return block;
    }
  }
  void* block = mmap(nullptr, kBlockBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return block == MAP_FAILED ? nullptr : block;
}

void BlockPool::Give(void* block) {
  Kept& kept = KeptBlocks();
  {
    const std::lock_guard lock(kept.mutex);
    if (kept.blocks.size() < kMostBlocksKept) {
      kept.blocks.push_back(block);
      return;
    }
  }
  munmap(block, kBlockBytes);
}

}  // namespace gpumig
