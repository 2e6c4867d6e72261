#include "core/image/chunk_uses.h"

namespace gpumig {

ChunkUses::ChunkUses(const Manifest& manifest) : begin_(manifest.chunks.size() + 1) {
  for (const ManifestFile& file : manifest.files) {
    for (const std::uint32_t index : file.chunks) ++begin_[index + 1];
  }
  for (std::size_t i = 1; i < begin_.size(); ++i) begin_[i] += begin_[i - 1];
  uses_.resize(begin_.back());
  std::vector<std::size_t> next(begin_.begin(), begin_.end() - 1);
  for (std::uint32_t i = 0; i < manifest.files.size(); ++i) {
    std::uint64_t offset = 0;
    for (const std::uint32_t index : manifest.files[i].chunks) {
      uses_[next[index]++] = {.file = i, .offset = offset};
      offset += manifest.chunks[index].plain_bytes;
    }
  }
}

}  // namespace gpumig
