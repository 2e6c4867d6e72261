// The scalar types and state spaces of PTX.
#pragma once

#include <cstdint>
#include <string_view>

namespace softgpu::ptx {

enum class ScalarType : std::uint8_t {
  kNone,
  kPred,
  kB8,
  kB16,
  kB32,
  kB64,
  kU8,
  kU16,
  kU32,
  kU64,
  kS8,
  kS16,
  kS32,
  kS64,
  kF16,
  kBf16,
  kF32,
  kF64,
  kF16x2,
  kBf16x2,
};

enum class Space : std::uint8_t { kNone, kGeneric, kGlobal, kConst, kShared, kLocal, kParam };

// "u32", without the dot. kNone: no such type.
ScalarType TypeNamed(std::string_view name);
// "global", "shared::cta". kNone: no such space.
Space SpaceNamed(std::string_view name);
// Of one value in a register; of a predicate, 1. kNone has 0.
std::uint32_t BytesOf(ScalarType type);
bool IsSigned(ScalarType type);
bool IsFloat(ScalarType type);

}  // namespace softgpu::ptx
