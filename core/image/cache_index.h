// CacheIndex: which chunks a file, or an image in a directory, holds, so that a target can take them from there.
//
// Format: "GMCACHE1", the digest of that text (an index of another digest function is nobody's), kind (1), path (u32
// length, text), content bytes (8), time of change in nanoseconds (8), count (4), for each chunk digest (32), offset
// (8) and plain size (4); then the digest of all before it. Little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "core/base/result.h"
#include "core/image/digest.h"
#include "core/image/parallel_for.h"

namespace gpumig {

enum class CacheKind : std::uint8_t {
  kFile = 1,   // plain bytes, cut as files of an image are
  kImage = 2,  // the directory of a complete image
  kKept = 3,   // an image that came here and was kept; has no index of this kind
};
// "file", "image", "kept".
std::string_view Name(CacheKind kind);

struct CachedChunk {
  Digest digest;
  std::uint64_t offset = 0;  // in a file
  std::uint32_t plain_bytes = 0;

  friend bool operator==(const CachedChunk&, const CachedChunk&) = default;
};

struct CacheIndex {
  CacheKind kind = CacheKind::kFile;
  std::filesystem::path path;       // absolute, no symbolic link in it
  std::uint64_t bytes = 0;          // of a file: its size; of an image: of its chunks, plain
  std::int64_t changed_ns = 0;      // of a file or of an image's manifest: since 1970
  std::vector<CachedChunk> chunks;  // those that are not all zero

  std::vector<std::byte> Serialise() const;
  // Errors: kDamaged; kUnsupported, it was made with other digests.
  static Result<CacheIndex> Parse(std::span<const std::byte> bytes);

  friend bool operator==(const CacheIndex&, const CacheIndex&) = default;
};

inline constexpr std::size_t kMaxCacheIndexBytes = std::size_t{256} << 20;

// Reads a file and digests its chunks, in parallel; of an image only the manifest is read. Errors: kNotFound and others
// of open; kInvalidArgument, it is neither, or too big; kFailedPrecondition, it changed meanwhile; those of
// OpenImage().
Result<CacheIndex> MakeCacheIndex(const std::filesystem::path& path, const ParallelOptions& options);

// Of what is at `path` now, for comparing. Errors: those of open.
struct CacheStamp {
  std::uint64_t bytes = 0;
  std::int64_t changed_ns = 0;
};
Result<CacheStamp> StampOfFile(int fd);

}  // namespace gpumig
