#include "core/image/image_directory.h"

#include "tests/core/image/image_fixture.h"

namespace gpumig {
namespace {

class ImageDirectoryTest : public ImageFixture {};

TEST_F(ImageDirectoryTest, UntilSealedItIsNoImage) {
  {
    auto directory = ImageDirectory::Create(image());
    ASSERT_THAT(directory, IsOk());
    EXPECT_THAT(OpenImage(image()), FailsWith(ErrorCode::kDamaged, "not a complete image"));
    ASSERT_THAT(directory->Seal(*Manifest().Serialise()), IsOk());
  }
  EXPECT_THAT(OpenImage(image()), IsOk());
  EXPECT_FALSE(std::filesystem::exists(image() / kIncompleteName));
}

TEST_F(ImageDirectoryTest, UnsealedItGoesWithItsOwner) {
  const Bytes encoded = EncodeChunk(Random(10, 1), CompressionChoice::None());
  {
    auto directory = ImageDirectory::Create(image());
    ASSERT_THAT(directory, IsOk());
    ASSERT_THAT(directory->store().Put(Digest::Of(Random(10, 1)), encoded), IsOk());
  }
  EXPECT_FALSE(std::filesystem::exists(image()));
  // A directory that was there before stays, empty.
  ASSERT_TRUE(std::filesystem::create_directory(image()));
  {
    ASSERT_THAT(ImageDirectory::Create(image()), IsOk());
  }
  EXPECT_TRUE(std::filesystem::is_empty(image()));
}

TEST_F(ImageDirectoryTest, OneThatWasKeptGoesOnWhereItStopped) {
  const Bytes plain = Random(10, 1);
  const Digest digest = Digest::Of(plain);
  {
    auto directory = ImageDirectory::Create(image());
    ASSERT_THAT(directory, IsOk());
    ASSERT_THAT(directory->store().Put(digest, EncodeChunk(plain, CompressionChoice::None())), IsOk());
    directory->Keep();
  }
  EXPECT_THAT(OpenImage(image()), FailsWith(ErrorCode::kDamaged, "manifest.incomplete is there"));
  auto resumed = ImageDirectory::Resume(image());
  ASSERT_THAT(resumed, IsOk());
  EXPECT_TRUE(*resumed->store().Has(digest));
  Manifest manifest;
  manifest.chunks = {{.digest = digest, .plain_bytes = 10, .kind = ChunkKind::kOther, .zero = false}};
  manifest.files = {{.name = "a", .mode = 0600, .bytes = 10, .chunks = {0}}};
  ASSERT_THAT(resumed->Seal(*manifest.Serialise()), IsOk());
  EXPECT_TRUE(VerifyImage(image(), VerifyDepth::kFull, Parallel())->ok());
}

TEST_F(ImageDirectoryTest, ResumesNothingElse) {
  EXPECT_THAT(ImageDirectory::Resume(image()), FailsWith(ErrorCode::kNotFound, "image"));
  EXPECT_THAT(ImageDirectory::Resume(source()), FailsWith(ErrorCode::kInvalidArgument, "no incomplete image"));
  ASSERT_THAT(WriteImage(source(), image(), Options()), IsOk());
  EXPECT_THAT(ImageDirectory::Resume(image()), FailsWith(ErrorCode::kAlreadyExists, "is complete"));
  EXPECT_THAT(OpenImage(image()), IsOk());
}

TEST_F(ImageDirectoryTest, OfTwoWritersTheSecondIsRefusedAndTheFirstUnharmed) {
  auto first = ImageDirectory::Create(image());
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(ImageDirectory::Create(image()), FailsWith(ErrorCode::kAlreadyExists, "is not empty"));
  ASSERT_THAT(first->Seal(*Manifest().Serialise()), IsOk());
  EXPECT_THAT(OpenImage(image()), IsOk());
}

}  // namespace
}  // namespace gpumig
