// The ten kernels, as clang and as nvcc compile them, against the host: bit for bit, but for softmax, which uses
// approximations.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>
#include <string>

#include "tests/plugins/softgpu/ptx/machine.h"
#include "tests/support/needs.h"

namespace softgpu::ptx {
namespace {

using Floats = std::vector<float>;
using Words = std::vector<std::uint32_t>;
using LongWords = std::vector<std::uint64_t>;

std::string NvccPath() {
  const char* root = std::getenv("CUDA_HOME");
  return std::string(root != nullptr ? root : "/usr/local/cuda") + "/bin/nvcc";
}

// What nvcc makes of a source now; nothing of its output is kept. Empty: it is not there, or fails.
std::string CompileWithNvcc(const std::string& source) {
  const std::string nvcc = NvccPath();
  if (!std::filesystem::exists(nvcc)) return {};
  std::string directory = (std::filesystem::temp_directory_path() / "softgpu-nvcc-XXXXXX").string();
  if (mkdtemp(directory.data()) == nullptr) return {};
  const std::string output = directory + "/output.ptx";
  const pid_t child = fork();
  if (child == 0) {
    execl(nvcc.c_str(), "nvcc", "-ptx", "-arch=compute_90", "-fmad=false", "-std=c++17", "-x", "cu", "-o",
          output.c_str(), source.c_str(), nullptr);
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  std::ifstream file(output, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  std::filesystem::remove_all(directory);
  return status == 0 ? text : std::string();
}

// Parts of a toolkit do not compile even an empty file: some machines have nvcc without its headers.
bool NvccWorks() {
  static const bool works = !CompileWithNvcc("/dev/null").empty();
  return works;
}

enum class Compiler { kClang, kNvcc };

const std::string& TextOf(Compiler compiler) {
  static const std::string clang = ReadKernels("ten_kernels.ptx");
  if (compiler == Compiler::kClang) return clang;
  static const std::string nvcc = NvccWorks() ? CompileWithNvcc(KernelPath("ten_kernels.cu")) : std::string();
  return nvcc;
}

class TenKernelsTest : public testing::TestWithParam<Compiler> {
 protected:
  Floats Random(std::size_t count) {
    std::uniform_real_distribution<float> distribution(-1.0f, 1.0f);
    Floats values(count);
    for (float& value : values) value = distribution(random_);
    return values;
  }
  void Launch(const char* kernel, std::uint32_t threads, const Arguments& arguments, Dim3 block = {256, 1, 1}) {
    const std::uint32_t per_block = block.x * block.y;
    const LaunchResult result = machine_.Run(kernel, {(threads + per_block - 1) / per_block, 1, 1}, block, arguments);
    ASSERT_EQ(result.status, LaunchStatus::kDone) << result.detail;
  }

  void SetUp() override {
    if (GetParam() == Compiler::kNvcc) {
      GPUMIG_NEEDS(
          "nvcc", NvccWorks(),
          "needs nvcc: " + NvccPath() + " is missing or cannot compile an empty file; set CUDA_HOME to a toolkit");
    }
    ASSERT_FALSE(TextOf(GetParam()).empty()) << NvccPath() << " cannot compile ten_kernels.cu, see above";
  }

  std::mt19937 random_{5};
  // Where there is nothing to test, the others' kernels, which nobody runs.
  Machine machine_{TextOf(GetParam()).empty() ? TextOf(Compiler::kClang) : TextOf(GetParam())};
};

INSTANTIATE_TEST_SUITE_P(PtxOf, TenKernelsTest, testing::Values(Compiler::kClang, Compiler::kNvcc),
                         [](const auto& compiler) { return compiler.param == Compiler::kClang ? "clang" : "nvcc"; });

TEST_P(TenKernelsTest, Saxpy) {
  const std::uint32_t count = 1000;
  const Floats x = Random(count), y = Random(count);
  const std::uint64_t result = machine_.Upload(y);
  Launch("saxpy", count, Arguments(2.5f, machine_.Upload(x), result, count));
  Floats expected(count);
  for (std::size_t i = 0; i < count; ++i) expected[i] = std::fma(2.5f, x[i], y[i]);
  EXPECT_EQ(machine_.Download<float>(result, count), expected);
}

TEST_P(TenKernelsTest, ReduceSum) {
  const std::uint32_t count = 1000;
  const Floats values = Random(count);
  const std::uint64_t sums = machine_.Upload(Floats(4));
  Launch("reduce_sum", count, Arguments(machine_.Upload(values), sums, count));
  Floats expected;
  for (std::size_t block = 0; block < 4; ++block) {
    float total = 0;
    for (std::size_t warp = 0; warp < 8; ++warp) {
      Floats lanes(64);
      for (std::size_t lane = 0; lane < 32; ++lane) {
        const std::size_t i = block * 256 + warp * 32 + lane;
        lanes[lane] = i < count ? values[i] : 0.0f;
      }
      for (std::size_t offset = 16; offset > 0; offset /= 2) {
        // Lanes without a partner add themselves.
        Floats before = lanes;
        for (std::size_t lane = 0; lane < 32; ++lane) lanes[lane] += before[lane + offset < 32 ? lane + offset : lane];
      }
      total += lanes[0];
    }
    expected.push_back(total);
  }
  EXPECT_EQ(machine_.Download<float>(sums, 4), expected);
}

TEST_P(TenKernelsTest, Hash64) {
  const std::uint32_t count = 300;
  LongWords words(count * 64);
  std::mt19937_64 random(6);
  for (std::uint64_t& word : words) word = random();
  const std::uint64_t hashes = machine_.Upload(LongWords(count));
  Launch("hash64", count, Arguments(machine_.Upload(words), hashes, count));
  LongWords expected;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t lanes[4] = {0x60EA27EEADC0B5D6ull, 0xC2B2AE3D27D4EB4Full, 0, 0x61C8864E7A143579ull};
    for (std::size_t k = 0; k < 64; ++k)
      lanes[k % 4] = std::rotl(lanes[k % 4] + words[i * 64 + k] * 0xC2B2AE3D27D4EB4Full, 31) * 0x9E3779B185EBCA87ull;
    std::uint64_t hash = 512;
    for (const std::uint64_t lane : lanes) hash = (hash ^ lane) * 0x9E3779B185EBCA87ull + 0x85EBCA77C2B2AE63ull;
    hash ^= hash >> 33;
    hash *= 0xC2B2AE3D27D4EB4Full;
    expected.push_back(hash ^ (hash >> 29));
  }
  EXPECT_EQ(machine_.Download<std::uint64_t>(hashes, count), expected);
}

TEST_P(TenKernelsTest, Matmul) {
  const std::uint32_t size = 48;
  const Floats a = Random(size * size), b = Random(size * size);
  const std::uint64_t c = machine_.Upload(Floats(size * size));
  const LaunchResult result =
      machine_.Run("matmul", {3, 3, 1}, {16, 16, 1}, Arguments(machine_.Upload(a), machine_.Upload(b), c, size));
  ASSERT_EQ(result.status, LaunchStatus::kDone) << result.detail;
  Floats expected(size * size);
  for (std::size_t row = 0; row < size; ++row) {
    for (std::size_t column = 0; column < size; ++column) {
      float sum = 0;
      for (std::size_t k = 0; k < size; ++k) sum = std::fma(a[row * size + k], b[k * size + column], sum);
      expected[row * size + column] = sum;
    }
  }
  EXPECT_EQ(machine_.Download<float>(c, size * size), expected);
}

TEST_P(TenKernelsTest, SgdWithMomentum) {
  const std::uint32_t count = 500;
  const Floats weights = Random(count), velocity = Random(count), gradient = Random(count);
  const std::uint64_t weight_address = machine_.Upload(weights), velocity_address = machine_.Upload(velocity);
  Launch("sgd_momentum", count,
         Arguments(weight_address, velocity_address, machine_.Upload(gradient), 0.1f, 0.9f, count));
  Floats expected_weights, expected_velocity;
  for (std::size_t i = 0; i < count; ++i) {
    expected_velocity.push_back(0.9f * velocity[i] + gradient[i]);
    expected_weights.push_back(weights[i] - 0.1f * expected_velocity[i]);
  }
  EXPECT_EQ(machine_.Download<float>(velocity_address, count), expected_velocity);
  EXPECT_EQ(machine_.Download<float>(weight_address, count), expected_weights);
}

TEST_P(TenKernelsTest, Adam) {
  const std::uint32_t count = 500;
  const Floats weights = Random(count), first = Random(count), gradient = Random(count);
  Floats second = Random(count);
  for (float& value : second) value = std::fabs(value);
  const std::uint64_t weight_address = machine_.Upload(weights), first_address = machine_.Upload(first),
                      second_address = machine_.Upload(second);
  Launch(
      "adam", count,
      Arguments(weight_address, first_address, second_address, machine_.Upload(gradient), 0.01f, 0.19f, 0.002f, count));
  Floats expected_weights, expected_first, expected_second;
  for (std::size_t i = 0; i < count; ++i) {
    const float m = 0.9f * first[i] + 0.1f * gradient[i], v = 0.999f * second[i] + 0.001f * gradient[i] * gradient[i];
    expected_first.push_back(m);
    expected_second.push_back(v);
    expected_weights.push_back(weights[i] - 0.01f * (m / 0.19f) / (std::sqrt(v / 0.002f) + 1e-8f));
  }
  EXPECT_EQ(machine_.Download<float>(first_address, count), expected_first);
  EXPECT_EQ(machine_.Download<float>(second_address, count), expected_second);
  EXPECT_EQ(machine_.Download<float>(weight_address, count), expected_weights);
}

TEST_P(TenKernelsTest, ReluBackward) {
  const std::uint32_t count = 500;
  const Floats activation = Random(count), gradient = Random(count);
  const std::uint64_t result = machine_.Upload(Floats(count));
  Launch("relu_backward", count, Arguments(machine_.Upload(activation), machine_.Upload(gradient), result, count));
  Floats expected;
  for (std::size_t i = 0; i < count; ++i) expected.push_back(activation[i] > 0 ? gradient[i] : 0.0f);
  EXPECT_EQ(machine_.Download<float>(result, count), expected);
}

TEST_P(TenKernelsTest, SoftmaxCrossEntropy) {
  const std::uint32_t rows = 70, classes = 10;
  const Floats logits = Random(rows * classes);
  Words labels;
  for (std::uint32_t row = 0; row < rows; ++row) labels.push_back(row % classes);
  const std::uint64_t losses = machine_.Upload(Floats(rows)), gradients = machine_.Upload(Floats(rows * classes));
  Launch("softmax_cross_entropy", rows,
         Arguments(machine_.Upload(logits), machine_.Upload(labels), losses, gradients, rows, classes));
  const Floats found_losses = machine_.Download<float>(losses, rows),
               found_gradients = machine_.Download<float>(gradients, rows * classes);
  for (std::size_t row = 0; row < rows; ++row) {
    double sum = 0;
    for (std::size_t k = 0; k < classes; ++k) sum += std::exp(static_cast<double>(logits[row * classes + k]));
    EXPECT_NEAR(found_losses[row], std::log(sum) - static_cast<double>(logits[row * classes + labels[row]]), 1e-5);
    for (std::size_t k = 0; k < classes; ++k) {
      const double wanted = std::exp(static_cast<double>(logits[row * classes + k])) / sum - (k == labels[row] ? 1 : 0);
      EXPECT_NEAR(found_gradients[row * classes + k], wanted, 1e-6);
    }
  }
}

TEST_P(TenKernelsTest, Philox) {
  // The known answer of Random123 for key and counter 0.
  const std::uint32_t count = 100;
  const std::uint64_t words = machine_.Upload(Words(count * 4));
  Launch("philox", count, Arguments(words, std::uint64_t{0}, count));
  const Words found = machine_.Download<std::uint32_t>(words, count * 4);
  EXPECT_THAT(Words(found.begin(), found.begin() + 4),
              testing::ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_NE(found[4], found[0]);
}

TEST_P(TenKernelsTest, Histogram) {
  const std::uint32_t count = 10000;
  std::vector<std::uint8_t> bytes(count);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random_() % 97);
  const std::uint64_t counts = machine_.Upload(Words(256));
  Launch("histogram", 1024, Arguments(machine_.Upload(bytes), counts, count));
  Words expected(256);
  for (const std::uint8_t byte : bytes) ++expected[byte];
  EXPECT_EQ(machine_.Download<std::uint32_t>(counts, 256), expected);
}

}  // namespace
}  // namespace softgpu::ptx
