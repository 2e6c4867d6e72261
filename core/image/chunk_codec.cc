#include "core/image/chunk_codec.h"

#include <zstd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstring>
#include <initializer_list>
#include <utility>

#include "core/base/bytes.h"
#include "core/base/check.h"
#include "core/base/thread_time.h"
#include "core/image/byte_planes.h"

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

// `scratch` grows to plain.size() at most.
Result<void> DecodePlanes(ZSTD_DCtx* zstd, std::size_t plane_count, std::span<const std::byte> payload,
                          std::span<std::byte> plain, std::vector<std::byte>& scratch) {
  const std::size_t plane_bytes = plain.size() / plane_count;
  const std::size_t rest_bytes = plain.size() % plane_count;
  if (plane_bytes == 0) return Damaged("byte planes: the chunk is smaller than one element");
  ByteReader reader(payload);
  std::array<std::uint32_t, kMostPlanes> stored{};
  std::uint64_t total = 0;
  for (std::size_t plane = 0; plane < plane_count; ++plane) {
    stored[plane] = GPUMIG_TRY(reader.U32(), "byte planes");
    if (stored[plane] > plane_bytes) {
      return MakeError(ErrorCode::kDamaged, "byte planes: plane {} claims {} bytes, and has {}", plane, stored[plane],
                       plane_bytes);
    }
    total += stored[plane];
  }
  if (total + rest_bytes != reader.remaining()) {
    return MakeError(ErrorCode::kDamaged, "byte planes: {} bytes are there, not {}", reader.remaining(),
                     total + rest_bytes);
  }
  scratch.resize(std::max(scratch.size(), plane_count * plane_bytes));
  std::array<const std::byte*, kMostPlanes> planes{};
  for (std::size_t plane = 0; plane < plane_count; ++plane) {
    const std::span<const std::byte> body = GPUMIG_TRY(reader.Bytes(stored[plane]), "byte planes");
    const std::span<std::byte> out = std::span(scratch).subspan(plane * plane_bytes, plane_bytes);
    planes[plane] = out.data();
    if (body.empty()) {
      std::memset(out.data(), 0, out.size());
    } else if (body.size() == plane_bytes) {
      planes[plane] = body.data();
    } else {
      GPUMIG_TRY(Decompress(zstd, body, out), "byte planes: plane {}", plane);
    }
  }
  MergePlanes(std::span(planes).first(plane_count), plain.first(plane_count * plane_bytes));
  const std::span<const std::byte> rest = GPUMIG_TRY(reader.Bytes(rest_bytes), "byte planes");
  std::copy(rest.begin(), rest.end(), plain.end() - static_cast<std::ptrdiff_t>(rest_bytes));
  return Ok();
}

Result<void> DecodePayload(ZSTD_DCtx* zstd, const Parts& parts, std::span<std::byte> plain,
                           std::vector<std::byte>& scratch) {
  switch (parts.header.codec) {
    case ChunkCodec::kRaw:
      std::memcpy(plain.data(), parts.payload.data(), plain.size());
      return Ok();
    case ChunkCodec::kZstd:
      return Decompress(zstd, parts.payload, plain);
    case ChunkCodec::kZero:
      std::memset(plain.data(), 0, plain.size());
      return Ok();
    case ChunkCodec::kPlanes2:
      return DecodePlanes(zstd, 2, parts.payload, plain, scratch);
    case ChunkCodec::kPlanes4:
      return DecodePlanes(zstd, 4, parts.payload, plain, scratch);
  }
  return Damaged("chunk header: no such codec");
}

bool SizesFit(const ChunkHeader& header) {
  switch (header.codec) {
    case ChunkCodec::kRaw:
      return header.payload_bytes == header.plain_bytes;
    case ChunkCodec::kZero:
      return header.payload_bytes == 0;
    case ChunkCodec::kZstd:
    case ChunkCodec::kPlanes2:
    case ChunkCodec::kPlanes4:
      break;
  }
  return header.payload_bytes < header.plain_bytes;
}

Result<void> CheckDigest(std::span<const std::byte> plain, const Digest& expected) {
  const Digest digest = Digest::Of(plain);
  if (digest != expected) return MakeError(ErrorCode::kDamaged, "content has digest {}", digest.ToHex());
  return Ok();
}

}  // namespace

