#include "core/base/bytes.h"

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

TEST(BytesTest, ReadsBackWhatWasWritten) {
  ByteWriter writer;
  writer.U8(1);
  writer.U16(0x2345);
  writer.U32(0x6789abcd);
  writer.U64(0x0123456789abcdef);
  writer.Text("text");
  EXPECT_EQ(ToHex(writer.bytes()), "014523cdab8967efcdab89674523010400000074657874");
  ByteReader reader(writer.bytes());
  EXPECT_EQ(*reader.U8(), 1);
  EXPECT_EQ(*reader.U16(), 0x2345);
  EXPECT_EQ(*reader.U32(), 0x6789abcdu);
  EXPECT_EQ(*reader.U64(), 0x0123456789abcdefu);
  EXPECT_EQ(*reader.Text(4), "text");
  EXPECT_EQ(reader.remaining(), 0u);
}

TEST(BytesTest, NeverReadsPastTheEnd) {
  ByteWriter writer;
  writer.U16(7);
  ByteReader reader(writer.bytes());
  EXPECT_THAT(reader.U32(), FailsWith(ErrorCode::kDamaged, "2 bytes early"));
  EXPECT_EQ(*reader.U16(), 7);
}

TEST(BytesTest, RefusesATextLengthAboveTheLimitBeforeAllocating) {
  ByteWriter writer;
  writer.U32(0xffffffff);
  ByteReader reader(writer.bytes());
  EXPECT_THAT(reader.Text(100), FailsWith(ErrorCode::kDamaged, "limit of 100"));
}

TEST(BytesTest, HexRoundTripAndRefusals) {
  EXPECT_EQ(ToHex(*FromHex("00ff10")), "00ff10");
  EXPECT_THAT(FromHex("0"), FailsWith(ErrorCode::kInvalidArgument, "odd length"));
  EXPECT_THAT(FromHex("0G"), FailsWith(ErrorCode::kInvalidArgument, "not a hex digit"));
}

}  // namespace
}  // namespace gpumig
