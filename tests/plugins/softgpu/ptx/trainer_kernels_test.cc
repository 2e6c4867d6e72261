// The kernels of the training job against the same sums on the host, bit for bit.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

#include "tests/plugins/softgpu/ptx/machine.h"

namespace softgpu::ptx {
namespace {

class TrainerKernelsTest : public testing::Test {
 protected:
  std::vector<float> Random(std::size_t count) {
    std::uniform_real_distribution<float> distribution(-1.0f, 1.0f);
    std::vector<float> values(count);
    for (float& value : values) value = distribution(random_);
    return values;
  }
  static Dim3 GridFor(std::uint32_t threads) { return {(threads + 127) / 128, 1, 1}; }

  std::mt19937 random_{1};
  Machine machine_{ReadKernels("trainer.ptx")};
};

TEST_F(TrainerKernelsTest, DenseForwardEqualsTheHost) {
  const std::uint32_t rows = 17, inner = 37, columns = 23;
  const std::vector<float> input = Random(rows * inner), weights = Random(inner * columns), bias = Random(columns);
  const std::uint64_t output = machine_.memory.Allocate(rows * columns * 4);
  const Arguments arguments(machine_.Upload(input), machine_.Upload(weights), machine_.Upload(bias), output, rows,
                            inner, columns, 1u);
  const LaunchResult result = machine_.Run("dense_forward", GridFor(rows * columns), {128, 1, 1}, arguments);
  ASSERT_EQ(result.status, LaunchStatus::kDone) << result.detail;
  std::vector<float> expected(rows * columns);
  for (std::uint32_t row = 0; row < rows; ++row) {
    for (std::uint32_t column = 0; column < columns; ++column) {
      float sum = bias[column];
      for (std::uint32_t k = 0; k < inner; ++k)
        sum = std::fma(input[row * inner + k], weights[k * columns + column], sum);
      expected[row * columns + column] = sum > 0 ? sum : 0;
    }
  }
  EXPECT_EQ(machine_.Download<float>(output, rows * columns), expected);
}

TEST_F(TrainerKernelsTest, MeanEqualsTheHost) {
  const std::vector<float> values = Random(1000);
  const std::uint64_t mean = machine_.memory.Allocate(4);
  const LaunchResult result =
      machine_.Run("mean", {1, 1, 1}, {256, 1, 1}, Arguments(machine_.Upload(values), mean, 1000u));
  ASSERT_EQ(result.status, LaunchStatus::kDone) << result.detail;
  std::vector<float> partial(256, 0.0f);
  for (std::size_t i = 0; i < values.size(); ++i) partial[i % 256] += values[i];
  for (std::size_t half = 128; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) partial[i] += partial[i + half];
  }
  EXPECT_EQ(machine_.Download<float>(mean, 1)[0], partial[0] / 1000.0f);
}

TEST_F(TrainerKernelsTest, SquaredErrorEqualsTheHost) {
  const std::uint32_t count = 300;
  const std::vector<float> output = Random(count), wanted = Random(count);
  const std::uint64_t gradient = machine_.memory.Allocate(count * 4), loss = machine_.memory.Allocate(count * 4);
  const LaunchResult result =
      machine_.Run("squared_error", GridFor(count), {128, 1, 1},
                   Arguments(machine_.Upload(output), machine_.Upload(wanted), gradient, loss, count));
  ASSERT_EQ(result.status, LaunchStatus::kDone) << result.detail;
  for (std::uint32_t i = 0; i < count; ++i) {
    const float difference = output[i] - wanted[i];
    ASSERT_EQ(machine_.Download<float>(gradient, count)[i], 2.0f * difference / static_cast<float>(count)) << i;
    ASSERT_EQ(machine_.Download<float>(loss, count)[i], difference * difference) << i;
  }
}

TEST_F(TrainerKernelsTest, GradientsEqualTheHost) {
  const std::uint32_t rows = 9, inner = 11, columns = 7;
  const std::vector<float> input = Random(rows * inner), gradient = Random(rows * columns),
                           weights = Random(inner * columns);
  const std::uint64_t weight_gradient = machine_.memory.Allocate(inner * columns * 4),
                      bias_gradient = machine_.memory.Allocate(columns * 4);
  const std::uint64_t input_gradient = machine_.memory.Allocate(rows * inner * 4);
  const std::uint64_t input_address = machine_.Upload(input), gradient_address = machine_.Upload(gradient);
  LaunchResult result =
      machine_.Run("dense_weight_gradient", GridFor((inner + 1) * columns), {128, 1, 1},
                   Arguments(input_address, gradient_address, weight_gradient, bias_gradient, rows, inner, columns));
  ASSERT_EQ(result.status, LaunchStatus::kDone) << result.detail;
  result = machine_.Run(
      "dense_input_gradient", GridFor(rows * inner), {128, 1, 1},
      Arguments(gradient_address, machine_.Upload(weights), input_address, input_gradient, rows, inner, columns));
  ASSERT_EQ(result.status, LaunchStatus::kDone) << result.detail;
  for (std::uint32_t k = 0; k <= inner; ++k) {
    for (std::uint32_t column = 0; column < columns; ++column) {
      float sum = 0;
      for (std::uint32_t row = 0; row < rows; ++row)
        sum = std::fma(k == inner ? 1.0f : input[row * inner + k], gradient[row * columns + column], sum);
      const float found = k == inner ? machine_.Download<float>(bias_gradient, columns)[column]
                                     : machine_.Download<float>(weight_gradient, inner * columns)[k * columns + column];
      ASSERT_EQ(found, sum) << k << " " << column;
    }
  }
  for (std::uint32_t row = 0; row < rows; ++row) {
    for (std::uint32_t k = 0; k < inner; ++k) {
      float sum = 0;
      for (std::uint32_t column = 0; column < columns; ++column)
        sum = std::fma(gradient[row * columns + column], weights[k * columns + column], sum);
      ASSERT_EQ(machine_.Download<float>(input_gradient, rows * inner)[row * inner + k],
                input[row * inner + k] > 0 ? sum : 0.0f);
    }
  }
}

TEST_F(TrainerKernelsTest, MomentumUpdateEqualsTheHost) {
  const std::uint32_t count = 200;
  const std::vector<float> weights = Random(count), velocity = Random(count), gradient = Random(count);
  const std::uint64_t weight_address = machine_.Upload(weights), velocity_address = machine_.Upload(velocity);
  const LaunchResult result =
      machine_.Run("momentum_update", GridFor(count), {128, 1, 1},
                   Arguments(weight_address, velocity_address, machine_.Upload(gradient), 0.01f, 0.9f, count));
  ASSERT_EQ(result.status, LaunchStatus::kDone) << result.detail;
  for (std::uint32_t i = 0; i < count; ++i) {
    const float speed = std::fma(0.9f, velocity[i], gradient[i]);
    ASSERT_EQ(machine_.Download<float>(velocity_address, count)[i], speed);
    ASSERT_EQ(machine_.Download<float>(weight_address, count)[i], std::fma(-0.01f, speed, weights[i]));
  }
}

std::uint64_t Mix(std::uint64_t x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9ull;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

TEST_F(TrainerKernelsTest, PatternKernelsEqualTheHostForAnyGrid) {
  const std::uint64_t count = 5000, seed = 42;
  std::vector<std::uint64_t> expected(count);
  for (std::uint64_t i = 0; i < count; ++i) expected[i] = Mix(seed + i * 0x9E3779B97F4A7C15ull);
  for (std::uint64_t i = 3; i < count; i += 7) expected[i] = Mix(expected[i] ^ 99) + i;
  std::uint64_t expected_sum = 0;
  for (std::uint64_t i = 0; i < count; ++i) expected_sum += Mix(expected[i] ^ Mix(i + 1));
  for (const std::uint32_t blocks : {1u, 3u, 64u}) {
    const std::uint64_t words = machine_.memory.Allocate(count * 8), sum = machine_.memory.Allocate(8);
    ASSERT_EQ(machine_.Run("fill_pattern", {blocks, 1, 1}, {256, 1, 1}, Arguments(words, count, seed)).status,
              LaunchStatus::kDone);
    ASSERT_EQ(machine_
                  .Run("mutate_pattern", {blocks, 1, 1}, {96, 1, 1},
                       Arguments(words, count, std::uint64_t{3}, std::uint64_t{7}, std::uint64_t{99}))
                  .status,
              LaunchStatus::kDone);
    ASSERT_EQ(machine_.Run("checksum64", {blocks, 1, 1}, {256, 1, 1}, Arguments(words, count, sum)).status,
              LaunchStatus::kDone);
    EXPECT_EQ(machine_.Download<std::uint64_t>(words, count), expected);
    EXPECT_EQ(machine_.Download<std::uint64_t>(sum, 1)[0], expected_sum);
  }
}

}  // namespace
}  // namespace softgpu::ptx
