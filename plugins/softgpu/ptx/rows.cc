#include "plugins/softgpu/ptx/rows.h"

namespace softgpu::ptx {

bool IsUniform(const FixedRow& fixed) {
  if (fixed.kind != FixedRow::Kind::kSpecial) return true;
  switch (fixed.special) {
    case SpecialRegister::kTidX:
    case SpecialRegister::kTidY:
    case SpecialRegister::kTidZ:
    case SpecialRegister::kLaneid:
    case SpecialRegister::kWarpid:
    case SpecialRegister::kLanemaskEq:
    case SpecialRegister::kLanemaskLe:
    case SpecialRegister::kLanemaskLt:
    case SpecialRegister::kLanemaskGe:
    case SpecialRegister::kLanemaskGt:
      return false;
    default:
      return true;
  }
}

std::uint32_t RowAllocator::Allocate(std::uint32_t bytes) {
  if (overflowed()) return 0;
  const std::uint32_t row = next_;
  next_ += bytes;
  return row;
}

std::uint32_t RowAllocator::Temporary(std::uint32_t bytes) {
  std::vector<std::uint32_t>& rows = temporaries_[bytes];
  std::size_t& in_use = temporaries_in_use_[bytes];
  if (in_use == rows.size()) rows.push_back(Allocate(bytes));
  return rows[in_use++];
}

std::uint32_t RowAllocator::Fixed(FixedRow fixed) {
  const auto key = std::tuple(static_cast<int>(fixed.kind), static_cast<int>(fixed.bytes),
                              static_cast<int>(fixed.special), fixed.global, fixed.value);
  const auto [found, is_new] = fixed_by_value_.try_emplace(key, 0);
  if (is_new) {
    found->second = fixed.row = Allocate(fixed.bytes);
    fixed_rows_.push_back(fixed);
  }
  return found->second;
}

std::uint32_t RowAllocator::Value(std::uint32_t bytes, std::uint64_t value) {
  const std::uint64_t mask = bytes == 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * bytes)) - 1;
  return Fixed({.kind = FixedRow::Kind::kValue, .bytes = static_cast<std::uint8_t>(bytes), .value = value & mask});
}

std::uint32_t RowAllocator::GlobalAddress(std::uint32_t global, std::uint64_t addend) {
  return Fixed({.kind = FixedRow::Kind::kGlobalAddress, .bytes = 8, .global = global, .value = addend});
}

std::uint32_t RowAllocator::DynamicShared(std::uint64_t addend) {
  return Fixed({.kind = FixedRow::Kind::kDynamicShared, .bytes = 8, .value = addend});
}

std::uint32_t RowAllocator::Special(SpecialRegister special) {
  const std::uint8_t bytes = special == SpecialRegister::kZero64 ? 8 : 4;
  return Fixed({.kind = FixedRow::Kind::kSpecial, .bytes = bytes, .special = special});
}

}  // namespace softgpu::ptx
