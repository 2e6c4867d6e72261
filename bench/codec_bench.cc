// codec_bench --links: `auto` against its peers, see codec_links.h. Else:
// What compressing costs a worker, and what it saves: encoding pays where bytes leave more slowly than this makes them.
#include <benchmark/benchmark.h>

#include <cstring>

#include "bench/bench_bytes.h"
#include "bench/codec_links.h"
#include "core/base/check.h"
#include "core/image/chunk_codec.h"

namespace gpumig {
namespace {

// Level 0 stands for no compression.
CompressionChoice ChoiceOf(std::int64_t level) {
  return level == 0 ? CompressionChoice::None() : CompressionChoice::Zstd(static_cast<int>(level));
}

void Encode(benchmark::State& state, const std::vector<std::byte>& plain) {
  ChunkEncoder encoder(ChoiceOf(state.range(0)));
  const std::vector<std::byte> once = EncodeChunk(plain, ChoiceOf(state.range(0)));
  GPUMIG_CHECK(DecodeChunk(once, Digest::Of(plain), plain.size()).has_value());
  for (auto _ : state) benchmark::DoNotOptimize(encoder.Encode(plain).data());
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(plain.size()));
  state.counters["ratio"] = static_cast<double>(plain.size()) / static_cast<double>(once.size());
}

void BM_EncodeHeapLike(benchmark::State& state) { Encode(state, HeapLikeBytes(kMaxChunkBytes, /*seed=*/1)); }
BENCHMARK(BM_EncodeHeapLike)->Arg(0)->Arg(-5)->Arg(1)->Arg(3);

void BM_EncodeRandom(benchmark::State& state) { Encode(state, RandomBytes(kMaxChunkBytes, /*seed=*/1)); }
BENCHMARK(BM_EncodeRandom)->Arg(1);

// With the digest checked, as every reader does.
void BM_DecodeAndCheck(benchmark::State& state) {
  const std::vector<std::byte> plain = HeapLikeBytes(kMaxChunkBytes, /*seed=*/1);
  const std::vector<std::byte> encoded = EncodeChunk(plain, ChoiceOf(state.range(0)));
  const Digest digest = Digest::Of(plain);
  ChunkDecoder decoder;
  std::vector<std::byte> decoded(plain.size());
  for (auto _ : state) GPUMIG_CHECK(decoder.Decode(encoded, digest, decoded).has_value());
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(plain.size()));
}
BENCHMARK(BM_DecodeAndCheck)->Arg(0)->Arg(1);

}  // namespace
}  // namespace gpumig

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--links") == 0) return gpumig::CompareCodecsOnLinks();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
