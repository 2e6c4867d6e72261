// Opens, checks and describes images on disk. Nothing in an image is trusted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/image/chunk_store.h"
#include "core/image/image_summary.h"
#include "core/image/manifest.h"
#include "core/image/parallel_for.h"

namespace gpumig {

// A complete image. Its manifest has been checked, its chunks are checked as they are decoded.
struct OpenedImage {
  Manifest manifest;
  std::vector<std::byte> manifest_bytes;
  Digest image_digest;
  std::unique_ptr<ChunkStore> store;
};

// Errors: kNotFound, there is no such directory; kDamaged, it is not a complete image or its manifest does not hold;
// kUnsupported, a newer format.
Result<OpenedImage> OpenImage(const std::filesystem::path& image);

struct DamagedChunk {
  Digest digest;
  std::string reason;
  std::vector<std::string> files;  // that need it, sorted
};

struct VerifyReport {
  Digest image_digest;
  std::uint64_t chunks_checked = 0;   // of the manifest's table; chunks of zeros included
  std::uint64_t bytes_checked = 0;    // of plaintext
  std::vector<DamagedChunk> damaged;  // in the order of the table

  bool ok() const { return damaged.empty(); }
};

enum class VerifyDepth {
  kQuick,  // the manifest holds, every chunk is there with a size that can be right
  kFull,   // and every chunk decodes to the bytes that were captured
};

// A chunk that is damaged, missing or cannot be read is in the report; an image that has no manifest that holds is an
// error. Errors: those of OpenImage(); kCancelled.
Result<VerifyReport> VerifyImage(const std::filesystem::path& image, VerifyDepth depth, const ParallelOptions& options);
// The same of an image whose chunks are anywhere.
Result<VerifyReport> VerifyChunks(const Manifest& manifest, const ChunkStore& store, VerifyDepth depth,
                                  const ParallelOptions& options);

struct ImageDescription {
  std::uint16_t major = kImageMajor;
  std::uint16_t minor = 0;
  Manifest manifest;
  ImageSummary summary;
};

// Errors: those of OpenImage(); kNotFound, a chunk is missing.
Result<ImageDescription> InspectImage(const std::filesystem::path& image);

}  // namespace gpumig
