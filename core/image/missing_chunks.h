// Which chunks have to be sent, so that a store holds all of an image.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/result.h"
#include "core/image/chunk_store.h"
#include "core/image/manifest.h"

namespace gpumig {

// Indexes into manifest.chunks of those that `store` lacks, in the order of the table, each digest once; none for
// zeros. What is there is taken to be good: MaterialiseImage() and VerifyChunks() find what is not. Errors: those of
// the store.
Result<std::vector<std::uint32_t>> MissingChunks(const Manifest& manifest, const ChunkStore& store);

}  // namespace gpumig
