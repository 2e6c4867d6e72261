// Digest: the BLAKE3-256 that names a chunk by its plaintext, and an image by its manifest.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "core/base/result.h"

namespace gpumig {

// A value; the default one is 32 zero bytes, which names nothing.
class Digest {
 public:
  static constexpr std::size_t kBytes = 32;

  Digest() = default;
  explicit Digest(std::span<const std::byte, kBytes> bytes) { std::memcpy(bytes_.data(), bytes.data(), kBytes); }

  static Digest Of(std::span<const std::byte> bytes);
  // Of the parts as if they stood in one piece.
  static Digest OfParts(std::span<const std::span<const std::byte>> parts);

  // 64 lower-case hexadecimal digits. FromHex errors: kInvalidArgument.
  std::string ToHex() const;
  static Result<Digest> FromHex(std::string_view text);

  std::span<const std::byte, kBytes> bytes() const { return bytes_; }

  friend auto operator<=>(const Digest&, const Digest&) = default;

 private:
  std::array<std::byte, kBytes> bytes_{};
};

}  // namespace gpumig

template <>
struct std::hash<gpumig::Digest> {
  // The bytes are a hash already.
  std::size_t operator()(const gpumig::Digest& digest) const noexcept {
    std::size_t value = 0;
    std::memcpy(&value, digest.bytes().data(), sizeof(value));
    return value;
  }
};
