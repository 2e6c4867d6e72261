#include "bench/codec_links.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "bench/bench_bytes.h"
#include "core/base/check.h"
#include "core/base/thread_time.h"
#include "core/image/chunk_codec.h"

namespace gpumig {
namespace {

using Bytes = std::vector<std::byte>;
using Chunks = std::vector<Bytes>;

constexpr std::size_t kChunks = 8;
constexpr int kRuns = 5;
constexpr double kJobTurns = 32;  // a job of 1 GiB
constexpr std::array kLinksGbit{0.1, 1.0, 10.0, 25.0};

struct Cost {
  double encode_seconds = 0;
  double decode_seconds = 0;
  double bytes = 0;

  double On(double link) const { return std::max({encode_seconds, bytes / link, decode_seconds}); }
  double OneAfterAnotherOn(double link) const { return encode_seconds + bytes / link + decode_seconds; }
};

template <typename Work>
double SecondsOf(const Work& work) {
  const auto begin = CpuTimeOfThisThread();
  work();
  return std::chrono::duration<double>(CpuTimeOfThisThread() - begin).count();
}

double Median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// Stage by stage, so that one run that was disturbed does not count.
Cost MedianOf(const std::vector<Cost>& runs) {
  const auto median = [&](double Cost::* member) {
    std::vector<double> values;
    for (const Cost& run : runs) values.push_back(run.*member);
    return Median(std::move(values));
  };
  return {median(&Cost::encode_seconds), median(&Cost::decode_seconds), median(&Cost::bytes)};
}

Cost Raw(const Chunks& chunks) {
  Cost cost;
  for (const Bytes& chunk : chunks) cost.bytes += static_cast<double>(chunk.size());
  return cost;
}

Cost Zstd1(const Chunks& chunks) {
  Cost cost;
  ZSTD_CCtx* encoder = ZSTD_createCCtx();
  ZSTD_DCtx* decoder = ZSTD_createDCtx();
  Bytes encoded(ZSTD_compressBound(kMaxChunkBytes));
  Bytes decoded(kMaxChunkBytes);
  for (const Bytes& chunk : chunks) {
    std::size_t size = 0;
    cost.encode_seconds += SecondsOf(
        [&] { size = ZSTD_compressCCtx(encoder, encoded.data(), encoded.size(), chunk.data(), chunk.size(), 1); });
    cost.decode_seconds +=
        SecondsOf([&] { ZSTD_decompressDCtx(decoder, decoded.data(), decoded.size(), encoded.data(), size); });
    GPUMIG_CHECK(std::equal(chunk.begin(), chunk.end(), decoded.begin()));
    cost.bytes += static_cast<double>(size);
  }
  ZSTD_freeCCtx(encoder);
  ZSTD_freeDCtx(decoder);
  return cost;
}

// The two functions of liblz4 that are needed. Source: lz4.h 1.9.4
struct Lz4 {
  int (*compress)(const char*, char*, int, int) = nullptr;
  int (*decompress)(const char*, char*, int, int) = nullptr;

