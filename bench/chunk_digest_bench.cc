// What one hashing worker sustains. The pipeline needs workers x this >= the rate at which bytes come.
#include <benchmark/benchmark.h>
#include <openssl/evp.h>

#include <array>
#include <cstring>

#include "bench/bench_bytes.h"
#include "core/base/check.h"
#include "core/image/chunk_codec.h"
#include "core/image/digest.h"

namespace gpumig {
namespace {

void SetBytes(benchmark::State& state) { state.SetBytesProcessed(state.iterations() * state.range(0)); }

void BM_ChunkDigest(benchmark::State& state) {
  const std::vector<std::byte> chunk = RandomBytes(static_cast<std::size_t>(state.range(0)), /*seed=*/1);
  for (auto _ : state) benchmark::DoNotOptimize(Digest::Of(chunk));
  SetBytes(state);
}
BENCHMARK(BM_ChunkDigest)->Arg(4096)->Arg(65536)->Arg(kMaxChunkBytes);

// What named chunks in image format 1.
void BM_Sha256(benchmark::State& state) {
  const std::vector<std::byte> chunk = RandomBytes(static_cast<std::size_t>(state.range(0)), /*seed=*/1);
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  for (auto _ : state) {
    GPUMIG_CHECK(EVP_Digest(chunk.data(), chunk.size(), digest.data(), nullptr, EVP_sha256(), nullptr) == 1);
    benchmark::DoNotOptimize(digest);
  }
  SetBytes(state);
}
BENCHMARK(BM_Sha256)->Arg(4096)->Arg(65536)->Arg(kMaxChunkBytes);

// What finding a chunk of zeros costs; a chunk that is none costs next to nothing.
void BM_IsAllZero(benchmark::State& state) {
  const std::vector<std::byte> chunk(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(IsAllZero(chunk));
  SetBytes(state);
}
BENCHMARK(BM_IsAllZero)->Arg(kMaxChunkBytes);

// The bound of both: reading and writing memory once.
void BM_Memcpy(benchmark::State& state) {
  const std::vector<std::byte> chunk = RandomBytes(static_cast<std::size_t>(state.range(0)), /*seed=*/1);
  std::vector<std::byte> copy(chunk.size());
  for (auto _ : state) {
    std::memcpy(copy.data(), chunk.data(), chunk.size());
    benchmark::ClobberMemory();
  }
  SetBytes(state);
}
BENCHMARK(BM_Memcpy)->Arg(kMaxChunkBytes);

}  // namespace
}  // namespace gpumig
