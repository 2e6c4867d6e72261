#include "plugins/softgpu/ptx/types.h"

#include <algorithm>
#include <array>

namespace softgpu::ptx {
namespace {

struct NamedType {
  std::string_view name;
  ScalarType type;
  std::uint32_t bytes;
};

constexpr std::array kTypes = {
    NamedType{"none", ScalarType::kNone, 0},   NamedType{"pred", ScalarType::kPred, 1},
    NamedType{"b8", ScalarType::kB8, 1},       NamedType{"b16", ScalarType::kB16, 2},
    NamedType{"b32", ScalarType::kB32, 4},     NamedType{"b64", ScalarType::kB64, 8},
    NamedType{"u8", ScalarType::kU8, 1},       NamedType{"u16", ScalarType::kU16, 2},
    NamedType{"u32", ScalarType::kU32, 4},     NamedType{"u64", ScalarType::kU64, 8},
    NamedType{"s8", ScalarType::kS8, 1},       NamedType{"s16", ScalarType::kS16, 2},
    NamedType{"s32", ScalarType::kS32, 4},     NamedType{"s64", ScalarType::kS64, 8},
    NamedType{"f16", ScalarType::kF16, 2},     NamedType{"bf16", ScalarType::kBf16, 2},
    NamedType{"f32", ScalarType::kF32, 4},     NamedType{"f64", ScalarType::kF64, 8},
    NamedType{"f16x2", ScalarType::kF16x2, 4}, NamedType{"bf16x2", ScalarType::kBf16x2, 4},
};

}  // namespace

ScalarType TypeNamed(std::string_view name) {
  const auto found = std::ranges::find(kTypes, name, &NamedType::name);
  return found == kTypes.end() ? ScalarType::kNone : found->type;
}

Space SpaceNamed(std::string_view name) {
  if (name == "global") return Space::kGlobal;
  if (name == "const") return Space::kConst;
  if (name == "shared" || name == "shared::cta") return Space::kShared;
  if (name == "local") return Space::kLocal;
  if (name == "param" || name == "param::entry" || name == "param::func") return Space::kParam;
  return Space::kNone;
}

std::uint32_t BytesOf(ScalarType type) { return kTypes[static_cast<std::size_t>(type)].bytes; }

bool IsSigned(ScalarType type) { return type >= ScalarType::kS8 && type <= ScalarType::kS64; }

bool IsFloat(ScalarType type) { return type >= ScalarType::kF16; }

}  // namespace softgpu::ptx
