// What a cheap look at a few KiB of a chunk promises: how many bits its bytes and those of its byte planes carry, and
// what zstd makes of them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace gpumig {

// The ways to encode a chunk that `auto` chooses among.
enum class CodecMethod : std::uint8_t {
  kRaw = 0,
  kZstdFast,  // level -5: matches only
  kZstd1,
  kZstd3,
  kLiterals,  // entropy coding of bytes, no search for matches
  kPlanes2,   // byte planes of elements of 2 bytes: bf16, fp16
  kPlanes4,   // of 4 bytes: fp32
};
inline constexpr std::size_t kCodecMethodCount = 7;
// "raw", "zstd:1", "planes2", ...
std::string_view CodecMethodName(CodecMethod method);

struct ChunkProbe {
  double bits = 8;  // per byte, by the frequencies of byte values alone
  std::array<double, 2> bits_of_2{8, 8};
  std::array<double, 4> bits_of_4{8, 8, 8, 8};
  double zstd_ratio = 1;       // plain / compressed, at level 1
  double zstd_fast_ratio = 1;  // at kZstdFast's level
};

struct CodecEstimate {
  double ratio = 1;               // plain / encoded, at least 1
  std::uint8_t coded_planes = 0;  // bit k: plane k is worth entropy coding
};
CodecEstimate EstimateOf(const ChunkProbe& probe, CodecMethod method);

// Keeps working memory from one chunk to the next. Thread safety: one thread at a time.
class ChunkProber {
 public:
  ChunkProber();
  ChunkProber(ChunkProber&&) noexcept;
  ChunkProber& operator=(ChunkProber&&) noexcept;
  ~ChunkProber();

  // Looks at 16 KiB of `plain` for frequencies and at 24 KiB with zstd, spread over it: 0.1 ms.
  ChunkProbe Look(std::span<const std::byte> plain);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace gpumig
