// PlaceChunks: every chunk of an image from a store to its places, checked on the way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "core/base/result.h"
#include "core/image/chunk_store.h"
#include "core/image/manifest.h"
#include "core/image/parallel_for.h"

namespace gpumig {

using FileFilter = std::function<bool(const ManifestFile& file)>;
inline bool AllFiles(const ManifestFile&) { return true; }

using ChunkFilter = std::function<bool(const ManifestChunk& chunk)>;
inline bool AllChunks(const ManifestChunk&) { return true; }

// Takes `plain` to `offset` of `file`. Called from several threads at once.
using PlaceFn =
    std::function<Result<void>(const ManifestFile& file, std::uint64_t offset, std::span<const std::byte> plain)>;

// Each `wanted_chunk` that a `wanted` file has is read once, checked in memory, and placed from there, wherever such
// files have it; chunks of zeros are left out. Memory stays below workers * (kMaxChunkBytes + kMaxEncodedChunkBytes).
// Errors: kDamaged, naming the chunk and a file that needs it; kNotFound, a chunk is missing; those of `place`;
// kCancelled.
Result<void> PlaceChunks(const Manifest& manifest, const ChunkStore& store, const FileFilter& wanted,
                         const PlaceFn& place, const ParallelOptions& options,
                         const ChunkFilter& wanted_chunk = AllChunks);

}  // namespace gpumig
