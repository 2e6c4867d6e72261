// Arithmetic of f16, bf16 and pairs of them. Sums and products are exact in double, but for sums of operands that lie
// far apart; those are rounded to odd first, so that each result is rounded once.

#include <bit>
#include <cmath>
#include <cstdint>

#include "plugins/softgpu/ptx/half.h"
#include "plugins/softgpu/ptx/operation.h"

namespace softgpu::ptx {
namespace {

using U16 = std::uint16_t;
using U32 = std::uint32_t;

struct Half {
  static double Widen(U16 bits) { return static_cast<double>(HalfToFloat(bits)); }
  static U16 Narrow(double value) { return DoubleToHalf(value); }
};

struct Bfloat {
  static double Widen(U16 bits) { return static_cast<double>(BfloatToFloat(bits)); }
  static U16 Narrow(double value) { return FloatToBfloat(RoundToOdd(value)); }
};

// a + b, if inexact the neighbour whose last bit is 1. Source: Boldo and Melquiond, "Emulation of FMA and correctly
// rounded sums: proved algorithms using rounding to odd".
double AddToOdd(double a, double b) {
  const double sum = a + b;
  if (!std::isfinite(sum)) return sum;
  const double b_part = sum - a;
  const double error = (a - (sum - b_part)) + (b - b_part);
  const auto bits = std::bit_cast<std::uint64_t>(sum);
  if (error == 0 || (bits & 1) != 0) return sum;
  return std::bit_cast<double>((error > 0) == (sum > 0) ? bits + 1 : bits - 1);
}

template <class F>
U16 Fma(U16 a, U16 b, U16 c) {
  return F::Narrow(AddToOdd(F::Widen(a) * F::Widen(b), F::Widen(c)));
}
template <class F>
U16 Add(U16 a, U16 b) {
  return F::Narrow(AddToOdd(F::Widen(a), F::Widen(b)));
}
template <class F>
U16 Subtract(U16 a, U16 b) {
  return F::Narrow(AddToOdd(F::Widen(a), -F::Widen(b)));
}
template <class F>
U16 Multiply(U16 a, U16 b) {
  return F::Narrow(F::Widen(a) * F::Widen(b));
}

template <class F, bool kMaximum>
U16 Extreme(U16 x, U16 y) {
  const double a = F::Widen(x);
  const double b = F::Widen(y);
  if (a != a) return b != b ? U16{0x7FFF} : y;
  if (b != b) return x;
  if (a == b) return static_cast<U16>(kMaximum ? x & y : x | y);
  return (kMaximum ? a > b : a < b) ? x : y;
}

template <auto F, class... S>
U32 OfPair(S... operands) {
  const U32 low = F(static_cast<U16>(operands)...);
  const U32 high = F(static_cast<U16>(operands >> 16)...);
  return low | (high << 16);
}

template <auto F>
void AddUnary(OperationTable* table, const std::string& name) {
  table->Add(name, Map<F, U16, U16>());
  table->Add(name + "x2", Map<OfPair<F, U32>, U32, U32>());
}
template <auto F>
void AddBinary(OperationTable* table, const std::string& name) {
  table->Add(name, Map<F, U16, U16, U16>());
  table->Add(name + "x2", Map<OfPair<F, U32, U32>, U32, U32, U32>());
}

template <class F>
void AddType(OperationTable* table, const std::string& type) {
  AddBinary<Add<F>>(table, "add." + type);
  AddBinary<Subtract<F>>(table, "sub." + type);
  AddBinary<Multiply<F>>(table, "mul." + type);
  AddBinary<Extreme<F, false>>(table, "min." + type);
  AddBinary<Extreme<F, true>>(table, "max." + type);
  AddUnary<[](U16 a) { return static_cast<U16>(a ^ 0x8000); }>(table, "neg." + type);
  AddUnary<[](U16 a) { return static_cast<U16>(a & 0x7FFF); }>(table, "abs." + type);
  table->Add("fma." + type, Map<Fma<F>, U16, U16, U16, U16>());
  table->Add("fma." + type + "x2", Map<OfPair<Fma<F>, U32, U32, U32>, U32, U32, U32, U32>());
}

}  // namespace

void AddHalfOperations(OperationTable* table) {
  AddType<Half>(table, "f16");
  AddType<Bfloat>(table, "bf16");
}

}  // namespace softgpu::ptx
