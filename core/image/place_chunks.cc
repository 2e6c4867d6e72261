#include "core/image/place_chunks.h"

#include <memory>
#include <vector>

#include "core/image/chunk_codec.h"
#include "core/image/chunk_uses.h"

namespace gpumig {
namespace {

// One worker's way from a chunk in the store to its places.
class ChunkPlacer {
 public:
  ChunkPlacer(const Manifest& manifest, const ChunkStore& store, const std::vector<bool>& wanted, const ChunkUses& uses,
              const PlaceFn& place)
      : manifest_(manifest), store_(store), wanted_(wanted), uses_(uses), place_(place) {}

  // Gives the bytes of its places.
  Result<std::uint64_t> Place(std::size_t index) {
    const ManifestChunk& chunk = manifest_.chunks[index];
    std::uint64_t bytes = 0;
    std::span<const std::byte> plain;
    for (const ChunkUses::Use& use : uses_.of(index)) {
      if (!wanted_[use.file]) continue;
      bytes += chunk.plain_bytes;
      if (chunk.zero) continue;
      const ManifestFile& file = manifest_.files[use.file];
      if (plain.empty()) plain = GPUMIG_TRY(Read(chunk), "chunk {} of file {}", chunk.digest.ToHex(), file.name);
      GPUMIG_TRY(place_(file, use.offset, plain));
    }
    return bytes;
  }

 private:
  Result<std::span<const std::byte>> Read(const ManifestChunk& chunk) {
    encoded_ = GPUMIG_TRY(store_.Get(chunk.digest));
    return decoder_.View(encoded_, chunk.digest, chunk.plain_bytes);
  }

  const Manifest& manifest_;
  const ChunkStore& store_;
  const std::vector<bool>& wanted_;
  const ChunkUses& uses_;
  const PlaceFn& place_;
  ChunkDecoder decoder_;
  std::vector<std::byte> encoded_;
};

}  // namespace

Result<void> PlaceChunks(const Manifest& manifest, const ChunkStore& store, const FileFilter& wanted,
                         const PlaceFn& place, const ParallelOptions& options, const ChunkFilter& wanted_chunk) {
  std::vector<bool> is_wanted;
  std::uint64_t bytes = 0;
  for (const ManifestFile& file : manifest.files) {
    is_wanted.push_back(wanted(file));
    if (is_wanted.back()) bytes += file.bytes;
  }
  const ChunkUses uses(manifest);
  const auto make_worker = [&]() -> PieceWork {
    auto placer = std::make_shared<ChunkPlacer>(manifest, store, is_wanted, uses, place);
    return [&, placer](std::size_t i) -> Result<std::uint64_t> {
      if (!wanted_chunk(manifest.chunks[i])) return 0;
      return placer->Place(i);
    };
  };
  return ParallelFor(manifest.chunks.size(), bytes, options, make_worker);
}

}  // namespace gpumig
