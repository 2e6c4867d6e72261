#include "core/image/chunk_codec.h"

#include <array>

#include "core/image/byte_planes.h"
#include "tests/core/image/image_fixture.h"

namespace gpumig {
namespace {

TEST(ChunkCodecTest, GivesBackWhatWasEncoded) {
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{2}, std::size_t{4096}, kMaxChunkBytes - 1, kMaxChunkBytes}) {
    for (const Bytes& plain : {Random(size, 1), Repetitive(size, 2), Zeros(size)}) {
      for (const CompressionChoice compression :
           {CompressionChoice::None(), CompressionChoice::Zstd(1), CompressionChoice::Auto()}) {
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

constexpr std::array kEncodingMethods{CodecMethod::kZstdFast, CodecMethod::kZstd1,   CodecMethod::kZstd3,
                                      CodecMethod::kLiterals, CodecMethod::kPlanes2, CodecMethod::kPlanes4};

TEST(ChunkCodecTest, EveryMethodGivesBackEveryKindOfBytes) {
  // Sizes on both sides of an element's, a block's of zstd, and of kinds where one or more planes are raw, coded, zero.
  for (const std::size_t size : {1, 2, 3, 4, 5, 7, 4095, 131073, 300001}) {
    for (const Bytes& plain : {Bf16(size, 1), Fp32(size, 2), Repetitive(size, 3), Random(size, 4), Zeros(size)}) {
      for (const CodecMethod method : kEncodingMethods) {
        for (const unsigned planes : {0x0u, 0x1u, 0x6u, 0x8u, 0xfu}) {
          const Bytes encoded = EncodeChunkBy(method, plain, static_cast<std::uint8_t>(planes));
          if (encoded.empty()) continue;  // not made smaller
          ASSERT_LT(encoded.size(), kChunkHeaderBytes + size);
          const auto decoded = DecodeChunk(encoded, Digest::Of(plain), size);
          ASSERT_THAT(decoded, IsOk()) << size << " bytes, method " << static_cast<int>(method);
          ASSERT_EQ(*decoded, plain);
        }
      }
    }
  }
}

// The exponents of values of one distribution carry 2.6 bits of their 8. Bounds below what theory gives, 1.50 and 1.20.
TEST(ChunkCodecTest, BytePlanesMakeFloatsSmaller) {
  const Bytes bf16 = Bf16(kMaxChunkBytes, 1);
  const Bytes fp32 = Fp32(kMaxChunkBytes, 2);
  const auto ratio = [](const Bytes& plain, CodecMethod method, unsigned planes) {
    const Bytes encoded = EncodeChunkBy(method, plain, static_cast<std::uint8_t>(planes));
    return static_cast<double>(plain.size()) / static_cast<double>(encoded.size());
  };
  EXPECT_GT(ratio(bf16, CodecMethod::kPlanes2, 0x2), 1.45);
  EXPECT_GT(ratio(fp32, CodecMethod::kPlanes4, 0x8), 1.18);
  EXPECT_GT(ratio(bf16, CodecMethod::kPlanes2, 0x2), ratio(bf16, CodecMethod::kZstd1, 0));
  EXPECT_GT(ratio(fp32, CodecMethod::kPlanes4, 0x8), ratio(fp32, CodecMethod::kZstd1, 0));
}

TEST(ChunkCodecTest, AutomaticallyEncodesZerosAsNothingAndRandomBytesAsTheyAre) {
  const auto header = [](const Bytes& plain) {
    return *ParseChunkHeader(EncodeChunk(plain, CompressionChoice::Auto()));
  };
  EXPECT_EQ(header(Zeros(kMaxChunkBytes)).codec, ChunkCodec::kZero);
  EXPECT_EQ(header(Zeros(kMaxChunkBytes)).payload_bytes, 0u);
  EXPECT_EQ(header(Random(kMaxChunkBytes, 1)).codec, ChunkCodec::kRaw);
}

// A link of 1 MB/s leaves time for anything.
TEST(ChunkCodecTest, AutomaticallySuitsTheKindOfBytesOnASlowLink) {
  const auto codec = [](const Bytes& plain) {
    CodecPolicy policy({.cores = 1, .assumed_bytes_per_second = 1e6});
    ChunkEncoder encoder(CompressionChoice::Auto(), &policy);
    const std::span<const std::byte> encoded = encoder.Encode(plain);
    EXPECT_TRUE(DecodeChunk(encoded, Digest::Of(plain), plain.size()).has_value());
    return ParseChunkHeader(encoded)->codec;
  };
  EXPECT_EQ(codec(Bf16(kMaxChunkBytes, 1)), ChunkCodec::kPlanes2);
  EXPECT_EQ(codec(Fp32(kMaxChunkBytes, 1)), ChunkCodec::kPlanes4);
  EXPECT_EQ(codec(Repetitive(kMaxChunkBytes, 1)), ChunkCodec::kZstd);
  EXPECT_EQ(codec(Random(kMaxChunkBytes, 1)), ChunkCodec::kRaw);
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
  EXPECT_TRUE(CompressionChoice::Parse("auto")->automatic);
  EXPECT_FALSE(CompressionChoice::Parse("none")->automatic);
  EXPECT_EQ(CompressionChoice::Parse("none")->zstd_level, std::nullopt);
  EXPECT_EQ(CompressionChoice::Parse("zstd")->zstd_level, 1);
  EXPECT_EQ(CompressionChoice::Parse("zstd:19")->zstd_level, 19);
  EXPECT_EQ(CompressionChoice::Parse("zstd:-7")->zstd_level, -7);
  for (const char* text : {"auto", "none", "zstd:-5"}) EXPECT_EQ(CompressionChoice::Parse(text)->ToString(), text);
  for (const std::string_view text :
       {"", "gzip", "Auto", "auto:1", "zstd:", "zstd:20", "zstd:-8", "zstd:1x", "zstd 1"}) {
    EXPECT_THAT(CompressionChoice::Parse(text), FailsWith(ErrorCode::kInvalidArgument, "zstd:LEVEL")) << text;
  }
}

}  // namespace
}  // namespace gpumig
