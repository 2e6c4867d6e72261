#include "core/image/chunk_codec.h"

#include <zstd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "core/base/bytes.h"
#include "core/base/check.h"

namespace gpumig {
namespace {

constexpr std::string_view kMagic = "GPUMIGCH";
constexpr std::uint16_t kVersion = 1;

// zstd has to gain this much, or reading costs more than the bytes saved.
constexpr std::size_t kMinGainPercent = 3;
// Of a chunk of at least kWorthAProbe times their sum, so many pieces are tried first.
constexpr std::size_t kProbeCount = 4;
constexpr std::size_t kProbeBytes = 16 << 10;
constexpr std::size_t kWorthAProbe = 8;

void PutHeader(const ChunkHeader& header, std::span<std::byte, kChunkHeaderBytes> out) {
  ByteWriter writer;
  writer.Bytes(std::as_bytes(std::span(kMagic)));
  writer.U16(kVersion);
  writer.U8(static_cast<std::uint8_t>(header.codec));
  writer.U8(0);
  writer.U32(header.plain_bytes);
  writer.U32(header.payload_bytes);
  writer.U32(0);
  GPUMIG_CHECK(writer.bytes().size() == kChunkHeaderBytes);
  std::memcpy(out.data(), writer.bytes().data(), kChunkHeaderBytes);
}

Error Damaged(std::string_view what) { return MakeError(ErrorCode::kDamaged, "{}", what); }

// Everything that a frame can claim is checked before zstd works on it: one plain frame, no dictionary, this content
// size.
Result<void> CheckFrame(std::span<const std::byte> frame, std::size_t plain_bytes) {
  // zstd takes skippable frames and those of its old formats too; we take neither.
  ByteReader reader(frame);
  const Result<std::uint32_t> magic = reader.U32();
  if (!magic || *magic != ZSTD_MAGICNUMBER) return Damaged("payload is not a zstd frame");
  const unsigned long long content_bytes = ZSTD_getFrameContentSize(frame.data(), frame.size());
  if (content_bytes == ZSTD_CONTENTSIZE_ERROR) return Damaged("zstd frame: its header does not hold");
  if (content_bytes == ZSTD_CONTENTSIZE_UNKNOWN) return Damaged("zstd frame does not state its content size");
  if (content_bytes != plain_bytes) {
    return MakeError(ErrorCode::kDamaged, "zstd frame claims {} bytes of content, not {}", content_bytes, plain_bytes);
  }
  if (ZSTD_getDictID_fromFrame(frame.data(), frame.size()) != 0) return Damaged("zstd frame asks for a dictionary");
  const std::size_t frame_bytes = ZSTD_findFrameCompressedSize(frame.data(), frame.size());
  if (ZSTD_isError(frame_bytes) != 0) {
    return MakeError(ErrorCode::kDamaged, "zstd frame: {}", ZSTD_getErrorName(frame_bytes));
  }
  if (frame_bytes != frame.size()) {
    return MakeError(ErrorCode::kDamaged, "{} bytes follow the zstd frame", frame.size() - frame_bytes);
  }
  return Ok();
}

// `compressed_bytes`: 0 where it is raw.
ChunkHeader HeaderOf(std::size_t plain_bytes, std::size_t compressed_bytes) {
  return {.codec = compressed_bytes == 0 ? ChunkCodec::kRaw : ChunkCodec::kZstd,
          .plain_bytes = static_cast<std::uint32_t>(plain_bytes),
          .payload_bytes = static_cast<std::uint32_t>(compressed_bytes == 0 ? plain_bytes : compressed_bytes)};
}

struct Parts {
  ChunkHeader header;
  std::span<const std::byte> payload;
};

Result<Parts> Take(std::span<const std::byte> encoded, std::size_t plain_bytes) {
  const ChunkHeader header = GPUMIG_TRY(ParseChunkHeader(encoded));
  if (header.plain_bytes != plain_bytes)
    return MakeError(ErrorCode::kDamaged, "chunk holds {} bytes, not {}", header.plain_bytes, plain_bytes);
  const std::span<const std::byte> payload = encoded.subspan(kChunkHeaderBytes);
  if (payload.size() != header.payload_bytes) {
    return MakeError(ErrorCode::kDamaged, "chunk has {} bytes after its header, which says {}", payload.size(),
                     header.payload_bytes);
  }
  return Parts{header, payload};
}

Result<void> Decompress(ZSTD_DCtx* zstd, std::span<const std::byte> payload, std::span<std::byte> plain) {
  GPUMIG_TRY(CheckFrame(payload, plain.size()));
  const std::size_t size = ZSTD_decompressDCtx(zstd, plain.data(), plain.size(), payload.data(), payload.size());
  if (ZSTD_isError(size) != 0) return MakeError(ErrorCode::kDamaged, "zstd frame: {}", ZSTD_getErrorName(size));
  if (size != plain.size())
    return MakeError(ErrorCode::kDamaged, "zstd frame gave {} bytes, not {}", size, plain.size());
  return Ok();
}

Result<void> CheckDigest(std::span<const std::byte> plain, const Digest& expected) {
  const Digest digest = Digest::Of(plain);
  if (digest != expected) return MakeError(ErrorCode::kDamaged, "content has digest {}", digest.ToHex());
  return Ok();
}

}  // namespace

Result<CompressionChoice> CompressionChoice::Parse(std::string_view text) {
  if (text == "none") return None();
  if (text == "zstd") return Zstd();
  constexpr std::string_view kPrefix = "zstd:";
  if (text.starts_with(kPrefix)) {
    const std::string_view digits = text.substr(kPrefix.size());
    int level = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), level);
    if (error == std::errc() && end == digits.data() + digits.size() && level >= kMinLevel && level <= kMaxLevel) {
      return Zstd(level);
    }
  }
  return MakeError(ErrorCode::kInvalidArgument, "compression '{}' is not none, zstd, or zstd:LEVEL with LEVEL {}..{}",
                   text, kMinLevel, kMaxLevel);
}

