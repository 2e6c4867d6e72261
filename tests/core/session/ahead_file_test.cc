#include "core/session/ahead_file.h"

#include <gmock/gmock.h>

#include "tests/core/image/image_fixture.h"

namespace gpumig {
namespace {

AheadChunk ChunkOf(const Bytes& plain) {
  AheadChunk chunk;
  chunk.digest = Digest::Of(plain);
  chunk.room_and_plain.resize(kChunkHeaderBytes + plain.size());
  std::ranges::copy(plain, chunk.room_and_plain.begin() + kChunkHeaderBytes);
  return chunk;
}

class AheadFileTest : public ImageFixture {
 protected:
  Result<void> Ship(AheadFile& file, const std::vector<Bytes>& plains) {
    std::vector<AheadChunk> chunks;
    for (const Bytes& plain : plains) chunks.push_back(ChunkOf(plain));
    return file.ShipAhead(chunks, {});
  }

  static constexpr std::uint64_t kHostBytes = std::uint64_t{16} << 20;

  // Of the second chunk, zeros, and the first; of the second chunk only what map_ places counts.
  std::vector<UnwrittenFile> Files() const {
    std::vector<UnwrittenFile> ahead(1);
    ahead[0].name = MemoryFileName(map_.processes[0]);
    ahead[0].pieces = {{8192, HashedPlace{Digest::Of(second_), false}},
                       {4096, HashedPlace{{}, true}},
                       {4096, HashedPlace{Digest::Of(first_), false}}};
    ahead[0].bytes = 8192 + 4096 + 4096;
    return ahead;
  }

  const Bytes first_ = Random(4096, 1);
  const Bytes second_ = Random(8192, 2);
  MemoryMap map_{{ProcessPages(1, 0, 8192 + 4096 + 4096, {{4096, 0x10000, 4096}, {8192, 0x20000, 8192}})}};
};

TEST_F(AheadFileTest, FilesAreReadFromWhatItKeptAndNothingElse) {
  auto file = AheadFile::Make(root(), 0);
  ASSERT_THAT(file, IsOk());
  EXPECT_FALSE(std::filesystem::exists(root() / "ahead"));  // gone with us
  ASSERT_THAT(file->BeginAhead(kHostBytes, {}), IsOk());
  ASSERT_THAT(Ship(*file, {first_, second_, first_}), IsOk());
  EXPECT_EQ(file->bytes(), first_.size() + second_.size());
  EXPECT_EQ(file->dropped_bytes(), 0u);
  const std::vector<Digest> asked = {Digest::Of(second_), Digest::Of(Random(10, 3)), Digest::Of(first_)};
  EXPECT_THAT(*file->LacksAhead(asked, {}), testing::ElementsAre(false, true, false));

  std::vector<UnwrittenFile> ahead = Files();
  file->Serve(ahead, map_);
  Bytes got(4096);
  ASSERT_THAT(ahead[0].read(8192 + 4096, got), IsOk());
  EXPECT_EQ(got, first_);
  ASSERT_THAT(ahead[0].read(8192, got), IsOk());
  EXPECT_EQ(got, Bytes(4096));
  got.resize(8192);
  ASSERT_THAT(ahead[0].read(0, got), IsOk());
  Bytes placed = second_;
  std::fill(placed.begin(), placed.begin() + 4096, std::byte{0});  // written again since
  EXPECT_EQ(got, placed);
}

TEST_F(AheadFileTest, WhatTheDiskGivesBackWrongIsDamaged) {
  auto file = AheadFile::Make(root(), 0);
  ASSERT_THAT(file, IsOk());
  ASSERT_THAT(file->BeginAhead(kHostBytes, {}), IsOk());
  ASSERT_THAT(Ship(*file, {first_, second_}), IsOk());
  std::vector<UnwrittenFile> ahead = Files();
  file->Serve(ahead, map_);
  bool written = false;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    if (std::filesystem::read_symlink(entry, ignored) != (root() / "ahead (deleted)").string()) continue;
    const UniqueFd fd = *OpenFile(entry, O_RDWR);
    written = WriteAllAt(fd.get(), Random(1, 9), first_.size() + 5000).has_value();
  }
  ASSERT_TRUE(written);
  Bytes got(8192);
  EXPECT_THAT(ahead[0].read(0, got), FailsWith(ErrorCode::kDamaged, "not in " + root().string()));
  got.resize(4096);
  EXPECT_THAT(ahead[0].read(8192 + 4096, got), IsOk());
}

TEST_F(AheadFileTest, KeepsNothingWhereTheStandstillWillNeedAllTheRoom) {
  for (const auto& [host_bytes, beside_bytes] :
       {std::pair(std::uint64_t{1} << 62, std::uint64_t{0}), std::pair(kHostBytes, std::uint64_t{1} << 62)}) {
    const auto directory = root() / std::to_string(beside_bytes);
    std::filesystem::create_directory(directory);
    auto file = AheadFile::Make(directory, beside_bytes);
    ASSERT_THAT(file, IsOk());
    ASSERT_THAT(file->BeginAhead(host_bytes, {}), IsOk());
    ASSERT_THAT(Ship(*file, {first_}), IsOk());
    EXPECT_EQ(file->bytes(), 0u);
    EXPECT_EQ(file->dropped_bytes(), first_.size());
    const std::vector<Digest> asked = {Digest::Of(first_)};
    EXPECT_THAT(*file->LacksAhead(asked, {}), testing::ElementsAre(true));
  }
}

TEST_F(AheadFileTest, KeepsAQuarterMoreThanTheWorkloadHas) {
  auto file = AheadFile::Make(root(), 0);
  ASSERT_THAT(file, IsOk());
  ASSERT_THAT(file->BeginAhead(8192, {}), IsOk());
  ASSERT_THAT(Ship(*file, {first_, second_}), IsOk());
  EXPECT_EQ(file->bytes(), first_.size());
  EXPECT_EQ(file->dropped_bytes(), second_.size());
}

TEST_F(AheadFileTest, ADirectoryThatIsGoneIsAnErrorThatNamesIt) {
  EXPECT_THAT(AheadFile::Make(root() / "gone", 0), FailsWith(ErrorCode::kNotFound, "gone/ahead"));
}

}  // namespace
}  // namespace gpumig
