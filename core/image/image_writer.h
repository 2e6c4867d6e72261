// Writes files of a directory as an image: whole, or not at all.
#pragma once

#include <filesystem>
#include <limits>

#include "core/base/result.h"
#include "core/image/chunk_codec.h"
#include "core/image/chunk_store.h"
#include "core/image/hashed_source.h"
#include "core/image/image_directory.h"
#include "core/image/image_summary.h"

namespace gpumig {

struct WriteOptions {
  SourceOptions source;
  CompressionChoice compression;
  // What the store writes in the long run; WriteImage() finds out for itself.
  double most_bytes_per_second = std::numeric_limits<double>::infinity();
  StoreDurability durability = StoreDurability::kOnSync;
};

// Puts the chunks of all files under `source` into `store`, each once, and gives their manifest. Workers read, hash,
// encode and put, each one chunk at a time, so memory stays below workers * (kMaxChunkBytes + kMaxEncodedChunkBytes +
// zstd's own working memory), beside the manifest. Does not Sync(). Where it fails, chunks put so far stay in `store`.
// Errors: those of SourceDirectory and of the store; kCancelled.
Result<HashedSource> StoreFiles(const std::filesystem::path& source, ChunkStore& store, const WriteOptions& options);

// `image` must be empty or missing. Where it fails, what was written is removed; where that fails too, or we are
// killed, what is left has no manifest and so is no image. Errors: kAlreadyExists, `image` holds something; kNoSpace,
// with its path and the bytes that are needed; those of StoreFiles().
Result<ImageSummary> WriteImage(const std::filesystem::path& source, const std::filesystem::path& image,
                                const WriteOptions& options);

}  // namespace gpumig