Result<CompressionChoice> CompressionChoice::Parse(std::string_view text) {
  if (text == "auto") return Auto();
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
  return MakeError(ErrorCode::kInvalidArgument,
                   "compression '{}' is not auto, none, zstd, or zstd:LEVEL with LEVEL {}..{}", text, kMinLevel,
                   kMaxLevel);
}

std::string CompressionChoice::ToString() const {
  if (automatic) return "auto";
  return zstd_level ? fmt::format("zstd:{}", *zstd_level) : "none";
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
  if (codec > static_cast<std::uint8_t>(ChunkCodec::kPlanes4)) {
    return MakeError(ErrorCode::kUnsupported, "chunk has codec {}, this program reads 0 to 4", codec);
  }
  header.codec = static_cast<ChunkCodec>(codec);
  if (reserved != 0 || reserved_tail != 0) return Damaged("chunk header: reserved bytes are set");
  if (header.plain_bytes == 0 || header.plain_bytes > kMaxChunkBytes) {
    return MakeError(ErrorCode::kDamaged, "chunk header: plain size {} is not within 1..{}", header.plain_bytes,
                     kMaxChunkBytes);
  }
  if (!SizesFit(header)) {
    return MakeError(ErrorCode::kDamaged, "chunk header: stored size {} does not go with plain size {}",
                     header.payload_bytes, header.plain_bytes);
  }
  return header;
}

namespace {

ZSTD_CCtx* NewZstd(std::initializer_list<std::pair<ZSTD_cParameter, int>> parameters) {
  ZSTD_CCtx* zstd = ZSTD_createCCtx();
  GPUMIG_CHECK(zstd != nullptr);
  for (const auto& [parameter, value] : parameters)
    GPUMIG_CHECK(ZSTD_isError(ZSTD_CCtx_setParameter(zstd, parameter, value)) == 0);
  return zstd;
}

class ZstdEncoder {
 public:
  explicit ZstdEncoder(int level) : zstd_(NewZstd({{ZSTD_c_compressionLevel, level}})) {}
  // Frequencies of bytes only: the search for matches makes steps as long as a block, so it finds none, and literals
  // are Huffman coded, which such a search would otherwise leave out. The last parameter is
  // ZSTD_c_literalCompressionMode = ZSTD_ps_enable. Source: zstd.h 1.5.4; the same numbers in 1.4.0 to 1.5.7.
  ZstdEncoder()
      : zstd_(NewZstd({{ZSTD_c_compressionLevel, -1},
                       {ZSTD_c_strategy, ZSTD_fast},
                       {ZSTD_c_targetLength, 1 << 17},
                       {ZSTD_c_hashLog, 6},
                       {ZSTD_c_minMatch, 7},
                       {ZSTD_c_experimentalParam5, 1}})) {}
  ZstdEncoder(const ZstdEncoder&) = delete;
  ZstdEncoder& operator=(const ZstdEncoder&) = delete;
  ~ZstdEncoder() { ZSTD_freeCCtx(zstd_); }

  // 0: it does not fit into `room`.
  std::size_t Encode(std::span<const std::byte> plain, std::span<std::byte> room) {
    const std::size_t size = ZSTD_compress2(zstd_, room.data(), room.size(), plain.data(), plain.size());
    return ZSTD_isError(size) == 0 ? size : 0;
  }

