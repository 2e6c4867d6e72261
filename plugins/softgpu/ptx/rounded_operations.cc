// Float arithmetic with .rz, .rm and .rp. Compiled with -frounding-math.

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdint>

#include "plugins/softgpu/ptx/operation.h"

namespace softgpu::ptx {
namespace {

// While one lives, the thread rounds in this direction.
class RoundingScope {
 public:
  explicit RoundingScope(int direction) { std::fesetround(direction); }
  ~RoundingScope() { std::fesetround(FE_TONEAREST); }
  RoundingScope(const RoundingScope&) = delete;
  RoundingScope& operator=(const RoundingScope&) = delete;
};

// The operands come from rows and the results go there, so the compiler cannot move the arithmetic out of the scope.
template <int kDirection, class F, class U, auto kFunction>
void Rounded(Block& block, const Instruction& instruction, const Lanes& lanes) {
  const RoundingScope scope(kDirection);
  U* const d = block.Row<U>(instruction.rows[0]);
  const auto row = [&](std::size_t i) {
    return block.Row<U>(instruction.rows[i] == kNoRow ? instruction.rows[1] : instruction.rows[i]);
  };
  const U* const a = row(1);
  const U* const b = row(2);
  const U* const c = row(3);
  ForEachLane(lanes, [=](std::size_t i) {
    d[i] = Bits(kFunction(std::bit_cast<F>(a[i]), std::bit_cast<F>(b[i]), std::bit_cast<F>(c[i])));
  });
}

template <int kDirection, class F, class U>
void AddDirection(OperationTable* table, const std::string& suffix) {
  const auto rows = [](Handler handler, std::uint8_t count) {
    return Operation{handler, count, {sizeof(U), sizeof(U), sizeof(U), sizeof(U)}};
  };
  table->Add("add." + suffix, rows(&Rounded<kDirection, F, U, [](F a, F b, F) { return a + b; }>, 3));
  table->Add("sub." + suffix, rows(&Rounded<kDirection, F, U, [](F a, F b, F) { return a - b; }>, 3));
  table->Add("mul." + suffix, rows(&Rounded<kDirection, F, U, [](F a, F b, F) { return a * b; }>, 3));
  table->Add("div." + suffix, rows(&Rounded<kDirection, F, U, [](F a, F b, F) { return a / b; }>, 3));
  table->Add("rcp." + suffix, rows(&Rounded<kDirection, F, U, [](F a, F, F) { return F{1} / a; }>, 2));
  table->Add("sqrt." + suffix, rows(&Rounded<kDirection, F, U, [](F a, F, F) { return std::sqrt(a); }>, 2));
  for (const char* name : {"fma.", "mad."}) {
    table->Add(name + suffix, rows(&Rounded<kDirection, F, U, [](F a, F b, F c) { return std::fma(a, b, c); }>, 4));
  }
}

template <class F, class U>
void AddType(OperationTable* table, const std::string& type) {
  AddDirection<FE_TOWARDZERO, F, U>(table, "rz." + type);
  AddDirection<FE_DOWNWARD, F, U>(table, "rm." + type);
  AddDirection<FE_UPWARD, F, U>(table, "rp." + type);
}

}  // namespace

void AddRoundedOperations(OperationTable* table) {
  AddType<float, std::uint32_t>(table, "f32");
  AddType<double, std::uint64_t>(table, "f64");
}

}  // namespace softgpu::ptx
