// HashedSource: files whose manifest is known, and whose chunks can be read again one by one. What a migration offers:
// the manifest first, then only the chunks that the other side lacks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/image/manifest.h"
#include "core/image/parallel_for.h"
#include "core/image/source_directory.h"

namespace gpumig {

struct SourceOptions {
  std::string facts_json = "{}";
  KindOfFile kind_of_file = KindOfCriuFile;
  std::vector<UnwrittenFile> unwritten;  // beside the files of the directory
  ParallelOptions parallel;
};

// Thread safety: ReadChunk() from any number of threads at once.
class HashedSource {
 public:
  HashedSource(SourceDirectory source, Manifest manifest, std::vector<std::byte> manifest_bytes,
               std::vector<ChunkPlace> first_places);

  const Manifest& manifest() const { return manifest_; }
  // As they stand in a manifest file; image_digest() is theirs.
  std::span<const std::byte> manifest_bytes() const { return manifest_bytes_; }
  const Digest& image_digest() const { return image_digest_; }

  // The plaintext of manifest().chunks[index], from the file again. Not hashed again: whoever receives it does that,
  // and finds a file that was changed meanwhile. Errors: those of SourceDirectory::Read(). REQUIRES: plain.size() is
  // the chunk's plain size; it is not a zero chunk's index
  Result<void> ReadChunk(std::size_t index, std::span<std::byte> plain) const;
  Result<std::vector<std::byte>> ReadChunk(std::size_t index) const;

 private:
  SourceDirectory source_;
  Manifest manifest_;
  std::vector<std::byte> manifest_bytes_;
  Digest image_digest_;
  std::vector<ChunkPlace> first_places_;  // of each chunk of the table
};

// Reads and hashes all of the files under `directory` and those unwritten, in parallel; chunks of zeros are found.
// Memory stays below workers * kMaxChunkBytes, beside the manifest. Errors: those of SourceDirectory; kCancelled.
Result<HashedSource> BuildManifest(const std::filesystem::path& directory, const SourceOptions& options);

// The manifest of `source`, whose places were hashed to `hashed`: equal chunks of one kind are listed once, in the
// order of their first places. REQUIRES: hashed.size() == source.places().size()
Result<HashedSource> AssembleManifest(SourceDirectory source, std::span<const HashedPlace> hashed,
                                      std::string facts_json);

}  // namespace gpumig
