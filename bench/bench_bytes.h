// Bytes to measure with: seeded, so that every run sees the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace gpumig {

inline std::vector<std::byte> RandomBytes(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; i += sizeof(std::uint64_t)) {
    const std::uint64_t value = generator();
    std::memcpy(bytes.data() + i, &value, size - i < sizeof(value) ? size - i : sizeof(value));
  }
  return bytes;
}

// Like the heap of a program: of each 64 bytes, 24 are random, the rest is zero. zstd -1 makes about half of it.
inline std::vector<std::byte> HeapLikeBytes(std::size_t size, std::uint64_t seed) {
  std::vector<std::byte> bytes = RandomBytes(size, seed);
  for (std::size_t i = 0; i < size; ++i) {
    if (i % 64 >= 24) bytes[i] = std::byte{0};
  }
  return bytes;
}

// Weights of a model: normal floats, cut to `element_bytes` bytes: 2 for bf16, 4 for fp32.
inline std::vector<std::byte> FloatBytes(std::size_t size, std::uint64_t seed, std::size_t element_bytes) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i + element_bytes <= size; i += element_bytes) {
    const float value = normal(generator);
    std::byte whole[4];
    std::memcpy(whole, &value, sizeof(value));
    std::memcpy(bytes.data() + i, whole + 4 - element_bytes, element_bytes);
  }
  return bytes;
}

}  // namespace gpumig
