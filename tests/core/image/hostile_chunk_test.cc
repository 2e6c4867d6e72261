// Chunks that were damaged, or made to hurt whoever decodes them.
#include <sys/resource.h>
#include <zstd.h>

#include "core/base/bytes.h"
#include "tests/core/image/image_fixture.h"

namespace gpumig {
namespace {

// A chunk of codec zstd with this payload and any claim about sizes.
Bytes ZstdChunk(std::span<const std::byte> payload, std::uint32_t plain_bytes) {
  ByteWriter writer;
  writer.Bytes(std::as_bytes(std::span(std::string_view("GPUMIGCH"))));
  writer.U16(1);
  writer.U8(1);
  writer.U8(0);
  writer.U32(plain_bytes);
  writer.U32(static_cast<std::uint32_t>(payload.size()));
  writer.U32(0);
  writer.Bytes(payload);
  return writer.Take();
}

Bytes Compress(std::span<const std::byte> plain, ZSTD_CCtx* context) {
  Bytes frame(ZSTD_compressBound(plain.size()));
  const std::size_t size = ZSTD_compress2(context, frame.data(), frame.size(), plain.data(), plain.size());
  EXPECT_EQ(ZSTD_isError(size), 0u) << ZSTD_getErrorName(size);
  frame.resize(size);
  return frame;
}

class HostileChunkTest : public testing::Test {
 protected:
  ~HostileChunkTest() override { ZSTD_freeCCtx(context_); }

  Result<std::vector<std::byte>> Decode(std::span<const std::byte> encoded) const {
    return DecodeChunk(encoded, digest_, plain_.size());
  }

