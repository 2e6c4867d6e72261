// Chunks from hostile hands: any bytes are refused with a typed error, or decode to what their digest says.
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/base/check.h"
#include "core/image/chunk_codec.h"

namespace gpumig {
namespace {

// No input has the digest of 32 zero bytes, so the first try fails; what it left in the buffer gives the digest for the
// second.
void TryToDecode(std::span<const std::byte> encoded) {
  const Result<ChunkHeader> header = ParseChunkHeader(encoded);
  if (!header) {
    GPUMIG_CHECK(header.error().code() == ErrorCode::kDamaged || header.error().code() == ErrorCode::kUnsupported);
  }
  const std::size_t plain_bytes = header ? header->plain_bytes : 1000;
  GPUMIG_CHECK(plain_bytes >= 1 && plain_bytes <= kMaxChunkBytes);
  std::vector<std::byte> plain(plain_bytes);
  const Result<void> decoded = DecodeChunkInto(encoded, Digest(), plain);
  GPUMIG_CHECK(!decoded.has_value());  // nothing has this digest
  GPUMIG_CHECK(decoded.error().code() == ErrorCode::kDamaged || decoded.error().code() == ErrorCode::kUnsupported);
  // With the digest of what came out it must decode again, to the same, or have been refused for another reason.
  const Digest digest = Digest::Of(plain);
  const Result<std::vector<std::byte>> again = DecodeChunk(encoded, digest, plain_bytes);
  if (again) GPUMIG_CHECK(Digest::Of(*again) == digest);
}

void TryToEncode(std::span<const std::byte> plain) {
  const auto check = [&](std::span<const std::byte> encoded) {
    const Result<std::vector<std::byte>> decoded = DecodeChunk(encoded, Digest::Of(plain), plain.size());
    GPUMIG_CHECK(decoded.has_value() && std::memcmp(decoded->data(), plain.data(), plain.size()) == 0);
  };
  for (const CompressionChoice compression :
       {CompressionChoice::None(), CompressionChoice::Zstd(1), CompressionChoice::Auto()}) {
    check(EncodeChunk(plain, compression));
  }
  const auto planes = std::to_integer<std::uint8_t>(plain[0]);
  for (const CodecMethod method : {CodecMethod::kLiterals, CodecMethod::kPlanes2, CodecMethod::kPlanes4}) {
    const std::vector<std::byte> encoded = EncodeChunkBy(method, plain, planes);
    if (!encoded.empty()) check(encoded);
  }
}

}  // namespace
}  // namespace gpumig

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  gpumig::TryToDecode(bytes);
  if (size >= 1 && size <= gpumig::kMaxChunkBytes) gpumig::TryToEncode(bytes);
  return 0;
}
