#include "transport/chunk_protocol.h"

#include <algorithm>
#include <cstring>

#include "core/base/bytes.h"
#include "core/base/check.h"

namespace gpumig {

std::vector<std::byte> EncodeDigests(std::span<const ChunkDigest> digests) {
  GPUMIG_CHECK(digests.size() <= kMaxDigestsPerRequest);
  std::vector<std::byte> bytes;
  bytes.reserve(digests.size() * kDigestBytes);
  for (const ChunkDigest& digest : digests) bytes.insert(bytes.end(), digest.begin(), digest.end());
  return bytes;
}

Result<std::vector<ChunkDigest>> DecodeDigests(std::span<const std::byte> bytes) {
  if (bytes.size() % kDigestBytes != 0 || bytes.size() > kMaxDigestsPerRequest * kDigestBytes) {
    return MakeError(ErrorCode::kInvalidArgument, "a list of digests has {} bytes: not up to {} times {}", bytes.size(),
                     kMaxDigestsPerRequest, kDigestBytes);
  }
  std::vector<ChunkDigest> digests(bytes.size() / kDigestBytes);
  for (std::size_t i = 0; i < digests.size(); ++i) {
    std::ranges::copy(bytes.subspan(i * kDigestBytes, kDigestBytes), digests[i].begin());
  }
  return digests;
}

std::string EncodeBitmap(const std::vector<bool>& bits) {
  std::string bytes((bits.size() + 7) / 8, '\0');
  for (std::size_t i = 0; i < bits.size(); ++i) {
    if (bits[i]) bytes[i / 8] = static_cast<char>(static_cast<unsigned char>(bytes[i / 8]) | (1u << (i % 8)));
  }
  return bytes;
}

Result<std::vector<bool>> DecodeBitmap(std::string_view bytes, std::size_t count) {
  const bool right_size = bytes.size() == (count + 7) / 8;
  if (!right_size || (count % 8 != 0 && (static_cast<unsigned char>(bytes.back()) >> (count % 8)) != 0)) {
    return MakeError(ErrorCode::kDamaged, "{} bytes are no bitmap of {} bits", bytes.size(), count);
  }
  std::vector<bool> bits(count);
  for (std::size_t i = 0; i < count; ++i) bits[i] = ((static_cast<unsigned char>(bytes[i / 8]) >> (i % 8)) & 1u) != 0;
  return bits;
}

Result<ChunkDigest> DigestOfHex(std::string_view text) {
  const bool lower = text.size() == 2 * kDigestBytes && text.find_first_not_of("0123456789abcdef") == text.npos;
  if (!lower)
    return MakeError(ErrorCode::kInvalidArgument, "a digest is {} lower-case hexadecimal digits", 2 * kDigestBytes);
  const std::vector<std::byte> bytes = GPUMIG_TRY(FromHex(text));
  ChunkDigest digest{};
  std::ranges::copy(bytes, digest.begin());
  return digest;
}

Result<void> CheckMigrationId(std::string_view id) {
  const bool good = !id.empty() && id.size() <= 64 &&
                    id.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string_view::npos;
  if (good) return Ok();
  return MakeError(ErrorCode::kInvalidArgument, "'{}' is not a migration id: 1 to 64 of a-z, 0-9 and '-'",
                   id.substr(0, 80));
}

}  // namespace gpumig
