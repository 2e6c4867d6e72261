// Manifest: which files an image holds, of which chunks, and what is known of the workload. Its digest names the image.
//
// Format: docs/image_format.md, "Manifest".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"
#include "core/image/digest.h"

namespace gpumig {

inline constexpr std::uint16_t kImageMajor = 2;
inline constexpr std::uint16_t kImageMinor = 0;

inline constexpr std::size_t kManifestPrefixBytes = 64;
inline constexpr std::size_t kMaxManifestBytes = std::size_t{256} << 20;
inline constexpr std::size_t kMaxFactsBytes = std::size_t{16} << 20;
inline constexpr std::size_t kMaxFileNameBytes = 255;
inline constexpr std::size_t kMaxFiles = 65536;
inline constexpr std::size_t kMaxTableChunks = std::size_t{4} << 20;
// Of all files together; so an image holds 16 TiB at most.
inline constexpr std::size_t kMaxFileChunks = std::size_t{4} << 20;

// What the bytes of a chunk were in the workload; for people and figures, nothing is decided by it.
enum class ChunkKind : std::uint8_t { kOther = 0, kCriuFile = 1, kHostPages = 2, kDeviceBytes = 3 };
inline constexpr std::size_t kChunkKinds = 4;
// "other", "criu_file", "host_pages", "device_bytes".
std::string_view ChunkKindName(ChunkKind kind);

struct ManifestChunk {
  Digest digest;                  // of the plaintext; the default one where `zero`
  std::uint32_t plain_bytes = 0;  // 1..kMaxChunkBytes
  ChunkKind kind = ChunkKind::kOther;
  bool zero = false;  // all bytes are 0, and no store holds it

  friend bool operator==(const ManifestChunk&, const ManifestChunk&) = default;
};

struct ManifestFile {
  std::string name;                   // see IsValidFileName()
  std::uint32_t mode = 0;             // permission bits, no more than 0777
  std::uint64_t bytes = 0;            // the sum of its chunks' plain sizes
  std::vector<std::uint32_t> chunks;  // indexes into Manifest::chunks, in the order of the file

  friend bool operator==(const ManifestFile&, const ManifestFile&) = default;
};

// A plain value. One that Parse() gave or Serialise() took is valid: files sorted by name, no name twice, every index
// in range, sizes that add up, every chunk used by some file, all limits kept.
struct Manifest {
  std::string facts_json;  // one JSON text; carried, not looked into
  std::vector<ManifestFile> files;
  std::vector<ManifestChunk> chunks;
  // What wrote it. Serialise() writes kImageMajor.kImageMinor.
  std::uint16_t minor = kImageMinor;

  // All bytes of a manifest file. They are hostile; memory stays within a small multiple of their number.
  // Errors: kDamaged; kUnsupported, a newer major version (both are named) or a section that must be understood
  // (named).
  static Result<Manifest> Parse(std::span<const std::byte> bytes);

  // Equal manifests give equal bytes. Digest::Of() them is the image's identity. Errors: kInvalidArgument, it is not
  // valid.
  Result<std::vector<std::byte>> Serialise() const;

  friend bool operator==(const Manifest&, const Manifest&) = default;
};

// One component of [A-Za-z0-9._-], 1..255 bytes, neither "." nor "..".
bool IsValidFileName(std::string_view name);

}  // namespace gpumig
