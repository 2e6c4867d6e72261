#include "core/image/hashed_source.h"

#include <unordered_map>
#include <utility>

#include "core/base/check.h"
#include "core/image/chunk_codec.h"

namespace gpumig {
namespace {

struct ChunkHash {
  std::size_t operator()(const ManifestChunk& chunk) const {
    return std::hash<Digest>()(chunk.digest) ^ (chunk.plain_bytes * 4ull + static_cast<std::size_t>(chunk.kind));
  }
};

}  // namespace

HashedSource::HashedSource(SourceDirectory source, Manifest manifest, std::vector<std::byte> manifest_bytes,
                           std::vector<ChunkPlace> first_places)
    : source_(std::move(source)),
      manifest_(std::move(manifest)),
      manifest_bytes_(std::move(manifest_bytes)),
      image_digest_(Digest::Of(manifest_bytes_)),
      first_places_(std::move(first_places)) {
  GPUMIG_CHECK(first_places_.size() == manifest_.chunks.size());
}

Result<void> HashedSource::ReadChunk(std::size_t index, std::span<std::byte> plain) const {
  GPUMIG_CHECK(index < first_places_.size() && !manifest_.chunks[index].zero);
  return source_.Read(first_places_[index], plain);
}

Result<std::vector<std::byte>> HashedSource::ReadChunk(std::size_t index) const {
  GPUMIG_CHECK(index < first_places_.size());
  std::vector<std::byte> plain(manifest_.chunks[index].plain_bytes);
  GPUMIG_TRY(ReadChunk(index, plain));
  return plain;
}

Result<HashedSource> BuildManifest(const std::filesystem::path& directory, const SourceOptions& options) {
  SourceDirectory source = GPUMIG_TRY(SourceDirectory::Open(directory, options.kind_of_file, options.unwritten));
  const std::span<const ChunkPlace> places = source.places();
  std::vector<HashedPlace> hashed(places.size());
  const auto make_worker = [&]() -> PieceWork {
    return [&, buffer = std::vector<std::byte>()](std::size_t i) mutable -> Result<std::uint64_t> {
      if (places[i].known) {
        hashed[i] = *places[i].known;
        return places[i].bytes;
      }
      buffer.resize(places[i].bytes);
      GPUMIG_TRY(source.Read(places[i], buffer));
      hashed[i].zero = IsAllZero(buffer);
      if (!hashed[i].zero) hashed[i].digest = Digest::Of(buffer);
      return places[i].bytes;
    };
  };
  GPUMIG_TRY(ParallelFor(places.size(), source.total_bytes(), options.parallel, make_worker));
  return AssembleManifest(std::move(source), hashed, options.facts_json);
}

Result<HashedSource> AssembleManifest(SourceDirectory source, std::span<const HashedPlace> hashed,
                                      std::string facts_json) {
  GPUMIG_CHECK(hashed.size() == source.places().size());
  Manifest manifest;
  manifest.facts_json = std::move(facts_json);
  for (const SourceFile& file : source.files()) {
    manifest.files.push_back({.name = file.name, .mode = file.mode, .bytes = file.bytes, .chunks = {}});
  }
  std::vector<ChunkPlace> first_places;
  std::unordered_map<ManifestChunk, std::uint32_t, ChunkHash> index_of;
  for (std::size_t i = 0; i < hashed.size(); ++i) {
    const ChunkPlace& place = source.places()[i];
    const ManifestChunk chunk{.digest = hashed[i].digest,
                              .plain_bytes = place.bytes,
                              .kind = source.files()[place.file].kind,
                              .zero = hashed[i].zero};
    const auto [entry, is_new] = index_of.emplace(chunk, static_cast<std::uint32_t>(manifest.chunks.size()));
    if (is_new) {
      manifest.chunks.push_back(chunk);
      first_places.push_back(place);
    }
    manifest.files[place.file].chunks.push_back(entry->second);
  }
  std::vector<std::byte> bytes = GPUMIG_TRY(manifest.Serialise());
  return HashedSource(std::move(source), std::move(manifest), std::move(bytes), std::move(first_places));
}

}  // namespace gpumig
