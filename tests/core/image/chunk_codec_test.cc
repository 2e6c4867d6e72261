#include "core/image/chunk_codec.h"

#include "tests/core/image/image_fixture.h"

namespace gpumig {
namespace {

TEST(ChunkCodecTest, GivesBackWhatWasEncoded) {
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{2}, std::size_t{4096}, kMaxChunkBytes - 1, kMaxChunkBytes}) {
    for (const Bytes& plain : {Random(size, 1), Repetitive(size, 2), Zeros(size)}) {
      for (const CompressionChoice compression : {CompressionChoice::None(), CompressionChoice::Zstd(1)}) {
        const Bytes encoded = EncodeChunk(plain, compression);
        EXPECT_LE(encoded.size(), kChunkHeaderBytes + size);
        const auto decoded = DecodeChunk(encoded, Digest::Of(plain), size);
        ASSERT_THAT(decoded, IsOk());
        EXPECT_EQ(*decoded, plain);
      }
    }
  }
}

TEST(ChunkCodecTest, OneEncoderAndDecoderServeChunksOfManySizes) {
  ChunkEncoder encoder(CompressionChoice::Zstd(1));
  ChunkDecoder decoder;
  for (const std::size_t size : {std::size_t{100000}, std::size_t{5}, kMaxChunkBytes, std::size_t{77}}) {
    const Bytes plain = Repetitive(size, size);
    Bytes decoded(size);
    ASSERT_THAT(decoder.Decode(encoder.Encode(plain), Digest::Of(plain), decoded), IsOk());
    EXPECT_EQ(decoded, plain);
  }
}

TEST(ChunkCodecTest, StoresRawWhatDoesNotGainThreePercent) {
  EXPECT_EQ(ParseChunkHeader(EncodeChunk(Random(100000, 1), CompressionChoice::Zstd(1)))->codec, ChunkCodec::kRaw);
  EXPECT_EQ(ParseChunkHeader(EncodeChunk(Repetitive(100000, 1), CompressionChoice::Zstd(1)))->codec, ChunkCodec::kZstd);
  EXPECT_EQ(ParseChunkHeader(EncodeChunk(Repetitive(100000, 1), CompressionChoice::None()))->codec, ChunkCodec::kRaw);
  // 2 % of repetition is not worth it, 5 % is.
  const Bytes little = Concat({Random(98000, 1), Zeros(2000)});
  const Bytes enough = Concat({Random(95000, 1), Zeros(5000)});
  EXPECT_EQ(ParseChunkHeader(EncodeChunk(little, CompressionChoice::Zstd(1)))->codec, ChunkCodec::kRaw);
  EXPECT_EQ(ParseChunkHeader(EncodeChunk(enough, CompressionChoice::Zstd(1)))->codec, ChunkCodec::kZstd);
}

TEST(ChunkCodecTest, TheHeaderTellsTheSizes) {
  const Bytes encoded = EncodeChunk(Repetitive(100000, 1), CompressionChoice::Zstd(1));
  const auto header = ParseChunkHeader(std::span(encoded).first(kChunkHeaderBytes));
  ASSERT_THAT(header, IsOk());
  EXPECT_EQ(header->plain_bytes, 100000u);
  EXPECT_EQ(header->payload_bytes, encoded.size() - kChunkHeaderBytes);
}

TEST(ChunkCodecTest, FindsZerosOnlyWhereAllAreZero) {
  EXPECT_TRUE(IsAllZero({}));
  for (const std::size_t size : {1, 7, 4096, 4097}) {
    Bytes bytes = Zeros(size);
    EXPECT_TRUE(IsAllZero(bytes));
    for (const std::size_t at : {std::size_t{0}, size / 2, size - 1}) {
      bytes[at] = std::byte{1};
      EXPECT_FALSE(IsAllZero(bytes)) << at << " of " << size;
      bytes[at] = std::byte{0};
    }
  }
}

TEST(CompressionChoiceTest, ReadsWhatPeopleWrite) {
  EXPECT_EQ(CompressionChoice::Parse("none")->zstd_level, std::nullopt);
  EXPECT_EQ(CompressionChoice::Parse("zstd")->zstd_level, 1);
  EXPECT_EQ(CompressionChoice::Parse("zstd:19")->zstd_level, 19);
  EXPECT_EQ(CompressionChoice::Parse("zstd:-7")->zstd_level, -7);
  for (const std::string_view text : {"", "gzip", "zstd:", "zstd:20", "zstd:-8", "zstd:1x", "zstd 1"}) {
    EXPECT_THAT(CompressionChoice::Parse(text), FailsWith(ErrorCode::kInvalidArgument, "zstd:LEVEL")) << text;
  }
}

}  // namespace
}  // namespace gpumig
