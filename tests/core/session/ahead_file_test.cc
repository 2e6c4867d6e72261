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

  const Bytes first_ = Random(5000, 1);
  const Bytes second_ = Random(8192, 2);
};

TEST_F(AheadFileTest, FilesAreReadFromWhatItKept) {
  auto file = AheadFile::Make(root());
  ASSERT_THAT(file, IsOk());
  ASSERT_THAT(file->BeginAhead(0, {}), IsOk());
  ASSERT_THAT(Ship(*file, {first_, second_, first_}), IsOk());
  EXPECT_EQ(file->bytes(), first_.size() + second_.size());
  const std::vector<Digest> asked = {Digest::Of(second_), Digest::Of(Random(10, 3)), Digest::Of(first_)};
  EXPECT_THAT(*file->LacksAhead(asked, {}), testing::ElementsAre(false, true, false));

  std::vector<UnwrittenFile> ahead(1);
  ahead[0].pieces = {{8192, HashedPlace{Digest::Of(second_), false}},
                     {4096, HashedPlace{{}, true}},
                     {5000, HashedPlace{Digest::Of(first_), false}}};
  ahead[0].bytes = 8192 + 4096 + 5000;
  file->Serve(ahead);
  Bytes got(5000);
  ASSERT_THAT(ahead[0].read(8192 + 4096, got), IsOk());
  EXPECT_EQ(got, first_);
  got.resize(4096);
  ASSERT_THAT(ahead[0].read(8192, got), IsOk());
  EXPECT_EQ(got, Bytes(4096));
  got.resize(8192);
  ASSERT_THAT(ahead[0].read(0, got), IsOk());
  EXPECT_EQ(got, second_);
}

TEST_F(AheadFileTest, KeepsNothingWhereTheStandstillWillNeedAllTheRoom) {
  auto file = AheadFile::Make(root());
  ASSERT_THAT(file, IsOk());
  ASSERT_THAT(file->BeginAhead(std::uint64_t{1} << 62, {}), IsOk());
  ASSERT_THAT(Ship(*file, {first_}), IsOk());
  EXPECT_EQ(file->bytes(), 0u);
  const std::vector<Digest> asked = {Digest::Of(first_)};
  EXPECT_THAT(*file->LacksAhead(asked, {}), testing::ElementsAre(true));
}

TEST_F(AheadFileTest, ADirectoryThatIsGoneIsAnErrorThatNamesIt) {
  EXPECT_THAT(AheadFile::Make(root() / "gone"), FailsWith(ErrorCode::kNotFound, "gone/ahead"));
}

}  // namespace
}  // namespace gpumig
