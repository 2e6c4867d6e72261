// What the PTX interpreter sustains on one core, beside the same loop in plain C++ (built with the flags of this
// program: SSE2). Tests and the demo run kernels by it, so it must keep a training step of a small network within
// milliseconds.
#include <benchmark/benchmark.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/plugins/softgpu/ptx/machine.h"

namespace softgpu::ptx {
namespace {

constexpr std::uint32_t kCount = 1 << 16;

// Runs `kernel` once per iteration, and reports items, and lane instructions, per second.
void RunKernel(benchmark::State& state, Machine& machine, const char* kernel, Dim3 grid, Dim3 block,
               const Arguments& arguments, std::int64_t items) {
  std::uint64_t lane_instructions = 0;
  for (auto _ : state) {
    const LaunchResult result = machine.Run(kernel, grid, block, arguments);
    if (result.status != LaunchStatus::kDone) state.SkipWithError(result.detail.c_str());
    lane_instructions += result.lane_instructions;
  }
  state.SetItemsProcessed(state.iterations() * items);
  state.counters["lane_instructions"] =
      benchmark::Counter(static_cast<double>(lane_instructions), benchmark::Counter::kIsRate);
}

void BM_SaxpyInterpreted(benchmark::State& state) {
  Machine machine(ReadKernels("ten_kernels.ptx"));
  const std::vector<float> values(kCount, 1.5f);
  const Arguments arguments(0.5f, machine.Upload(values), machine.Upload(values), kCount);
  RunKernel(state, machine, "saxpy", {kCount / 256, 1, 1}, {256, 1, 1}, arguments, kCount);
}
BENCHMARK(BM_SaxpyInterpreted);

void BM_SaxpyPlain(benchmark::State& state) {
  const std::vector<float> x(kCount, 1.5f);
  std::vector<float> y(kCount, 1.5f);
  for (auto _ : state) {
    for (std::size_t i = 0; i < kCount; ++i) y[i] += 0.5f * x[i];
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * kCount);
}
BENCHMARK(BM_SaxpyPlain);

void BM_ReduceInterpreted(benchmark::State& state) {
  Machine machine(ReadKernels("ten_kernels.ptx"));
  const Arguments arguments(machine.Upload(std::vector<float>(kCount, 1.5f)),
                            machine.Upload(std::vector<float>(kCount / 256)), kCount);
  RunKernel(state, machine, "reduce_sum", {kCount / 256, 1, 1}, {256, 1, 1}, arguments, kCount);
}
BENCHMARK(BM_ReduceInterpreted);

void BM_ReducePlain(benchmark::State& state) {
  const std::vector<float> values(kCount, 1.5f);
  for (auto _ : state) {
    float sum = 0;
    for (const float value : values) sum += value;
    benchmark::DoNotOptimize(sum);
  }
  state.SetItemsProcessed(state.iterations() * kCount);
}
BENCHMARK(BM_ReducePlain);

// Items are bytes.
void BM_HashInterpreted(benchmark::State& state) {
  Machine machine(ReadKernels("ten_kernels.ptx"));
  const std::uint32_t runs = 4096;
  const Arguments arguments(machine.Upload(std::vector<std::uint64_t>(runs * 64, 7)),
                            machine.Upload(std::vector<std::uint64_t>(runs)), runs);
  RunKernel(state, machine, "hash64", {runs / 256, 1, 1}, {256, 1, 1}, arguments, runs * 512);
}
BENCHMARK(BM_HashInterpreted);

void BM_HashPlain(benchmark::State& state) {
  const std::vector<std::uint64_t> words(4096 * 64, 7);
  for (auto _ : state) {
    std::uint64_t lanes[4] = {1, 2, 3, 4};
    for (std::size_t i = 0; i < words.size(); ++i)
      lanes[i % 4] = std::rotl(lanes[i % 4] + words[i] * 0xC2B2AE3D27D4EB4Full, 31) * 0x9E3779B185EBCA87ull;
    benchmark::DoNotOptimize(lanes);
  }
  state.SetItemsProcessed(state.iterations() * 4096 * 512);
}
BENCHMARK(BM_HashPlain);

// Items are fused multiply-adds.
void BM_MatmulInterpreted(benchmark::State& state) {
  Machine machine(ReadKernels("ten_kernels.ptx"));
  const std::uint32_t size = 256;
  const std::vector<float> values(size * size, 0.5f);
  const Arguments arguments(machine.Upload(values), machine.Upload(values), machine.Upload(values), size);
  RunKernel(state, machine, "matmul", {size / 16, size / 16, 1}, {16, 16, 1}, arguments,
            std::int64_t{size} * size * size);
}
BENCHMARK(BM_MatmulInterpreted);

void BM_MatmulPlain(benchmark::State& state) {
  constexpr std::size_t kSize = 256;
  const std::vector<float> a(kSize * kSize, 0.5f), b(kSize * kSize, 0.5f);
  std::vector<float> c(kSize * kSize);
  for (auto _ : state) {
    std::fill(c.begin(), c.end(), 0.0f);
    for (std::size_t row = 0; row < kSize; ++row) {
      for (std::size_t k = 0; k < kSize; ++k) {
        for (std::size_t column = 0; column < kSize; ++column)
          c[row * kSize + column] += a[row * kSize + k] * b[k * kSize + column];
      }
    }
    benchmark::DoNotOptimize(c.data());
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(kSize * kSize * kSize));
}
BENCHMARK(BM_MatmulPlain);

// Items are words.
void BM_PhiloxInterpreted(benchmark::State& state) {
  Machine machine(ReadKernels("ten_kernels.ptx"));
  const Arguments arguments(machine.Upload(std::vector<std::uint32_t>(kCount * 4)), std::uint64_t{1}, kCount);
  RunKernel(state, machine, "philox", {kCount / 256, 1, 1}, {256, 1, 1}, arguments, kCount * 4);
}
BENCHMARK(BM_PhiloxInterpreted);

void BM_PhiloxPlain(benchmark::State& state) {
  std::vector<std::uint32_t> words(kCount * 4);
  for (auto _ : state) {
    for (std::uint32_t i = 0; i < kCount; ++i) {
      std::uint32_t c[4] = {i, 0, 0, 0}, k[2] = {1, 0};
      for (int round = 0; round < 10; ++round) {
        const std::uint64_t first = std::uint64_t{c[0]} * 0xD2511F53u, second = std::uint64_t{c[2]} * 0xCD9E8D57u;
        const std::uint32_t mixed = static_cast<std::uint32_t>(second >> 32) ^ c[1] ^ k[0];
        c[2] = static_cast<std::uint32_t>(first >> 32) ^ c[3] ^ k[1];
        c[0] = mixed;
        c[1] = static_cast<std::uint32_t>(second);
        c[3] = static_cast<std::uint32_t>(first);
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
      }
      std::memcpy(&words[i * 4], c, sizeof(c));
    }
    benchmark::DoNotOptimize(words.data());
  }
  state.SetItemsProcessed(state.iterations() * kCount * 4);
}
BENCHMARK(BM_PhiloxPlain);

void BM_ParseTenKernels(benchmark::State& state) {
  const std::string text = ReadKernels("ten_kernels.ptx");
  for (auto _ : state) benchmark::DoNotOptimize(Module::Parse(text));
}
BENCHMARK(BM_ParseTenKernels);

}  // namespace
}  // namespace softgpu::ptx