  static std::optional<Lz4> Open() {
    void* library = dlopen("liblz4.so.1", RTLD_NOW);
    if (library == nullptr) return std::nullopt;
    Lz4 lz4;
    lz4.compress = reinterpret_cast<decltype(lz4.compress)>(dlsym(library, "LZ4_compress_default"));
    lz4.decompress = reinterpret_cast<decltype(lz4.decompress)>(dlsym(library, "LZ4_decompress_safe"));
    if (lz4.compress == nullptr || lz4.decompress == nullptr) return std::nullopt;
    return lz4;
  }
};

Cost ByLz4(const Lz4& lz4, const Chunks& chunks) {
  Cost cost;
  Bytes encoded(kMaxChunkBytes + kMaxChunkBytes / 255 + 16);
  Bytes decoded(kMaxChunkBytes);
  const auto text = [](Bytes& bytes) { return reinterpret_cast<char*>(bytes.data()); };
  for (const Bytes& chunk : chunks) {
    int size = 0;
    cost.encode_seconds += SecondsOf([&] {
      size = lz4.compress(reinterpret_cast<const char*>(chunk.data()), text(encoded), static_cast<int>(chunk.size()),
                          static_cast<int>(encoded.size()));
    });
    cost.decode_seconds +=
        SecondsOf([&] { lz4.decompress(text(encoded), text(decoded), size, static_cast<int>(decoded.size())); });
    GPUMIG_CHECK(std::equal(chunk.begin(), chunk.end(), decoded.begin()));
    cost.bytes += size;
  }
  return cost;
}

Cost AutoTurn(const Chunks& chunks, double link, CodecPolicy& policy, ChunkEncoder& encoder,
              CodecPolicy::TimePoint& now) {
  Cost cost;
  ChunkDecoder decoder;
  for (const Bytes& chunk : chunks) {
    ByteBuffer with_room(kChunkHeaderBytes + chunk.size());
    std::copy(chunk.begin(), chunk.end(), with_room.begin() + kChunkHeaderBytes);
    ByteBuffer encoded;
    cost.encode_seconds += SecondsOf([&] { encoded = encoder.EncodeWithRoom(std::move(with_room)); });
    policy.SendBegins(encoded.size(), now);
    now += std::chrono::nanoseconds(static_cast<std::int64_t>(1e9 * static_cast<double>(encoded.size()) / link));
    policy.SendEnds(encoded.size(), true, now, {});
    Digest digest;
    const double digest_seconds = SecondsOf([&] { digest = Digest::Of(chunk); });
    const double all_seconds =
        SecondsOf([&] { GPUMIG_CHECK(decoder.View(encoded, digest, chunk.size()).has_value()); });
    cost.decode_seconds += std::max(0.0, all_seconds - digest_seconds);
    cost.bytes += static_cast<double>(encoded.size());
  }
  return cost;
}

// As a migration does it: what the link does is learned from what was sent, so the first chunks are encoded for an
// assumed one. Of a job of kJobTurns times `chunks`, on average: first a turn without knowing, then all others alike.
Cost Auto(const Chunks& chunks, double link, std::string& methods) {
  CodecPolicy policy({.cores = 1});
  ChunkEncoder encoder(CompressionChoice::Auto(), &policy);
  CodecPolicy::TimePoint now{std::chrono::hours(1000)};
  const Cost first = AutoTurn(chunks, link, policy, encoder, now);
  const Cost other = AutoTurn(chunks, link, policy, encoder, now);
  methods.clear();
  const auto counts = policy.chunks_by_method();
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) methods += fmt::format(" {}:{}", CodecMethodName(static_cast<CodecMethod>(i)), counts[i]);
  }
  if (methods.empty()) methods = " zero";
  const auto mean = [&](double Cost::* member) {
    return (first.*member + (kJobTurns - 1) * other.*member) / kJobTurns;
  };
  return {mean(&Cost::encode_seconds), mean(&Cost::decode_seconds), mean(&Cost::bytes)};
}

// Sources and documents of this project: real text, some MiB of it.
Bytes Text() {
  Bytes text;
  std::vector<std::filesystem::path> files;
  for (const char* folder : {"bench", "cli", "core", "device_state", "docs", "plugins", "tests", "transport"}) {
    const std::filesystem::path root = std::filesystem::path(GPUMIG_SOURCE_DIRECTORY) / folder;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
      const std::string extension = entry.path().extension().string();
      if (extension == ".cc" || extension == ".h" || extension == ".md") files.push_back(entry.path());
    }
  }
  std::ranges::sort(files);
  for (const auto& file : files) {
    std::ifstream stream(file, std::ios::binary);
    const std::string content((std::istreambuf_iterator<char>(stream)), {});
    for (const char c : content) text.push_back(static_cast<std::byte>(c));
  }
  GPUMIG_CHECK(!text.empty());
  return text;
}

