// Fixed-width little-endian integers in byte strings: how every binary format of ours is written and read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"

namespace gpumig {

// Appends to a growing byte string.
class ByteWriter {
 public:
  void U8(std::uint8_t value) { Append(value, 1); }
  void U16(std::uint16_t value) { Append(value, 2); }
  void U32(std::uint32_t value) { Append(value, 4); }
  void U64(std::uint64_t value) { Append(value, 8); }
  void Bytes(std::span<const std::byte> bytes);
  // u32 length, then the bytes.
  void Text(std::string_view text);

  const std::vector<std::byte>& bytes() const { return bytes_; }
  std::vector<std::byte> Take() { return std::move(bytes_); }

 private:
  void Append(std::uint64_t value, int width);

  std::vector<std::byte> bytes_;
};

// Reads hostile bytes: never past the end, never a length above the limit given. Errors: kDamaged.
//
// Ownership: borrows the bytes.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  Result<std::uint8_t> U8();
  Result<std::uint16_t> U16();
  Result<std::uint32_t> U32();
  Result<std::uint64_t> U64();
  Result<std::span<const std::byte>> Bytes(std::size_t size);
  Result<std::string> Text(std::size_t limit_bytes);

  std::size_t offset() const { return offset_; }
  std::size_t remaining() const { return bytes_.size() - offset_; }

 private:
  Result<std::uint64_t> Take(std::size_t width);

  std::span<const std::byte> bytes_;
  std::size_t offset_ = 0;
};

// Lower-case hexadecimal. FromHex errors: kInvalidArgument.
std::string ToHex(std::span<const std::byte> bytes);
Result<std::vector<std::byte>> FromHex(std::string_view text);

}  // namespace gpumig
