// ChunkUses: where the bytes of each chunk go.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/image/manifest.h"

namespace gpumig {

class ChunkUses {
 public:
  struct Use {
    std::uint32_t file = 0;  // index into Manifest::files
    std::uint64_t offset = 0;
  };

  explicit ChunkUses(const Manifest& manifest);

  // Of manifest.chunks[chunk]: at least one.
  std::span<const Use> of(std::size_t chunk) const {
    return std::span(uses_).subspan(begin_[chunk], begin_[chunk + 1] - begin_[chunk]);
  }

 private:
  std::vector<std::size_t> begin_;  // of each chunk's uses in uses_, and the end of the last
  std::vector<Use> uses_;
};

}  // namespace gpumig
