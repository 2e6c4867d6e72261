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

// No repetition, but of 16 values each byte has one.
Bytes FewValues(std::size_t size) {
  Bytes bytes = Random(size, 7);
  for (std::byte& byte : bytes) byte &= std::byte{15};
  return bytes;
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

// One chunk of each codec, by way of each method.
std::vector<std::pair<Bytes, Bytes>> PlainAndEncoded(std::size_t size) {
  std::vector<std::pair<Bytes, Bytes>> all;
  const Bytes text = Repetitive(size, 1);
  const Bytes floats = Fp32(size, 2);
  all.emplace_back(text, EncodeChunk(text, CompressionChoice::None()));
  for (const CodecMethod method : {CodecMethod::kZstdFast, CodecMethod::kZstd1, CodecMethod::kZstd3})
    all.emplace_back(text, EncodeChunkBy(method, text));
  const Bytes few = FewValues(size);
  all.emplace_back(few, EncodeChunkBy(CodecMethod::kLiterals, few));
  all.emplace_back(Zeros(size), EncodeChunk(Zeros(size), CompressionChoice::Auto()));
  // Coded and raw planes, then coded, zero and raw ones.
  all.emplace_back(Bf16(size, 2), EncodeChunkBy(CodecMethod::kPlanes2, Bf16(size, 2), 0x2));
  all.emplace_back(floats, EncodeChunkBy(CodecMethod::kPlanes4, floats, 0x8));
  Bytes short_floats = floats;
  for (std::size_t i = 0; i < size; i += 4) short_floats[i] = std::byte{0};
  all.emplace_back(short_floats, EncodeChunkBy(CodecMethod::kPlanes4, short_floats, 0x9));
  for (const auto& [plain, encoded] : all) EXPECT_FALSE(encoded.empty());
  return all;
}

// As it is cut, and with a header that says so, which leaves it to the decoder to notice.
TEST_F(HostileChunkTest, RefusesEveryTruncation) {
  for (const auto& [plain, encoded] : PlainAndEncoded(5001)) {
    const Digest digest = Digest::Of(plain);
    for (std::size_t size = 0; size < encoded.size(); ++size) {
      Bytes cut(encoded.begin(), encoded.begin() + static_cast<std::ptrdiff_t>(size));
      ASSERT_THAT(DecodeChunk(cut, digest, plain.size()), FailsWith(ErrorCode::kDamaged, "")) << size;
      if (size < kChunkHeaderBytes) continue;
      const auto payload_bytes = static_cast<std::uint32_t>(size - kChunkHeaderBytes);
      std::memcpy(cut.data() + 16, &payload_bytes, sizeof(payload_bytes));
      ASSERT_THAT(DecodeChunk(cut, digest, plain.size()), FailsWith(ErrorCode::kDamaged, "")) << size;
    }
  }
}

// zstd frames have a few bits that no decoder looks at (RFC 8878: the unused bit of the frame header, the reserved ones
// of a block's compression modes, what fills up the last byte of a table of codes). A flip there changes nothing that
// anybody uses; any other is found.
TEST_F(HostileChunkTest, AFlippedBitIsRefusedOrChangesNothing) {
  for (auto& [plain, encoded] : PlainAndEncoded(1201)) {
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
    const ChunkCodec codec = ParseChunkHeader(encoded)->codec;
    EXPECT_LE(without_effect, codec == ChunkCodec::kRaw || codec == ChunkCodec::kZero ? 0 : 10);
  }
}

TEST_F(HostileChunkTest, RefusesBytesAfterTheEnd) {
  for (const auto& [plain, encoded] : PlainAndEncoded(10001)) {
    EXPECT_THAT(DecodeChunk(Concat({encoded, Random(1, 1)}), Digest::Of(plain), plain.size()),
                FailsWith(ErrorCode::kDamaged, "after its header"));
  }
}

// Sizes of planes that do not go with each other or with the chunk, each in a chunk whose header holds.
TEST_F(HostileChunkTest, RefusesPlanesThatClaimOtherSizes) {
  const Bytes plain = Bf16(10001, 1);  // two planes of 5000 bytes, and one byte
  const auto chunk = [](std::uint8_t codec, std::initializer_list<std::uint32_t> sizes, std::size_t bytes) {
    ByteWriter payload;
    for (const std::uint32_t size : sizes) payload.U32(size);
    payload.Bytes(Random(bytes, 1));
    Bytes encoded = ZstdChunk(payload.bytes(), 10001);
    encoded[10] = std::byte{codec};
    return encoded;
  };
  const auto decode = [&](const Bytes& encoded) { return DecodeChunk(encoded, Digest::Of(plain), plain.size()); };
  EXPECT_THAT(decode(chunk(3, {5000, 0}, 5001)), FailsWith(ErrorCode::kDamaged, "has digest"));  // sound, but another
  EXPECT_THAT(decode(chunk(3, {5001, 0}, 5002)),
              FailsWith(ErrorCode::kDamaged, "plane 0 claims 5001 bytes, and has 5000"));
  EXPECT_THAT(decode(chunk(3, {0, 0xffffffffu}, 1)), FailsWith(ErrorCode::kDamaged, "plane 1 claims 4294967295 bytes"));
  EXPECT_THAT(decode(chunk(3, {5000, 0}, 5000)), FailsWith(ErrorCode::kDamaged, "5000 bytes are there, not 5001"));
  EXPECT_THAT(decode(chunk(3, {5000, 0}, 5002)), FailsWith(ErrorCode::kDamaged, "5002 bytes are there, not 5001"));
  EXPECT_THAT(decode(chunk(3, {5000, 100}, 5101)),
              FailsWith(ErrorCode::kDamaged, "plane 1: payload is not a zstd frame"));
  EXPECT_THAT(decode(chunk(4, {2500, 2500, 2501, 0}, 7502)),
              FailsWith(ErrorCode::kDamaged, "plane 2 claims 2501 bytes"));
  EXPECT_THAT(decode(chunk(4, {2500, 2500, 2500}, 0)), FailsWith(ErrorCode::kDamaged, "byte planes"));
  EXPECT_THAT(decode(chunk(2, {}, 1)), FailsWith(ErrorCode::kDamaged, "stored size 1 does not go with"));
  // A frame of a bomb, as a plane.
  ByteWriter bomb;
  const Bytes frame = Compress(Zeros(std::size_t{64} << 20), context_);
  ASSERT_LT(frame.size(), 4000u + 4096u);
  bomb.U32(static_cast<std::uint32_t>(frame.size()));
  bomb.U32(0);
  bomb.Bytes(frame);
  bomb.Bytes(Random(1, 1));
  Bytes encoded = ZstdChunk(bomb.bytes(), 20001);
  encoded[10] = std::byte{3};
  EXPECT_THAT(DecodeChunk(encoded, digest_, 20001),
              FailsWith(ErrorCode::kDamaged, "claims 67108864 bytes of content, not 10000"));
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