Chunks TextChunks() {
  const Bytes text = Text();
  Chunks chunks(kChunks, Bytes(kMaxChunkBytes));
  std::size_t at = 0;
  for (Bytes& chunk : chunks) {
    for (std::byte& byte : chunk) byte = text[at++ % text.size()];
  }
  return chunks;
}

template <typename Make>
Chunks ChunksOf(const Make& make) {
  Chunks chunks;
  for (std::size_t i = 0; i < kChunks; ++i) chunks.push_back(make(i + 1));
  return chunks;
}

template <typename Measure>
Cost Repeated(const Measure& measure) {
  std::vector<Cost> runs;
  for (int i = 0; i < kRuns; ++i) runs.push_back(measure());
  return MedianOf(runs);
}

}  // namespace

int CompareCodecsOnLinks() {
  const std::vector<std::pair<std::string, Chunks>> kinds = {
      {"bf16", ChunksOf([](std::uint64_t seed) { return FloatBytes(kMaxChunkBytes, seed, 2); })},
      {"fp32", ChunksOf([](std::uint64_t seed) { return FloatBytes(kMaxChunkBytes, seed, 4); })},
      {"zeros", ChunksOf([](std::uint64_t) { return Bytes(kMaxChunkBytes); })},
      {"text", TextChunks()},
      {"random", ChunksOf([](std::uint64_t seed) { return RandomBytes(kMaxChunkBytes, seed); })}};
  const std::optional<Lz4> lz4 = Lz4::Open();
  double worst = 0;
  double worst_one_after_another = 0;
  std::string rows;
  fmt::print("{:<7} {:>5}  {:>9} {:>9} {:>9} {:>9}  {:>6}  {}\n", "bytes", "Gbit", "raw ms", "zstd ms", "lz4 ms",
             "auto ms", "ratio", "auto took");
  for (const auto& [name, chunks] : kinds) {
    const Cost raw = Raw(chunks);
    const Cost zstd = Repeated([&chunks = chunks] { return Zstd1(chunks); });
    const Cost by_lz4 = lz4 ? Repeated([&, &chunks = chunks] { return ByLz4(*lz4, chunks); }) : raw;
    for (const double gbit : kLinksGbit) {
      const double link = gbit * 1e9 / 8;
      std::string methods;
      const Cost automatic = Repeated([&, &chunks = chunks] { return Auto(chunks, link, methods); });
      const double best = std::min({raw.On(link), zstd.On(link), by_lz4.On(link)});
      const double ratio = automatic.On(link) / best;
      worst = std::max(worst, ratio);
      worst_one_after_another = std::max(
          worst_one_after_another,
          automatic.OneAfterAnotherOn(link) /
              std::min({raw.OneAfterAnotherOn(link), zstd.OneAfterAnotherOn(link), by_lz4.OneAfterAnotherOn(link)}));
      fmt::print("{:<7} {:>5}  {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f}  {:>6.3f} {}\n", name, gbit, 1e3 * raw.On(link),
                 1e3 * zstd.On(link), 1e3 * by_lz4.On(link), 1e3 * automatic.On(link), ratio, methods);
      rows += fmt::format(
          "{}{{\"bytes\":\"{}\",\"gbit\":{},\"raw_ms\":{:.3f},\"zstd_ms\":{:.3f},\"lz4_ms\":{},"
          "\"auto_ms\":{:.3f}}}",
          rows.empty() ? "" : ",", name, gbit, 1e3 * raw.On(link), 1e3 * zstd.On(link),
          lz4 ? fmt::format("{:.3f}", 1e3 * by_lz4.On(link)) : "null", 1e3 * automatic.On(link));
    }
  }
  fmt::print(
      "{{\"codec_worst_vs_best\":{:.3f},\"one_after_another_worst_vs_best\":{:.3f},\"lz4\":{},\"chunks\":{},"
      "\"runs\":{},\"rows\":[{}]}}\n",
      worst, worst_one_after_another, lz4.has_value(), kChunks, kRuns, rows);
  return 0;
}

}  // namespace gpumig