 private:
  ZSTD_CCtx* zstd_;
};

// Into `room`; 0 where it does not fit. `scratch` grows to plain.size() at most.
std::size_t EncodePlanes(ZstdEncoder& literals, std::size_t plane_count, std::uint8_t coded_planes,
                         std::span<const std::byte> plain, std::span<std::byte> room, std::vector<std::byte>& scratch) {
  const std::size_t plane_bytes = plain.size() / plane_count;
  const std::size_t rest_bytes = plain.size() % plane_count;
  const std::size_t sizes_bytes = sizeof(std::uint32_t) * plane_count;
  if (plane_bytes == 0) return 0;
  scratch.resize(std::max(scratch.size(), plane_count * plane_bytes));
  // Raw planes below the first coded one go straight to where they will stand, where there is room.
  std::array<std::byte*, kMostPlanes> planes{};
  std::size_t straight = sizes_bytes;
  for (std::size_t plane = 0; plane < plane_count; ++plane) {
    const bool coded = (coded_planes >> plane & 1u) != 0;
    if (coded || straight > room.size() || room.size() - straight < plane_bytes) straight = room.size() + 1;
    planes[plane] = straight <= room.size() ? room.data() + straight : scratch.data() + plane * plane_bytes;
    if (straight <= room.size()) straight += plane_bytes;
  }
  SplitPlanes(plain, std::span(planes).first(plane_count));
  ByteWriter sizes;
  std::size_t at = sizes_bytes;
  for (std::size_t plane = 0; plane < plane_count; ++plane) {
    const std::span<const std::byte> bytes(planes[plane], plane_bytes);
    if (at > room.size()) return 0;
    const std::span<std::byte> rest_of_room = room.subspan(at);
    const bool coded = (coded_planes >> plane & 1u) != 0;
    const bool zero = coded && IsAllZero(bytes);
    std::size_t stored = 0;
    if (coded && !zero) {
      stored = literals.Encode(bytes, rest_of_room.first(std::min(rest_of_room.size(), plane_bytes - 1)));
    }
    if (stored == 0 && !zero) {
      if (rest_of_room.size() < plane_bytes) return 0;
      stored = plane_bytes;
      if (rest_of_room.data() != bytes.data()) std::memcpy(rest_of_room.data(), bytes.data(), plane_bytes);
    }
    sizes.U32(static_cast<std::uint32_t>(stored));
    at += stored;
  }
  if (room.size() < at || room.size() - at < rest_bytes) return 0;
  std::copy(plain.end() - static_cast<std::ptrdiff_t>(rest_bytes), plain.end(),
            room.begin() + static_cast<std::ptrdiff_t>(at));
  std::memcpy(room.data(), sizes.bytes().data(), sizes_bytes);
  return at + rest_bytes;
}

ChunkCodec CodecOf(CodecMethod method) {
  switch (method) {
    case CodecMethod::kRaw:
      return ChunkCodec::kRaw;
    case CodecMethod::kZstdFast:
    case CodecMethod::kZstd1:
    case CodecMethod::kZstd3:
    case CodecMethod::kLiterals:
      return ChunkCodec::kZstd;
    case CodecMethod::kPlanes2:
      return ChunkCodec::kPlanes2;
    case CodecMethod::kPlanes4:
      return ChunkCodec::kPlanes4;
  }
  return ChunkCodec::kRaw;
}

// Each way has its working memory once it is used.
class MethodEncoder {
 public:
  // As EncodePlanes().
  std::size_t Encode(CodecMethod method, std::uint8_t coded_planes, std::span<const std::byte> plain,
                     std::span<std::byte> room) {
    switch (method) {
      case CodecMethod::kRaw:
        return 0;
      case CodecMethod::kZstdFast:
        return Of(fast_, -5).Encode(plain, room);
      case CodecMethod::kZstd1:
        return Of(one_, 1).Encode(plain, room);
      case CodecMethod::kZstd3:
        return Of(three_, 3).Encode(plain, room);
      case CodecMethod::kLiterals:
        return Of(literals_).Encode(plain, room);
      case CodecMethod::kPlanes2:
        return EncodePlanes(Of(literals_), 2, coded_planes, plain, room, scratch_);
      case CodecMethod::kPlanes4:
        return EncodePlanes(Of(literals_), 4, coded_planes, plain, room, scratch_);
    }
    return 0;
  }

 private:
  template <typename... Arguments>
  static ZstdEncoder& Of(std::optional<ZstdEncoder>& encoder, Arguments... arguments) {
    return encoder ? *encoder : encoder.emplace(arguments...);
  }

  std::optional<ZstdEncoder> fast_;
  std::optional<ZstdEncoder> one_;
  std::optional<ZstdEncoder> three_;
  std::optional<ZstdEncoder> literals_;
  std::vector<std::byte> scratch_;
};

// Room for a result that is worth it and no more: encoders give up where it does not fit.
std::size_t WorthIt(std::size_t plain_bytes) { return plain_bytes * (100 - kMinGainPercent) / 100; }

}  // namespace