  ZSTD_CCtx* context_ = ZSTD_createCCtx();
  const Bytes plain_ = Repetitive(10000, 1);
  const Digest digest_ = Digest::Of(plain_);
};

TEST_F(HostileChunkTest, RefusesEveryTruncation) {
  for (const CompressionChoice compression : {CompressionChoice::None(), CompressionChoice::Zstd(1)}) {
    const Bytes encoded = EncodeChunk(plain_, compression);
    for (std::size_t size = 0; size < encoded.size(); ++size) {
      ASSERT_THAT(Decode(std::span(encoded).first(size)), FailsWith(ErrorCode::kDamaged, "")) << size;
    }
  }
}

// zstd frames have a few bits that no decoder looks at (RFC 8878: the unused bit of the frame header, the reserved ones
// of a block's compression modes). A flip there changes nothing that anybody uses; any other is found.
TEST_F(HostileChunkTest, AFlippedBitIsRefusedOrChangesNothing) {
  const Bytes plain = Repetitive(600, 1);
  for (const CompressionChoice compression : {CompressionChoice::None(), CompressionChoice::Zstd(1)}) {
    Bytes encoded = EncodeChunk(plain, compression);
    int without_effect = 0;
    for (std::size_t bit = 0; bit < 8 * encoded.size(); ++bit) {
      const std::byte mask = std::byte{1} << (bit % 8);
      encoded[bit / 8] ^= mask;
      const auto decoded = DecodeChunk(encoded, Digest::Of(plain), plain.size());
      encoded[bit / 8] ^= mask;
      if (decoded) {
        ++without_effect;
        EXPECT_EQ(*decoded, plain) << "bit " << bit;
        continue;
      }
      const ErrorCode code = decoded.error().code();
      EXPECT_TRUE(code == ErrorCode::kDamaged || code == ErrorCode::kUnsupported) << "bit " << bit;
    }
    EXPECT_LE(without_effect, compression.zstd_level ? 3 : 0);
  }
}

TEST_F(HostileChunkTest, RefusesBytesAfterTheEnd) {
  for (const CompressionChoice compression : {CompressionChoice::None(), CompressionChoice::Zstd(1)}) {
    const Bytes encoded = Concat({EncodeChunk(plain_, compression), Random(1, 1)});
    EXPECT_THAT(Decode(encoded), FailsWith(ErrorCode::kDamaged, "after its header"));
  }
}

TEST_F(HostileChunkTest, RefusesAnotherChunk) {
  const Bytes other = EncodeChunk(Repetitive(10000, 2), CompressionChoice::Zstd(1));
  EXPECT_THAT(Decode(other), FailsWith(ErrorCode::kDamaged, "has digest"));
  const Bytes shorter = EncodeChunk(Repetitive(9999, 1), CompressionChoice::Zstd(1));
  EXPECT_THAT(Decode(shorter), FailsWith(ErrorCode::kDamaged, "holds 9999 bytes, not 10000"));
}

TEST_F(HostileChunkTest, NamesTheVersionOfANewerChunk) {
  Bytes encoded = EncodeChunk(plain_, CompressionChoice::None());
  encoded[8] = std::byte{7};
  EXPECT_THAT(Decode(encoded), FailsWith(ErrorCode::kUnsupported, "version 7, this program reads version 1"));
  encoded[8] = std::byte{1};
  encoded[10] = std::byte{9};
  EXPECT_THAT(Decode(encoded), FailsWith(ErrorCode::kUnsupported, "codec 9"));
}

TEST_F(HostileChunkTest, RefusesAFrameThatHoldsMoreThanItMay) {
  // The frame is honest, the chunk header lies.
  const Bytes bomb = Compress(Zeros(std::size_t{64} << 20), context_);
  ASSERT_LT(bomb.size(), 10000u);
  EXPECT_THAT(Decode(ZstdChunk(bomb, 10000)),
              FailsWith(ErrorCode::kDamaged, "claims 67108864 bytes of content, not 10000"));
}

TEST_F(HostileChunkTest, RefusesAFrameThatLiesAboutItsContentSize) {
  // A frame header with 4 bytes of content size, which we rewrite: magic 4, descriptor 1, window 0 or 1, size.
  ZSTD_CCtx_setParameter(context_, ZSTD_c_compressionLevel, 1);
  Bytes bomb = Compress(Zeros(kMaxChunkBytes), context_);
  ASSERT_EQ(std::to_integer<unsigned>(bomb[4]) >> 6, 2u);  // a size of 4 bytes
  const std::size_t size_offset = (std::to_integer<unsigned>(bomb[4]) & 0x20u) != 0 ? 5 : 6;
  const std::uint32_t claimed = 10000;
  std::memcpy(bomb.data() + size_offset, &claimed, sizeof(claimed));
  ASSERT_EQ(ZSTD_getFrameContentSize(bomb.data(), bomb.size()), 10000u);
  EXPECT_THAT(Decode(ZstdChunk(bomb, 10000)), FailsWith(ErrorCode::kDamaged, "zstd frame"));
}

TEST_F(HostileChunkTest, RefusesAFrameWithoutContentSize) {
  ZSTD_CCtx_setParameter(context_, ZSTD_c_contentSizeFlag, 0);
  EXPECT_THAT(Decode(ZstdChunk(Compress(plain_, context_), 10000)),
              FailsWith(ErrorCode::kDamaged, "does not state its content size"));
}

TEST_F(HostileChunkTest, RefusesAFrameThatAsksForADictionary) {
  // A dictionary of ours: any bytes serve, the id is put into the frame header by hand (descriptor bits 0-1 = 1: one
  // byte).
  Bytes frame = Compress(plain_, context_);
  const bool single_segment = (std::to_integer<unsigned>(frame[4]) & 0x20u) != 0;
  frame[4] |= std::byte{1};
  frame.insert(frame.begin() + (single_segment ? 5 : 6), std::byte{42});
  ASSERT_EQ(ZSTD_getDictID_fromFrame(frame.data(), frame.size()), 42u);
  EXPECT_THAT(Decode(ZstdChunk(frame, 10000)), FailsWith(ErrorCode::kDamaged, "asks for a dictionary"));
}

TEST_F(HostileChunkTest, RefusesSkippableFramesWhereverTheyStand) {
  const Bytes frame = Compress(plain_, context_);
  ByteWriter skippable;
  skippable.U32(0x184D2A50);
  skippable.U32(8);
  skippable.U64(0);
  EXPECT_THAT(Decode(ZstdChunk(Concat({skippable.bytes(), frame}), 10000)),
              FailsWith(ErrorCode::kDamaged, "not a zstd frame"));
  EXPECT_THAT(Decode(ZstdChunk(Concat({frame, skippable.bytes()}), 10000)),
              FailsWith(ErrorCode::kDamaged, "16 bytes follow the zstd frame"));
  EXPECT_THAT(Decode(ZstdChunk(Concat({frame, frame}), 10000)),
              FailsWith(ErrorCode::kDamaged, "follow the zstd frame"));
}

TEST_F(HostileChunkTest, BombsCostNoMemory) {
  rusage before{};
  rusage after{};
  const Bytes bomb = ZstdChunk(Compress(Zeros(std::size_t{256} << 20), context_), 10000);
  getrusage(RUSAGE_SELF, &before);
  for (int i = 0; i < 100; ++i) EXPECT_THAT(Decode(bomb), FailsWith(ErrorCode::kDamaged, "claims"));
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LE(after.ru_maxrss - before.ru_maxrss, 16 << 10);  // KiB
}

}  // namespace
}  // namespace gpumig
