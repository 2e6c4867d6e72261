// What tests of images share: directories of known files, and ways to compare and damage them.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/base/file.h"
#include "core/image/chunk_codec.h"
#include "core/image/image_reader.h"
#include "core/image/image_writer.h"
#include "tests/support/matchers.h"

namespace gpumig {

using Bytes = std::vector<std::byte>;

inline Bytes Random(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; i += 8) {
    const std::uint64_t value = generator();
    std::memcpy(bytes.data() + i, &value, std::min<std::size_t>(8, size - i));
  }
  return bytes;
}

// What zstd makes smaller.
inline Bytes Repetitive(std::size_t size, std::uint64_t seed) {
  const Bytes pattern = Random(97, seed);
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = pattern[i % pattern.size()];
  return bytes;
}

// Like weights of a model: floats around 0, cut to 16 bits or whole. Not by std::normal_distribution, which differs
// from library to library.
inline Bytes Floats(std::size_t size, std::uint64_t seed, std::size_t element_bytes) {
  std::mt19937_64 generator(seed);
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; i += element_bytes) {
    float sum = 0;  // of twelve even ones: close to normal
    for (int j = 0; j < 3; ++j) {
      const std::uint64_t four = generator();
      for (int k = 0; k < 4; ++k) sum += static_cast<float>(four >> (16 * k) & 0xffffu) / 65536.0F - 0.5F;
    }
    const float value = 0.02F * sum;
    std::array<std::byte, 4> four_bytes{};
    std::memcpy(four_bytes.data(), &value, sizeof(value));
    // The sum has 16 bits behind its point; the rest of the mantissa is noise too.
    const std::uint64_t noise = generator();
    std::memcpy(four_bytes.data(), &noise, 2);
    std::memcpy(bytes.data() + i, four_bytes.data() + 4 - element_bytes, std::min(element_bytes, size - i));
  }
  return bytes;
}
inline Bytes Bf16(std::size_t size, std::uint64_t seed) { return Floats(size, seed, 2); }
inline Bytes Fp32(std::size_t size, std::uint64_t seed) { return Floats(size, seed, 4); }

inline Bytes Zeros(std::size_t size) { return Bytes(size); }

inline Bytes Concat(std::initializer_list<Bytes> parts) {
  Bytes all;
  for (const Bytes& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

inline void WriteBytes(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  const auto fd = OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  ASSERT_THAT(fd, IsOk());
  ASSERT_THAT(WriteAll(fd->get(), bytes), IsOk());
}

inline Bytes ReadBytes(const std::filesystem::path& path) {
  Result<Bytes> bytes = ReadBinaryFile(path, std::size_t{1} << 30);
  EXPECT_THAT(bytes, IsOk());
  return bytes ? *bytes : Bytes();
}

// All regular files below `directory`, by their path in it.
inline std::map<std::string, Bytes> ReadTree(const std::filesystem::path& directory) {
  std::map<std::string, Bytes> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file()) {
      files[std::filesystem::relative(entry.path(), directory).string()] = ReadBytes(entry.path());
    }
  }
  return files;
}

inline unsigned ModeOf(const std::filesystem::path& path) {
  struct stat status{};
  EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
  return status.st_mode & 07777;
}

// A directory `source()` to be filled, and names for an image and for what is made of it.
class ImageFixture : public testing::Test {
 protected:
  void SetUp() override {
    auto directory = TemporaryDirectory::Create(testing::TempDir(), "image-test");
    ASSERT_THAT(directory, IsOk());
    directory_.emplace(std::move(*directory));
    ASSERT_TRUE(std::filesystem::create_directory(source()));
  }

  std::filesystem::path root() const { return directory_->path(); }
  std::filesystem::path source() const { return root() / "source"; }
  std::filesystem::path image() const { return root() / "image"; }
  std::filesystem::path target() const { return root() / "target"; }

  void AddFile(const std::string& name, std::span<const std::byte> bytes) { WriteBytes(source() / name, bytes); }

  // Some of everything: several chunks, zeros, repetition, one that compresses, one that does not, an empty file.
  void AddSampleFiles() {
    AddFile("core-1.img", Repetitive(3000, 1));
    AddFile("empty.img", {});
    AddFile("pages-1.img", Concat({Random(kMaxChunkBytes, 2), Zeros(kMaxChunkBytes), Repetitive(5000, 3)}));
    AddFile("pages-2.img", Concat({Zeros(kMaxChunkBytes), Random(kMaxChunkBytes, 2), Random(70000, 4)}));
  }

  static WriteOptions Options() {
    WriteOptions options;
    options.source.facts_json = R"({"name":"trainer"})";
    options.source.parallel.workers = 3;
    options.durability = StoreDurability::kNone;
    return options;
  }
  static ParallelOptions Parallel() { return {.workers = 3, .stop = {}, .progress = {}}; }

  std::filesystem::path ChunkPath(const Digest& digest) const {
    const std::string name = digest.ToHex();
    return image() / "chunks" / name.substr(0, 2) / name;
  }

  std::optional<TemporaryDirectory> directory_;
};

}  // namespace gpumig