struct ChunkEncoder::Context {
  ChunkHeader EncodeAutomatically(std::span<const std::byte> plain, std::span<std::byte> room);
  ChunkHeader EncodeAtLevel(std::span<const std::byte> plain, std::span<std::byte> room);

  std::optional<ZstdEncoder> at_level;
  CodecPolicy* policy = nullptr;
  ChunkProber prober;
  MethodEncoder methods;
};

ChunkHeader ChunkEncoder::Context::EncodeAutomatically(std::span<const std::byte> plain, std::span<std::byte> room) {
  const auto plain_bytes = static_cast<std::uint32_t>(plain.size());
  if (IsAllZero(plain)) return {.codec = ChunkCodec::kZero, .plain_bytes = plain_bytes, .payload_bytes = 0};
  const ChunkProbe probe = prober.Look(plain);
  const CodecMethod method = policy->Choose(probe);
  const std::chrono::nanoseconds begin = CpuTimeOfThisThread();
  const std::size_t size = methods.Encode(method, EstimateOf(probe, method).coded_planes, plain, room);
  policy->LearnEncoding(method, probe, plain.size(), size == 0 ? plain.size() : size, CpuTimeOfThisThread() - begin);
  if (size == 0) return {.codec = ChunkCodec::kRaw, .plain_bytes = plain_bytes, .payload_bytes = plain_bytes};
  return {.codec = CodecOf(method), .plain_bytes = plain_bytes, .payload_bytes = static_cast<std::uint32_t>(size)};
}

ChunkHeader ChunkEncoder::Context::EncodeAtLevel(std::span<const std::byte> plain, std::span<std::byte> room) {
  const auto plain_bytes = static_cast<std::uint32_t>(plain.size());
  bool promising = true;
  if (plain.size() >= kProbeCount * kProbeBytes * kWorthAProbe) {
    promising = false;
    for (std::size_t i = 0; i < kProbeCount && !promising; ++i) {
      const std::span<const std::byte> part = plain.subspan(i * (plain.size() / kProbeCount), kProbeBytes);
      promising = at_level->Encode(part, room.first(WorthIt(part.size()))) != 0;
    }
  }
  const std::size_t size = promising ? at_level->Encode(plain, room) : 0;
  if (size == 0) return {.codec = ChunkCodec::kRaw, .plain_bytes = plain_bytes, .payload_bytes = plain_bytes};
  return {.codec = ChunkCodec::kZstd, .plain_bytes = plain_bytes, .payload_bytes = static_cast<std::uint32_t>(size)};
}

ChunkEncoder::ChunkEncoder(CompressionChoice compression, CodecPolicy* policy) {
  GPUMIG_CHECK(compression.automatic == (policy != nullptr));
  if (!compression.automatic && !compression.zstd_level) return;
  context_ = std::make_unique<Context>();
  context_->policy = policy;
  if (compression.automatic) return;
  const int level = *compression.zstd_level;
  GPUMIG_CHECK(level >= CompressionChoice::kMinLevel && level <= CompressionChoice::kMaxLevel);
  context_->at_level.emplace(level);
}
ChunkEncoder::ChunkEncoder(ChunkEncoder&&) noexcept = default;
ChunkEncoder& ChunkEncoder::operator=(ChunkEncoder&&) noexcept = default;
ChunkEncoder::~ChunkEncoder() = default;

ChunkHeader ChunkEncoder::Encoded(std::span<const std::byte> plain) {
  GPUMIG_CHECK(!plain.empty() && plain.size() <= kMaxChunkBytes);
  encoded_.resize(std::max(encoded_.size(), kChunkHeaderBytes + plain.size()));
  const std::span<std::byte> room = std::span(encoded_).subspan(kChunkHeaderBytes, WorthIt(plain.size()));
  const auto plain_bytes = static_cast<std::uint32_t>(plain.size());
  if (context_ == nullptr) return {.codec = ChunkCodec::kRaw, .plain_bytes = plain_bytes, .payload_bytes = plain_bytes};
  return context_->policy != nullptr ? context_->EncodeAutomatically(plain, room)
                                     : context_->EncodeAtLevel(plain, room);
}

