// Makes files of an image again, every byte checked, so that CRIU can read them.
#pragma once

#include <filesystem>

#include "core/base/result.h"
#include "core/image/chunk_store.h"
#include "core/image/manifest.h"
#include "core/image/parallel_for.h"
#include "core/image/place_chunks.h"

namespace gpumig {

// Writes the `wanted` files of `manifest` into `directory`, which must be empty or missing (its parent must be there),
// and is of mode 0700 afterwards. Each chunk is read once, checked in memory, and written from there, so that a store
// that changes meanwhile cannot slip anything in; chunks of zeros become holes. Of a file's mode only the owner's part
// is taken: an image grants nothing. Room on the disk is checked before the first byte. Files are not synced. Memory
// stays below workers * (kMaxChunkBytes + kMaxEncodedChunkBytes).
//
// Where it fails, files made so far are removed.
// Errors: kDamaged, naming the chunk and a file that needs it; kNotFound, a chunk is missing; kNoSpace, with the path
// and the bytes that are needed; kAlreadyExists, `directory` holds something; kCancelled. REQUIRES: `manifest` is
// valid, as Manifest::Parse() gives it
Result<void> MaterialiseImage(const Manifest& manifest, const ChunkStore& store, const std::filesystem::path& directory,
                              const ParallelOptions& options, const FileFilter& wanted = AllFiles);

}  // namespace gpumig
