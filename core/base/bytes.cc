#include "core/base/bytes.h"

#include "core/base/check.h"

namespace gpumig {
namespace {

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

void ByteWriter::Append(std::uint64_t value, int width) {
  for (int i = 0; i < width; ++i) bytes_.push_back(static_cast<std::byte>((value >> (8 * i)) & 0xff));
}

void ByteWriter::Bytes(std::span<const std::byte> bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }

void ByteWriter::Text(std::string_view text) {
  GPUMIG_CHECK(text.size() <= UINT32_MAX);
  U32(static_cast<std::uint32_t>(text.size()));
  Bytes(std::as_bytes(std::span(text)));
}

Result<std::uint64_t> ByteReader::Take(std::size_t width) {
  const std::span<const std::byte> bytes = GPUMIG_TRY(Bytes(width));
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < width; ++i) value |= static_cast<std::uint64_t>(bytes[i]) << (8 * i);
  return value;
}

Result<std::uint8_t> ByteReader::U8() { return static_cast<std::uint8_t>(GPUMIG_TRY(Take(1))); }
Result<std::uint16_t> ByteReader::U16() { return static_cast<std::uint16_t>(GPUMIG_TRY(Take(2))); }
Result<std::uint32_t> ByteReader::U32() { return static_cast<std::uint32_t>(GPUMIG_TRY(Take(4))); }
Result<std::uint64_t> ByteReader::U64() { return GPUMIG_TRY(Take(8)); }

Result<std::span<const std::byte>> ByteReader::Bytes(std::size_t size) {
  if (size > remaining()) {
    return MakeError(ErrorCode::kDamaged, "ends at byte {}, {} bytes early", bytes_.size(), size - remaining());
  }
  const std::span<const std::byte> taken = bytes_.subspan(offset_, size);
  offset_ += size;
  return taken;
}

Result<std::string> ByteReader::Text(std::size_t limit_bytes) {
  const std::uint32_t size = GPUMIG_TRY(U32());
  if (size > limit_bytes) {
    return MakeError(ErrorCode::kDamaged, "text of {} bytes at byte {}, more than the limit of {}", size, offset_,
                     limit_bytes);
  }
  const std::span<const std::byte> bytes = GPUMIG_TRY(Bytes(size));
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::string ToHex(std::span<const std::byte> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const std::byte byte : bytes) {
    text.push_back(kDigits[std::to_integer<unsigned>(byte) >> 4]);
    text.push_back(kDigits[std::to_integer<unsigned>(byte) & 15]);
  }
  return text;
}

Result<std::vector<std::byte>> FromHex(std::string_view text) {
  if (text.size() % 2 != 0) return MakeError(ErrorCode::kInvalidArgument, "hex text of odd length {}", text.size());
  std::vector<std::byte> bytes;
  bytes.reserve(text.size() / 2);
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = HexDigit(text[i]);
    const int low = HexDigit(text[i + 1]);
    if (high < 0 || low < 0) return MakeError(ErrorCode::kInvalidArgument, "not a hex digit near offset {}", i);
    bytes.push_back(static_cast<std::byte>(high * 16 + low));
  }
  return bytes;
}

}  // namespace gpumig
