#include "core/image/image_summary.h"

#include <unordered_set>

namespace gpumig {

Result<ImageSummary> Summarise(const Manifest& manifest, const Digest& image_digest, const ChunkStore& store) {
  ImageSummary summary;
  summary.image_digest = image_digest;
  for (const ManifestFile& file : manifest.files) {
    for (const std::uint32_t index : file.chunks) {
      const ManifestChunk& chunk = manifest.chunks[index];
      ImageTotals& totals = summary.by_kind[static_cast<std::size_t>(chunk.kind)];
      totals.plain_bytes += chunk.plain_bytes;
      if (chunk.zero) totals.zero_bytes += chunk.plain_bytes;
    }
  }
  std::unordered_set<Digest> seen;
  for (const ManifestChunk& chunk : manifest.chunks) {
    if (chunk.zero || !seen.insert(chunk.digest).second) continue;
    ImageTotals& totals = summary.by_kind[static_cast<std::size_t>(chunk.kind)];
    totals.stored_bytes += GPUMIG_TRY(store.StoredBytes(chunk.digest));
    ++totals.chunks;
  }
  for (const ImageTotals& totals : summary.by_kind) {
    summary.total.plain_bytes += totals.plain_bytes;
    summary.total.zero_bytes += totals.zero_bytes;
    summary.total.stored_bytes += totals.stored_bytes;
    summary.total.chunks += totals.chunks;
  }
  return summary;
}

}  // namespace gpumig
