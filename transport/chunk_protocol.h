// How lists of digests and answers to them are written. See docs/wire_protocol.md.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"
#include "transport/protocol.h"

namespace gpumig {

// What names a chunk: the digest of its plain bytes. This layer gives no meaning to it.
using ChunkDigest = std::array<std::byte, kDigestBytes>;

// Format: 32 bytes per digest, no header. REQUIRES: digests.size() <= kMaxDigestsPerRequest
std::vector<std::byte> EncodeDigests(std::span<const ChunkDigest> digests);
// Errors: kInvalidArgument, not a whole number of digests, or too many.
Result<std::vector<ChunkDigest>> DecodeDigests(std::span<const std::byte> bytes);

// Format: one bit per digest asked for, in order, lowest bit first; unused bits of the last byte are 0.
std::string EncodeBitmap(const std::vector<bool>& bits);
// Errors: kDamaged, it is not a bitmap of `count` bits.
Result<std::vector<bool>> DecodeBitmap(std::string_view bytes, std::size_t count);

// 64 hexadecimal digits, lower case. Errors: kInvalidArgument.
Result<ChunkDigest> DigestOfHex(std::string_view text);

// 1 to 64 of a-z, 0-9 and '-'. Errors: kInvalidArgument.
Result<void> CheckMigrationId(std::string_view id);

}  // namespace gpumig
