#include "core/image/digest.h"

#include <map>
#include <unordered_set>

#include "tests/core/image/image_fixture.h"

namespace gpumig {
namespace {

Digest OfText(std::string_view text) { return Digest::Of(std::as_bytes(std::span(text))); }

// Numbers of the reference implementation's test vectors (test_vectors.json of the BLAKE3 team): the input of n bytes
// is 0, 1, ..., 250, 0, 1 and so on. Lengths on both sides of where its tree gets another chunk, and one for the widest
// code.
TEST(DigestTest, IsBlake3) {
  const std::map<std::size_t, std::string> vectors = {
      {0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"},
      {1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"},
      {1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7"},
      {1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"},
      {31744, "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47"},
      {102400, "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085"},
  };
  for (const auto& [size, digest] : vectors) {
    Bytes bytes(size);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i % 251);
    EXPECT_EQ(Digest::Of(bytes).ToHex(), digest) << size;
  }
}

TEST(DigestTest, PartsCountAsOnePiece) {
  const Bytes bytes = Random(5000, 1);
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
