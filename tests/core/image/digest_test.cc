#include "core/image/digest.h"

#include <unordered_set>

#include "tests/core/image/image_fixture.h"

namespace gpumig {
namespace {

Digest OfText(std::string_view text) { return Digest::Of(std::as_bytes(std::span(text))); }

// FIPS 180-4 examples, from NIST's Cryptographic Standards and Guidelines.
TEST(DigestTest, IsSha256) {
  EXPECT_EQ(OfText("").ToHex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(OfText("abc").ToHex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(DigestTest, PartsCountAsOnePiece) {
  const Bytes bytes = Random(1000, 1);
  const std::array<std::span<const std::byte>, 3> parts = {std::span(bytes).first(10), std::span<const std::byte>(),
                                                           std::span(bytes).subspan(10)};
  EXPECT_EQ(Digest::OfParts(parts), Digest::Of(bytes));
}

TEST(DigestTest, HexIsReadBack) {
  const Digest digest = OfText("abc");
  EXPECT_EQ(*Digest::FromHex(digest.ToHex()), digest);
}

TEST(DigestTest, RefusesWhatIsNotADigest) {
  const std::string hex = OfText("abc").ToHex();
  EXPECT_THAT(Digest::FromHex(""), FailsWith(ErrorCode::kInvalidArgument, "64 hexadecimal digits, not 0"));
  EXPECT_THAT(Digest::FromHex(hex.substr(1)), FailsWith(ErrorCode::kInvalidArgument, "not 63"));
  EXPECT_THAT(Digest::FromHex(hex + "00"), FailsWith(ErrorCode::kInvalidArgument, "not 66"));
  EXPECT_THAT(Digest::FromHex("../" + hex.substr(3)), FailsWith(ErrorCode::kInvalidArgument, "hex digit"));
  EXPECT_THAT(Digest::FromHex("BA" + hex.substr(2)), FailsWith(ErrorCode::kInvalidArgument, "hex digit"));
}

TEST(DigestTest, OrderIsThatOfItsHex) {
  const Digest a = OfText("a");
  const Digest b = OfText("b");
  EXPECT_EQ(a < b, a.ToHex() < b.ToHex());
  EXPECT_EQ(b < a, b.ToHex() < a.ToHex());
  EXPECT_LT(Digest(), a);
  const std::unordered_set<Digest> set = {a, b, a};
  EXPECT_EQ(set.size(), 2u);
}

}  // namespace
}  // namespace gpumig
