// ImageSummary: how much of what an image holds, for reports.
#pragma once

#include <array>
#include <cstdint>

#include "core/base/result.h"
#include "core/image/chunk_store.h"
#include "core/image/manifest.h"

namespace gpumig {

struct ImageTotals {
  std::uint64_t plain_bytes = 0;   // of files, zeros and repetitions included
  std::uint64_t zero_bytes = 0;    // of those, in chunks of zeros
  std::uint64_t stored_bytes = 0;  // of chunk files
  std::uint64_t chunks = 0;        // chunk files

  friend bool operator==(const ImageTotals&, const ImageTotals&) = default;
};

struct ImageSummary {
  Digest image_digest;
  ImageTotals total;
  // By ChunkKind. A chunk file that serves two kinds counts for the first that names it.
  std::array<ImageTotals, kChunkKinds> by_kind;

  const ImageTotals& of(ChunkKind kind) const { return by_kind[static_cast<std::size_t>(kind)]; }

  friend bool operator==(const ImageSummary&, const ImageSummary&) = default;
};

// Errors: kNotFound, a chunk is missing in `store`.
Result<ImageSummary> Summarise(const Manifest& manifest, const Digest& image_digest, const ChunkStore& store);

}  // namespace gpumig