Result<ChunkHeader> ParseChunkHeader(std::span<const std::byte> encoded) {
  ByteReader reader(encoded);
  const std::span<const std::byte> magic = GPUMIG_TRY(reader.Bytes(kMagic.size()), "chunk header");
  if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0) return Damaged("not a chunk: wrong magic");
  const std::uint16_t version = GPUMIG_TRY(reader.U16(), "chunk header");
  if (version != kVersion) {
    return MakeError(ErrorCode::kUnsupported, "chunk has version {}, this program reads version {}", version, kVersion);
  }
  const std::uint8_t codec = GPUMIG_TRY(reader.U8(), "chunk header");
  const std::uint8_t reserved = GPUMIG_TRY(reader.U8(), "chunk header");
  ChunkHeader header;
  header.plain_bytes = GPUMIG_TRY(reader.U32(), "chunk header");
  header.payload_bytes = GPUMIG_TRY(reader.U32(), "chunk header");
  const std::uint32_t reserved_tail = GPUMIG_TRY(reader.U32(), "chunk header");
  if (codec > static_cast<std::uint8_t>(ChunkCodec::kZstd)) {
    return MakeError(ErrorCode::kUnsupported, "chunk has codec {}, this program reads 0 (raw) and 1 (zstd)", codec);
  }
  header.codec = static_cast<ChunkCodec>(codec);
  if (reserved != 0 || reserved_tail != 0) return Damaged("chunk header: reserved bytes are set");
  if (header.plain_bytes == 0 || header.plain_bytes > kMaxChunkBytes) {
    return MakeError(ErrorCode::kDamaged, "chunk header: plain size {} is not within 1..{}", header.plain_bytes,
                     kMaxChunkBytes);
  }
  const bool fits = header.codec == ChunkCodec::kRaw ? header.payload_bytes == header.plain_bytes
                                                     : header.payload_bytes < header.plain_bytes;
  if (!fits) {
    return MakeError(ErrorCode::kDamaged, "chunk header: stored size {} does not go with plain size {}",
                     header.payload_bytes, header.plain_bytes);
  }
  return header;
}

struct ChunkEncoder::Context {
  explicit Context(int level) : zstd(ZSTD_createCCtx()) {
    GPUMIG_CHECK(zstd != nullptr);
    GPUMIG_CHECK(ZSTD_isError(ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, level)) == 0);
  }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context() { ZSTD_freeCCtx(zstd); }

  ZSTD_CCtx* zstd;
};

ChunkEncoder::ChunkEncoder(CompressionChoice compression) {
  if (!compression.zstd_level) return;
  const int level = *compression.zstd_level;
  GPUMIG_CHECK(level >= CompressionChoice::kMinLevel && level <= CompressionChoice::kMaxLevel);
  context_ = std::make_unique<Context>(level);
}
ChunkEncoder::ChunkEncoder(ChunkEncoder&&) noexcept = default;
ChunkEncoder& ChunkEncoder::operator=(ChunkEncoder&&) noexcept = default;
ChunkEncoder::~ChunkEncoder() = default;

std::size_t ChunkEncoder::Compress(std::span<const std::byte> plain, std::span<std::byte> payload) const {
  if (context_ == nullptr) return 0;
  // Room for a result that is worth it and no more: zstd gives up where it does not fit.
  const auto compress = [&](std::span<const std::byte> part) -> std::size_t {
    const std::size_t room = part.size() * (100 - kMinGainPercent) / 100;
    const std::size_t size = ZSTD_compress2(context_->zstd, payload.data(), room, part.data(), part.size());
    return ZSTD_isError(size) == 0 ? size : 0;
  };
  if (plain.size() >= kProbeCount * kProbeBytes * kWorthAProbe) {
    bool promising = false;
    for (std::size_t i = 0; i < kProbeCount && !promising; ++i)
      promising = compress(plain.subspan(i * (plain.size() / kProbeCount), kProbeBytes)) != 0;
    if (!promising) return 0;
  }
  return compress(plain);
}

