// Turns a chunk's plaintext into the bytes that are stored or sent, and back.
//
// Format: a header of kChunkHeaderBytes (magic, version, codec, plain size, stored size), then the payload: the
// plaintext itself, one zstd frame that states its content size, or byte planes. See docs/image_format.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/byte_buffer.h"
#include "core/base/result.h"
#include "core/image/codec_policy.h"
#include "core/image/digest.h"

namespace gpumig {

inline constexpr std::size_t kMaxChunkBytes = std::size_t{4} << 20;
inline constexpr std::size_t kChunkHeaderBytes = 24;
// An encoded chunk is never longer: what zstd cannot make smaller is stored as it is.
inline constexpr std::size_t kMaxEncodedChunkBytes = kChunkHeaderBytes + kMaxChunkBytes;

enum class ChunkCodec : std::uint8_t {
  kRaw = 0,
  kZstd = 1,
  kZero = 2,     // no payload
  kPlanes2 = 3,  // byte planes of elements of 2 bytes, each raw, a zstd frame, or zeros
  kPlanes4 = 4,
};

// How much work to spend on making chunks smaller.
struct CompressionChoice {
  static constexpr int kMinLevel = -7;  // zstd's own scale: negative is faster and gains less
  static constexpr int kMaxLevel = 19;

  std::optional<int> zstd_level = 1;  // nullopt: store as it is
  bool automatic = false;             // by a CodecPolicy, for each chunk; then zstd_level means nothing

  static CompressionChoice None() { return {.zstd_level = std::nullopt}; }
  static CompressionChoice Zstd(int level = 1) { return {.zstd_level = level}; }
  static CompressionChoice Auto() { return {.zstd_level = std::nullopt, .automatic = true}; }
  // "auto", "none", "zstd" or "zstd:LEVEL". Errors: kInvalidArgument.
  static Result<CompressionChoice> Parse(std::string_view text);
  // As Parse() takes it.
  std::string ToString() const;
};

struct ChunkHeader {
  ChunkCodec codec = ChunkCodec::kRaw;
  std::uint32_t plain_bytes = 0;    // 1..kMaxChunkBytes
  std::uint32_t payload_bytes = 0;  // what follows the header
};

// Looks at the header only; `encoded` may hold less than the whole chunk.
// Errors: kDamaged; kUnsupported, a newer version or codec, named.
Result<ChunkHeader> ParseChunkHeader(std::span<const std::byte> encoded);

// Keeps zstd's working memory from one chunk to the next.
//
// Ownership: borrows `policy`, which encoders of one link share. Thread safety: one thread at a time.
class ChunkEncoder {
 public:
  // REQUIRES: a level within CompressionChoice's limits; a policy for what is automatic, else none
  explicit ChunkEncoder(CompressionChoice compression, CodecPolicy* policy = nullptr);
  ChunkEncoder(ChunkEncoder&&) noexcept;
  ChunkEncoder& operator=(ChunkEncoder&&) noexcept;
  ~ChunkEncoder();

  // Raw where encoding gains less than 3 %, or, of a big chunk, seems to by a look at a part of it. Valid until the
  // next call. REQUIRES: 1 <= plain.size() <= kMaxChunkBytes
  std::span<const std::byte> Encode(std::span<const std::byte> plain);

  // The same of plaintext that has kChunkHeaderBytes of room before it, which spares a copy where it stays raw.
  ByteBuffer EncodeWithRoom(ByteBuffer room_and_plain);

 private:
  struct Context;

  // Into encoded_; what it holds afterwards, or raw, and then its payload is left to the caller.
  ChunkHeader Encoded(std::span<const std::byte> plain);

  std::unique_ptr<Context> context_;  // null: no compression
  std::vector<std::byte> encoded_;
};

// Gives plaintext only where header, size and digest hold; bytes of `encoded` are hostile until then. Never writes more
// than the size asked for, and never allocates by what `encoded` says.
//
// Thread safety: one thread at a time. Errors: kDamaged; kUnsupported, a newer version or codec, named.
class ChunkDecoder {
 public:
  ChunkDecoder();
  ChunkDecoder(ChunkDecoder&&) noexcept;
  ChunkDecoder& operator=(ChunkDecoder&&) noexcept;
  ~ChunkDecoder();

  // Fills all of `plain`, whose size is the one expected; where it fails, `plain` holds anything.
  // REQUIRES: 1 <= plain.size() <= kMaxChunkBytes
  Result<void> Decode(std::span<const std::byte> encoded, const Digest& expected, std::span<std::byte> plain);

  // As Decode(), for whoever only reads: gives the plaintext within `encoded` where it stands there as it is, else in
  // memory of this decoder's, until the next call.
  Result<std::span<const std::byte>> View(std::span<const std::byte> encoded, const Digest& expected,
                                          std::size_t plain_bytes);

 private:
  struct Context;

  std::unique_ptr<Context> context_;
  std::vector<std::byte> plain_;
};

// Encodes by one method, whatever it gains; for tests and measurements. `coded_planes`: bit k, plane k is entropy
// coded. Empty: it does not make it smaller, or the chunk is too small for it. REQUIRES: 1 <= plain.size() <=
// kMaxChunkBytes
std::vector<std::byte> EncodeChunkBy(CodecMethod method, std::span<const std::byte> plain,
                                     std::uint8_t coded_planes = 0xff);

// For a chunk now and then; same promises. REQUIRES: 1 <= size <= kMaxChunkBytes
std::vector<std::byte> EncodeChunk(std::span<const std::byte> plain, CompressionChoice compression);
Result<std::vector<std::byte>> DecodeChunk(std::span<const std::byte> encoded, const Digest& expected,
                                           std::size_t expected_plain_bytes);
Result<void> DecodeChunkInto(std::span<const std::byte> encoded, const Digest& expected, std::span<std::byte> plain);

// Fast where the answer is no.
bool IsAllZero(std::span<const std::byte> bytes);

}  // namespace gpumig
