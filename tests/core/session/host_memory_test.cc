#include "core/session/host_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <set>

#include "core/host/process.h"
#include "tests/core/image/image_fixture.h"

namespace gpumig {
namespace {

// Memory of this very process, which stands for a frozen one.
class HostMemoryTest : public ImageFixture {
 protected:
  void SetUp() override {
    ImageFixture::SetUp();
    memory_ =
        static_cast<std::byte*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory_, MAP_FAILED);
    const pid_t inner = NamespacePids(getpid())->back();
    const std::uint64_t address = reinterpret_cast<std::uintptr_t>(memory_);
    map_.processes.emplace_back(inner,
                                std::vector<MemoryRange>{{address, kHalf}, {address + kHalf + kPageBytes, kHalf}});
    name_ = MemoryFileName(inner);
  }
  void TearDown() override { munmap(memory_, kBytes); }

  Bytes Content() const {
    return Concat({Bytes(memory_, memory_ + kHalf), Bytes(memory_ + kHalf + kPageBytes, memory_ + kBytes)});
  }
  void Fill(std::span<const std::byte> content) {
    std::memcpy(memory_, content.data(), kHalf);
    std::memcpy(memory_ + kHalf + kPageBytes, content.data() + kHalf, kHalf);
  }
  static Manifest ManifestOf(const std::string& name, std::uint64_t bytes) {
    Manifest manifest;
    manifest.files.push_back({.name = name, .mode = 0600, .bytes = bytes, .chunks = {}});
    return manifest;
  }

  static constexpr std::size_t kHalf = 3 << 20;
  static constexpr std::size_t kBytes = 2 * kHalf + kPageBytes;
  std::byte* memory_ = nullptr;
  MemoryMap map_;
  std::string name_;
};

TEST_F(HostMemoryTest, MemoryIsReadAsAFileAndWrittenBackAsOne) {
  const Bytes content = Random(2 * kHalf, 1);
  Fill(content);
  auto files = MemoryAsFiles(map_, {getpid()});
  ASSERT_THAT(files, IsOk());
  ASSERT_EQ(files->size(), 1u);
  EXPECT_EQ(files->front().name, name_);
  ASSERT_THAT(WriteFiles(*files, source(), Parallel()), IsOk());
  EXPECT_EQ(ReadBytes(source() / name_), content);

  std::memset(memory_, 0, kBytes);
  const Manifest manifest = ManifestOf(name_, 2 * kHalf);
  const auto fill = MemoryFill::Make(map_, manifest, {getpid()});
  ASSERT_THAT(fill, IsOk());
  ASSERT_THAT(fill->Place(manifest.files[0], 0, std::span(content).first(kHalf + 100)), IsOk());
  ASSERT_THAT(fill->Place(manifest.files[0], kHalf + 100, std::span(content).subspan(kHalf + 100)), IsOk());
  EXPECT_EQ(Content(), content);
}

// Else a heap that grew by a page would make every chunk behind it a new one.
TEST_F(HostMemoryTest, PagesThatComeChangeOnlyTheChunksAroundThem) {
  constexpr std::size_t kBig = 40 << 20;
  auto* memory =
      static_cast<std::byte*>(mmap(nullptr, kBig, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  const Bytes content = Random(kBig, 7);
  std::memcpy(memory, content.data(), kBig);
  const std::uint64_t begin = reinterpret_cast<std::uintptr_t>(memory);
  const pid_t inner = NamespacePids(getpid())->back();
  const auto digests_of = [&](std::vector<MemoryRange> ranges) {
    MemoryMap map;
    map.processes.emplace_back(inner, std::move(ranges));
    SourceOptions options;
    auto files = MemoryAsFiles(map, {getpid()});
    EXPECT_THAT(files, IsOk());
    options.unwritten = *std::move(files);
    const auto image = BuildManifest(source(), options);
    EXPECT_THAT(image, IsOk());
    std::set<Digest> digests;
    for (const ManifestChunk& chunk : image->manifest().chunks) digests.insert(chunk.digest);
    return digests;
  };
  const std::uint64_t hole = begin + 20 * (std::uint64_t{1} << 20);
  const std::set<Digest> before = digests_of(
      {{begin + 8 * kPageBytes, hole - begin - 8 * kPageBytes}, {hole + kPageBytes, begin + kBig - hole - kPageBytes}});
  const std::set<Digest> after = digests_of({{begin, kBig}});
  EXPECT_GE(after.size(), kBig / kMaxChunkBytes);
  std::vector<Digest> changed;
  std::ranges::set_difference(after, before, std::back_inserter(changed));
  EXPECT_LE(changed.size(), 3u) << "those at the begin and that with the hole";
  munmap(memory, kBig);
}

TEST_F(HostMemoryTest, WhatWasCopiedWhileItRanCannotBeReadAgain) {
  MemoryMap map;
  const MemoryExtent extent{kPageBytes, reinterpret_cast<std::uintptr_t>(memory_), kPageBytes};
  map.processes.emplace_back(NamespacePids(getpid())->back(), 0, 2 * kPageBytes, std::vector<MemoryExtent>{extent});
  EXPECT_THAT(MemoryAsFiles(map, {getpid()}), FailsWith(ErrorCode::kFailedPrecondition, "copied while it ran"));
}

TEST_F(HostMemoryTest, AMapThatDoesNotFitIsDamaged) {
  EXPECT_THAT(MemoryFill::Make(map_, ManifestOf(name_, 2 * kHalf + kPageBytes), {getpid()}),
              FailsWith(ErrorCode::kDamaged, "does not fit"));
  EXPECT_THAT(MemoryFill::Make(map_, ManifestOf("memory-999999", 2 * kHalf), {getpid()}),
              FailsWith(ErrorCode::kDamaged, "does not fit"));
  EXPECT_THAT(MemoryFill::Make(map_, ManifestOf("core-1.img", 10), {getpid()}),
              FailsWith(ErrorCode::kDamaged, "lacks memory"));
  EXPECT_THAT(MemoryFill::Make(map_, ManifestOf(name_, 2 * kHalf), {}),
              FailsWith(ErrorCode::kDamaged, "which it does not have"));
  EXPECT_THAT(MemoryFill::Make(MemoryMap(), ManifestOf(name_, 2 * kHalf), {getpid()}),
              FailsWith(ErrorCode::kDamaged, "does not fit"));
}

TEST_F(HostMemoryTest, AProcessThatHasEndedIsSaidToHave) {
  EXPECT_THAT(MemoryAsFiles(map_, {}), FailsWith(ErrorCode::kNotFound, "has ended"));
}

TEST_F(HostMemoryTest, AnImageWithoutAMapHasNoneAndADamagedOneIsFound) {
  EXPECT_TRUE(ReadMemoryMap(source())->processes.empty());
  WriteBytes(source() / kMemoryMapFile, Random(100, 1));
  EXPECT_THAT(ReadMemoryMap(source()), FailsWith(ErrorCode::kDamaged, "memory map"));
}

}  // namespace
}  // namespace gpumig
