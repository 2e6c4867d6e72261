// The 16-bit floats as bits, to and from float and double.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace softgpu::ptx {

__extension__ typedef _Float16 NativeHalf;

inline float HalfToFloat(std::uint16_t bits) { return static_cast<float>(std::bit_cast<NativeHalf>(bits)); }
inline float BfloatToFloat(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

// To nearest, ties to even; a NaN becomes the one that devices use.
inline std::uint16_t FloatToHalf(float value) {
  return value != value ? std::uint16_t{0x7FFF} : std::bit_cast<std::uint16_t>(static_cast<NativeHalf>(value));
}
inline std::uint16_t DoubleToHalf(double value) {
  return value != value ? std::uint16_t{0x7FFF} : std::bit_cast<std::uint16_t>(static_cast<NativeHalf>(value));
}
inline std::uint16_t FloatToBfloat(float value) {
  if (value != value) return 0x7FFF;
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// A float that rounds to 16 bits as `value` does: of the two neighbours of an inexact value the odd one, so that
// rounding twice is rounding once.
inline float RoundToOdd(double value) {
  const auto nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || value != value || std::isinf(nearest)) return nearest;
  const auto bits = std::bit_cast<std::uint32_t>(nearest);
  if ((bits & 1) != 0) return nearest;
  const bool away = std::fabs(value) > std::fabs(static_cast<double>(nearest));
  return std::bit_cast<float>(away ? bits + 1 : bits - 1);
}

}  // namespace softgpu::ptx
