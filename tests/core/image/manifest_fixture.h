// Manifests for tests, and ways to make bad ones whose digest holds.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/base/bytes.h"
#include "core/image/manifest.h"
#include "tests/core/image/image_fixture.h"

namespace gpumig {

inline constexpr std::size_t kMajorOffset = 8;
inline constexpr std::size_t kMinorOffset = 10;
inline constexpr std::size_t kFlagsOffset = 12;
inline constexpr std::size_t kTotalOffset = 16;
inline constexpr std::size_t kDigestOffset = 24;
inline constexpr std::size_t kReservedOffset = 56;

inline Manifest SampleManifest() {
  Manifest manifest;
  manifest.facts_json = R"({"name":"trainer","pid":4242})";
  manifest.chunks = {
      {.digest = Digest::Of(Random(10, 1)), .plain_bytes = 10, .kind = ChunkKind::kCriuFile, .zero = false},
      {.digest = {}, .plain_bytes = kMaxChunkBytes, .kind = ChunkKind::kHostPages, .zero = true},
      {.digest = Digest::Of(Random(20, 2)), .plain_bytes = 20, .kind = ChunkKind::kDeviceBytes, .zero = false},
  };
  manifest.files = {
      {.name = "core-1.img", .mode = 0600, .bytes = 10, .chunks = {0}},
      {.name = "empty", .mode = 0644, .bytes = 0, .chunks = {}},
      {.name = "pages-1.img", .mode = 0400, .bytes = 2 * kMaxChunkBytes + 20, .chunks = {1, 1, 2}},
  };
  return manifest;
}

// Sets the total length and the digest right, so that what is in the bytes gets parsed.
inline Bytes Reseal(Bytes bytes) {
  const std::uint64_t total = bytes.size();
  std::memcpy(bytes.data() + kTotalOffset, &total, sizeof(total));
  const std::array<std::span<const std::byte>, 2> parts = {std::span<const std::byte>(bytes).first(kDigestOffset),
                                                           std::span<const std::byte>(bytes).subspan(kReservedOffset)};
  const Digest digest = Digest::OfParts(parts);
  std::memcpy(bytes.data() + kDigestOffset, digest.bytes().data(), Digest::kBytes);
  return bytes;
}

inline Bytes Section(std::string_view tag, std::uint32_t flags, std::span<const std::byte> content) {
  ByteWriter writer;
  writer.Bytes(std::as_bytes(std::span(tag)));
  writer.U32(flags);
  writer.U64(content.size());
  writer.Bytes(content);
  return writer.Take();
}

// A sealed manifest of these sections.
inline Bytes ManifestOf(std::initializer_list<Bytes> sections) {
  const Bytes empty = *Manifest().Serialise();
  Bytes bytes(empty.begin(), empty.begin() + kManifestPrefixBytes);
  for (const Bytes& section : sections) bytes.insert(bytes.end(), section.begin(), section.end());
  return Reseal(bytes);
}

inline std::vector<std::string> UnfitNames() {
  return {"",
          ".",
          "..",
          "/",
          "/etc/passwd",
          "../x",
          "a/b",
          "a/",
          "a\\b",
          "a b",
          "a\n",
          "a:b",
          std::string("a\0b", 3),
          "\xc3\xa9",
          "a\xe2\x80\xae",
          "caf\u0065\u0301",
          "*",
          std::string(256, 'a'),
          std::string(4096, 'a')};
}

}  // namespace gpumig