std::span<const std::byte> ChunkEncoder::Encode(std::span<const std::byte> plain) {
  const ChunkHeader header = Encoded(plain);
  if (header.codec == ChunkCodec::kRaw) std::memcpy(encoded_.data() + kChunkHeaderBytes, plain.data(), plain.size());
  PutHeader(header, std::span(encoded_).first<kChunkHeaderBytes>());
  return std::span(encoded_).first(kChunkHeaderBytes + header.payload_bytes);
}

ByteBuffer ChunkEncoder::EncodeWithRoom(ByteBuffer room_and_plain) {
  const ChunkHeader header = Encoded(std::span(room_and_plain).subspan(kChunkHeaderBytes));
  if (header.codec == ChunkCodec::kRaw) {
    PutHeader(header, std::span(room_and_plain).first<kChunkHeaderBytes>());
    return room_and_plain;
  }
  PutHeader(header, std::span(encoded_).first<kChunkHeaderBytes>());
  const std::span<const std::byte> encoded = std::span(encoded_).first(kChunkHeaderBytes + header.payload_bytes);
  return {encoded.begin(), encoded.end()};
}

std::vector<std::byte> EncodeChunkBy(CodecMethod method, std::span<const std::byte> plain, std::uint8_t coded_planes) {
  GPUMIG_CHECK(!plain.empty() && plain.size() <= kMaxChunkBytes);
  std::vector<std::byte> encoded(kChunkHeaderBytes + plain.size());
  const std::span<std::byte> payload = std::span(encoded).subspan(kChunkHeaderBytes);
  ChunkHeader header = {.codec = CodecOf(method),
                        .plain_bytes = static_cast<std::uint32_t>(plain.size()),
                        .payload_bytes = static_cast<std::uint32_t>(plain.size())};
  if (method == CodecMethod::kRaw) {
    std::memcpy(payload.data(), plain.data(), plain.size());
  } else {
    const std::size_t size = MethodEncoder().Encode(method, coded_planes, plain, payload.first(plain.size() - 1));
    if (size == 0) return {};
    header.payload_bytes = static_cast<std::uint32_t>(size);
  }
  PutHeader(header, std::span(encoded).first<kChunkHeaderBytes>());
  encoded.resize(kChunkHeaderBytes + header.payload_bytes);
  return encoded;
}

struct ChunkDecoder::Context {
  Context() : zstd(ZSTD_createDCtx()) { GPUMIG_CHECK(zstd != nullptr); }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context() { ZSTD_freeDCtx(zstd); }

  ZSTD_DCtx* zstd;
  std::vector<std::byte> planes;
};

ChunkDecoder::ChunkDecoder() : context_(std::make_unique<Context>()) {}
ChunkDecoder::ChunkDecoder(ChunkDecoder&&) noexcept = default;
ChunkDecoder& ChunkDecoder::operator=(ChunkDecoder&&) noexcept = default;
ChunkDecoder::~ChunkDecoder() = default;

Result<void> ChunkDecoder::Decode(std::span<const std::byte> encoded, const Digest& expected,
                                  std::span<std::byte> plain) {
  GPUMIG_CHECK(!plain.empty() && plain.size() <= kMaxChunkBytes);
  const Parts parts = GPUMIG_TRY(Take(encoded, plain.size()));
  GPUMIG_TRY(DecodePayload(context_->zstd, parts, plain, context_->planes));
  return CheckDigest(plain, expected);
}

Result<std::span<const std::byte>> ChunkDecoder::View(std::span<const std::byte> encoded, const Digest& expected,
                                                      std::size_t plain_bytes) {
  GPUMIG_CHECK(plain_bytes > 0 && plain_bytes <= kMaxChunkBytes);
  const Parts parts = GPUMIG_TRY(Take(encoded, plain_bytes));
  std::span<const std::byte> plain = parts.payload;
  if (parts.header.codec != ChunkCodec::kRaw) {
    plain_.resize(plain_bytes);
    GPUMIG_TRY(DecodePayload(context_->zstd, parts, plain_, context_->planes));
    plain = plain_;
  }
  GPUMIG_TRY(CheckDigest(plain, expected));
  return plain;
}

std::vector<std::byte> EncodeChunk(std::span<const std::byte> plain, CompressionChoice compression) {
  CodecPolicy policy({});
  ChunkEncoder encoder(compression, compression.automatic ? &policy : nullptr);
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