std::span<const std::byte> ChunkEncoder::Encode(std::span<const std::byte> plain) {
  GPUMIG_CHECK(!plain.empty() && plain.size() <= kMaxChunkBytes);
  encoded_.resize(std::max(encoded_.size(), kChunkHeaderBytes + plain.size()));
  const std::span<std::byte> payload = std::span(encoded_).subspan(kChunkHeaderBytes);
  const std::size_t compressed_bytes = Compress(plain, payload);
  if (compressed_bytes == 0) std::memcpy(payload.data(), plain.data(), plain.size());
  const ChunkHeader header = HeaderOf(plain.size(), compressed_bytes);
  PutHeader(header, std::span(encoded_).first<kChunkHeaderBytes>());
  return std::span(encoded_).first(kChunkHeaderBytes + header.payload_bytes);
}

ByteBuffer ChunkEncoder::EncodeWithRoom(ByteBuffer room_and_plain) {
  const std::span<const std::byte> plain = std::span(room_and_plain).subspan(kChunkHeaderBytes);
  GPUMIG_CHECK(!plain.empty() && plain.size() <= kMaxChunkBytes);
  encoded_.resize(std::max(encoded_.size(), kChunkHeaderBytes + plain.size()));
  const std::size_t compressed_bytes = Compress(plain, std::span(encoded_).subspan(kChunkHeaderBytes));
  const ChunkHeader header = HeaderOf(plain.size(), compressed_bytes);
  if (compressed_bytes == 0) {
    PutHeader(header, std::span(room_and_plain).first<kChunkHeaderBytes>());
    return room_and_plain;
  }
  PutHeader(header, std::span(encoded_).first<kChunkHeaderBytes>());
  const std::span<const std::byte> encoded = std::span(encoded_).first(kChunkHeaderBytes + header.payload_bytes);
  return {encoded.begin(), encoded.end()};
}

struct ChunkDecoder::Context {
  Context() : zstd(ZSTD_createDCtx()) { GPUMIG_CHECK(zstd != nullptr); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context() { ZSTD_freeDCtx(zstd); }

  ZSTD_DCtx* zstd;
};

ChunkDecoder::ChunkDecoder() : context_(std::make_unique<Context>()) {}
ChunkDecoder::ChunkDecoder(ChunkDecoder&&) noexcept = default;
ChunkDecoder& ChunkDecoder::operator=(ChunkDecoder&&) noexcept = default;
ChunkDecoder::~ChunkDecoder() = default;

Result<void> ChunkDecoder::Decode(std::span<const std::byte> encoded, const Digest& expected,
                                  std::span<std::byte> plain) {
  GPUMIG_CHECK(!plain.empty() && plain.size() <= kMaxChunkBytes);
  const Parts parts = GPUMIG_TRY(Take(encoded, plain.size()));
  if (parts.header.codec == ChunkCodec::kRaw) {
    std::memcpy(plain.data(), parts.payload.data(), plain.size());
  } else {
    GPUMIG_TRY(Decompress(context_->zstd, parts.payload, plain));
  }
  return CheckDigest(plain, expected);
}

Result<std::span<const std::byte>> ChunkDecoder::View(std::span<const std::byte> encoded, const Digest& expected,
                                                      std::size_t plain_bytes) {
  GPUMIG_CHECK(plain_bytes > 0 && plain_bytes <= kMaxChunkBytes);
  const Parts parts = GPUMIG_TRY(Take(encoded, plain_bytes));
  std::span<const std::byte> plain = parts.payload;
  if (parts.header.codec != ChunkCodec::kRaw) {
    plain_.resize(plain_bytes);
    GPUMIG_TRY(Decompress(context_->zstd, parts.payload, plain_));
    plain = plain_;
  }
  GPUMIG_TRY(CheckDigest(plain, expected));
  return plain;
}

std::vector<std::byte> EncodeChunk(std::span<const std::byte> plain, CompressionChoice compression) {
  ChunkEncoder encoder(compression);
  const std::span<const std::byte> encoded = encoder.Encode(plain);
  return {encoded.begin(), encoded.end()};
}

Result<std::vector<std::byte>> DecodeChunk(std::span<const std::byte> encoded, const Digest& expected,
                                           std::size_t expected_plain_bytes) {
  std::vector<std::byte> plain(expected_plain_bytes);
  GPUMIG_TRY(DecodeChunkInto(encoded, expected, plain));
  return plain;
}

Result<void> DecodeChunkInto(std::span<const std::byte> encoded, const Digest& expected, std::span<std::byte> plain) {
  return ChunkDecoder().Decode(encoded, expected, plain);
}

bool IsAllZero(std::span<const std::byte> bytes) {
  // Each byte equals the one before it, and the first is 0. memcmp is the fastest loop there is.
  return bytes.empty() ||
         (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

}  // namespace gpumig
