#include "core/image/chunk_probe.h"

#include <zstd.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/check.h"

namespace gpumig {
namespace {

constexpr std::size_t kCountedPieces = 8;
constexpr std::size_t kCountedBytes = 2 << 10;  // each
constexpr std::size_t kTriedPieces = 3;
constexpr std::size_t kTriedBytes = 8 << 10;  // each
constexpr int kLevel = 1;
constexpr int kFastLevel = -5;

// A plane that carries more is sent as it is: coding it would gain less than it costs.
constexpr double kMostBitsCoded = 7.5;

using Counts = std::array<std::uint32_t, 256>;

// Calls `look` with `count` pieces of up to `bytes` bytes, spread evenly, each at a multiple of 4 from the start.
template <typename Look>
void ForPieces(std::span<const std::byte> plain, std::size_t count, std::size_t bytes, const Look& look) {
  if (plain.size() <= count * bytes) {
    look(plain);
    return;
  }
  for (std::size_t i = 0; i < count; ++i) {
    // In the middle of its part of the chunk.
    const std::size_t part = plain.size() / count;
    look(plain.subspan((i * part + (part - bytes) / 2) / 4 * 4, bytes));
  }
}

// log2 of small numbers, of which a probe needs a thousand.
const std::vector<float>& Logarithms() {
  static const std::vector<float> table = [] {
    std::vector<float> logarithms(kCountedPieces * kCountedBytes + 1);
    for (std::size_t i = 1; i < logarithms.size(); ++i) logarithms[i] = std::log2(static_cast<float>(i));
    return logarithms;
  }();
  return table;
}

// Bits per byte of an ideal coder that knows these frequencies.
double Entropy(const Counts& counts) {
  const std::vector<float>& logarithm = Logarithms();
  std::uint32_t total = 0;
  int distinct = 0;
  double weighted = 0;
  for (const std::uint32_t count : counts) {
    total += count;
    distinct += count > 0 ? 1 : 0;
    weighted += count * static_cast<double>(logarithm[count]);
  }
  if (total == 0) return 8;
  // A small sample looks more orderly than what it was taken of (the correction of Miller and Madow).
  const double bias = (distinct - 1) / (2 * total * std::log(2.0));
  return std::min(8.0, logarithm[total] - weighted / total + bias);
}

Counts Sum(const Counts& a, const Counts& b) {
  Counts sum{};
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] = a[i] + b[i];
  return sum;
}

// Huffman codes have one bit at least, but for a plane of one value.
double HuffmanBits(double entropy) { return entropy < 0.001 ? 0 : std::max(1.0, entropy + 0.03); }

template <std::size_t N>
CodecEstimate PlanesEstimate(const std::array<double, N>& bits) {
  CodecEstimate estimate;
  double sum = 0;
  for (std::size_t plane = 0; plane < N; ++plane) {
    const bool coded = bits[plane] <= kMostBitsCoded;
    if (coded) estimate.coded_planes = static_cast<std::uint8_t>(estimate.coded_planes | (1u << plane));
    sum += coded ? HuffmanBits(bits[plane]) : 8;
  }
  // Each plane needs a table of its codes; more planes have to promise more, or the noise of the sample decides.
  estimate.ratio = std::max(1.0, (1 - 0.0025 * N) * 8.0 * N / std::max(sum, 0.01));
  return estimate;
}

}  // namespace

std::string_view CodecMethodName(CodecMethod method) {
  switch (method) {
    case CodecMethod::kRaw:
      return "raw";
    case CodecMethod::kZstdFast:
      return "zstd:-5";
    case CodecMethod::kZstd1:
      return "zstd:1";
    case CodecMethod::kZstd3:
      return "zstd:3";
    case CodecMethod::kLiterals:
      return "literals";
    case CodecMethod::kPlanes2:
      return "planes2";
    case CodecMethod::kPlanes4:
      return "planes4";
  }
  return "?";
}

CodecEstimate EstimateOf(const ChunkProbe& probe, CodecMethod method) {
  switch (method) {
    case CodecMethod::kRaw:
      break;
    case CodecMethod::kZstdFast:
      return {.ratio = probe.zstd_fast_ratio};
    case CodecMethod::kZstd1:
      return {.ratio = probe.zstd_ratio};
    // What a longer search finds more, where there are matches at all.
    case CodecMethod::kZstd3:
      return {.ratio = probe.zstd_fast_ratio > 1.03 ? 1.05 * probe.zstd_ratio : probe.zstd_ratio};
    case CodecMethod::kLiterals:
      return {.ratio = probe.bits <= kMostBitsCoded ? 8 / std::max(HuffmanBits(probe.bits), 0.01) : 1};
    case CodecMethod::kPlanes2:
      return PlanesEstimate(probe.bits_of_2);
    case CodecMethod::kPlanes4:
      return PlanesEstimate(probe.bits_of_4);
  }
  return {};
}

struct ChunkProber::Context {
  Context() : zstd(ZSTD_createCCtx()), compressed(ZSTD_compressBound(kTriedPieces * kTriedBytes)) {
    GPUMIG_CHECK(zstd != nullptr);
  }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context() { ZSTD_freeCCtx(zstd); }

  double RatioAt(int level, std::span<const std::byte> plain) {
    std::size_t before = 0;
    std::size_t after = 0;
    ForPieces(plain, kTriedPieces, kTriedBytes, [&](std::span<const std::byte> piece) {
      const std::size_t size =
          ZSTD_compressCCtx(zstd, compressed.data(), compressed.size(), piece.data(), piece.size(), level);
      before += piece.size();
      after += ZSTD_isError(size) == 0 ? std::min(size, piece.size()) : piece.size();
    });
    return static_cast<double>(before) / static_cast<double>(std::max<std::size_t>(after, 1));
  }

  ZSTD_CCtx* zstd;
  std::vector<std::byte> compressed;
};

ChunkProber::ChunkProber() : context_(std::make_unique<Context>()) {}
ChunkProber::ChunkProber(ChunkProber&&) noexcept = default;
ChunkProber& ChunkProber::operator=(ChunkProber&&) noexcept = default;
ChunkProber::~ChunkProber() = default;

ChunkProbe ChunkProber::Look(std::span<const std::byte> plain) {
  std::array<Counts, 4> counts{};
  ForPieces(plain, kCountedPieces, kCountedBytes, [&](std::span<const std::byte> piece) {
    for (std::size_t i = 0; i < piece.size(); ++i) ++counts[i % 4][std::to_integer<std::size_t>(piece[i])];
  });
  const Counts even = Sum(counts[0], counts[2]);
  const Counts odd = Sum(counts[1], counts[3]);
  ChunkProbe probe;
  probe.bits = Entropy(Sum(even, odd));
  probe.bits_of_2 = {Entropy(even), Entropy(odd)};
  for (std::size_t i = 0; i < counts.size(); ++i) probe.bits_of_4[i] = Entropy(counts[i]);
  probe.zstd_ratio = context_->RatioAt(kLevel, plain);
  probe.zstd_fast_ratio = context_->RatioAt(kFastLevel, plain);
  return probe;
}

}  // namespace gpumig
