#include "core/image/missing_chunks.h"

#include <unordered_set>

namespace gpumig {

Result<std::vector<std::uint32_t>> MissingChunks(const Manifest& manifest, const ChunkStore& store) {
  std::vector<std::uint32_t> missing;
  std::unordered_set<Digest> seen;
  for (std::uint32_t i = 0; i < manifest.chunks.size(); ++i) {
    const ManifestChunk& chunk = manifest.chunks[i];
    if (chunk.zero || !seen.insert(chunk.digest).second) continue;
    if (!GPUMIG_TRY(store.Has(chunk.digest))) missing.push_back(i);
  }
  return missing;
}

}  // namespace gpumig
