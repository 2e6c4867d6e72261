#include "transport/chunk_protocol.h"

#include <random>

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

TEST(ChunkProtocolTest, DigestListsAndBitmapsSurviveTheWire) {
  std::mt19937 random(3);
  for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{8}, std::size_t{9},
                                  std::size_t{100}, kMaxDigestsPerRequest}) {
    std::vector<ChunkDigest> digests(count);
    std::vector<bool> bits(count);
    for (std::size_t i = 0; i < count; ++i) {
      for (std::byte& byte : digests[i]) byte = static_cast<std::byte>(random());
      bits[i] = random() % 2 == 0;
    }
    const auto back = DecodeDigests(EncodeDigests(digests));
    ASSERT_THAT(back, IsOk());
    EXPECT_EQ(*back, digests);
    const auto bits_back = DecodeBitmap(EncodeBitmap(bits), count);
    ASSERT_THAT(bits_back, IsOk());
    EXPECT_EQ(*bits_back, bits);
  }
}

TEST(ChunkProtocolTest, RefusesListsThatAreNotWholeOrTooLong) {
  const std::vector<std::byte> bytes((kMaxDigestsPerRequest + 1) * kDigestBytes);
  for (const std::size_t size : {std::size_t{1}, std::size_t{31}, std::size_t{33}, bytes.size()}) {
    EXPECT_THAT(DecodeDigests(std::span(bytes).first(size)), FailsWith(ErrorCode::kInvalidArgument, "list of digests"));
  }
}

TEST(ChunkProtocolTest, RefusesBitmapsOfAnotherSizeOrWithBitsTooMany) {
  EXPECT_THAT(DecodeBitmap("", 1), FailsWith(ErrorCode::kDamaged, "no bitmap of 1 bits"));
  EXPECT_THAT(DecodeBitmap("ab", 8), FailsWith(ErrorCode::kDamaged, ""));
  EXPECT_THAT(DecodeBitmap("\x08", 3), FailsWith(ErrorCode::kDamaged, ""));
  EXPECT_THAT(DecodeBitmap("\x07", 3), IsOk());
}

TEST(ChunkProtocolTest, RefusesNamesThatAreNone) {
  EXPECT_THAT(DigestOfHex(std::string(64, 'a')), IsOk());
  EXPECT_FALSE(DigestOfHex(std::string(63, 'a')));
  EXPECT_FALSE(DigestOfHex(std::string(64, 'A')));
  EXPECT_FALSE(DigestOfHex(std::string(64, '/')));
  EXPECT_THAT(CheckMigrationId("0f-1"), IsOk());
  for (const std::string id : {"", "..", "A", "a/b", "a.b"}) EXPECT_FALSE(CheckMigrationId(id)) << id;
}

}  // namespace
}  // namespace gpumig
