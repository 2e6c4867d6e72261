#include "core/image/digest.h"

#include <blake3.h>

#include <cstdint>
#include <vector>

#include "core/base/bytes.h"

namespace gpumig {

Digest Digest::Of(std::span<const std::byte> bytes) {
  const std::array<std::span<const std::byte>, 1> parts = {bytes};
  return OfParts(parts);
}

Digest Digest::OfParts(std::span<const std::span<const std::byte>> parts) {
  static_assert(kBytes == BLAKE3_OUT_LEN);
  blake3_hasher hasher;
  blake3_hasher_init(&hasher);
  for (const std::span<const std::byte> part : parts) blake3_hasher_update(&hasher, part.data(), part.size());
  Digest digest;
  blake3_hasher_finalize(&hasher, reinterpret_cast<std::uint8_t*>(digest.bytes_.data()), kBytes);
  return digest;
}

std::string Digest::ToHex() const { return gpumig::ToHex(bytes_); }

Result<Digest> Digest::FromHex(std::string_view text) {
  if (text.size() != 2 * kBytes) {
    return MakeError(ErrorCode::kInvalidArgument, "a digest has {} hexadecimal digits, not {}", 2 * kBytes,
                     text.size());
  }
  const std::vector<std::byte> bytes = GPUMIG_TRY(gpumig::FromHex(text), "digest");
  return Digest(std::span<const std::byte, kBytes>(bytes.data(), kBytes));
}

}  // namespace gpumig
