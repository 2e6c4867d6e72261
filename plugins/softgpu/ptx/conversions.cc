// cvt to and from floats.

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "plugins/softgpu/ptx/half.h"
#include "plugins/softgpu/ptx/operation.h"

namespace softgpu::ptx {
namespace {

using U16 = std::uint16_t;
using U32 = std::uint32_t;
using U64 = std::uint64_t;
__extension__ typedef __int128 Signed128;

enum class Rounding { kNearest, kZero, kDown, kUp };

// --- The next float up or down, in sign-and-magnitude bits.

template <class U>
U StepUp(U bits) {
  constexpr U kSign = static_cast<U>(U{1} << (8 * sizeof(U) - 1));
  if (bits == kSign) return 1;
  return static_cast<U>((bits & kSign) != 0 ? bits - 1 : bits + 1);
}
template <class U>
U StepDown(U bits) {
  constexpr U kSign = static_cast<U>(U{1} << (8 * sizeof(U) - 1));
  if (bits == 0) return static_cast<U>(kSign | 1);
  return static_cast<U>((bits & kSign) != 0 ? bits + 1 : bits - 1);
}

// `nearest` corrected: `order` is how the value it stands for compares with the exact one.
template <Rounding kMode, class U>
U Correct(U nearest, int order, bool negative) {
  if (kMode == Rounding::kUp && order < 0) return StepUp(nearest);
  if (kMode == Rounding::kDown && order > 0) return StepDown(nearest);
  if (kMode == Rounding::kZero && order > 0 && !negative) return StepDown(nearest);
  if (kMode == Rounding::kZero && order < 0 && negative) return StepUp(nearest);
  return nearest;
}

template <class T>
int Order(T a, T b) {
  return (a > b) - (a < b);
}

// --- The formats.

struct Half {
  using Row = U16;
  using Value = float;
  static Value Widen(Row bits) { return HalfToFloat(bits); }
  static Row Nearest(double value) { return DoubleToHalf(value); }
};
struct Bfloat {
  using Row = U16;
  using Value = float;
  static Value Widen(Row bits) { return BfloatToFloat(bits); }
  static Row Nearest(double value) { return FloatToBfloat(RoundToOdd(value)); }
};
struct Single {
  using Row = U32;
  using Value = float;
  static Value Widen(Row bits) { return AsFloat(bits); }
  static Row Nearest(double value) { return Bits(static_cast<float>(value)); }
};
struct Double {
  using Row = U64;
  using Value = double;
  static Value Widen(Row bits) { return AsDouble(bits); }
  static Row Nearest(double value) { return Bits(value); }
};

template <class D, Rounding kMode>
typename D::Row NarrowFloat(double exact) {
  const typename D::Row nearest = D::Nearest(exact);
  if constexpr (kMode == Rounding::kNearest) return nearest;
  return Correct<kMode>(nearest, Order(static_cast<double>(D::Widen(nearest)), exact), exact < 0);
}

int OrderOfInteger(double value, Signed128 exact) {
  if (std::isinf(value)) return value > 0 ? 1 : -1;
  return Order(static_cast<Signed128>(value), exact);
}

// See RoundToOdd().
template <class T>
float IntegerToOdd(T exact) {
  const auto nearest = static_cast<float>(exact);
  const auto bits = std::bit_cast<U32>(nearest);
  const int order = OrderOfInteger(static_cast<double>(nearest), static_cast<Signed128>(exact));
  if (order == 0 || (bits & 1) != 0) return nearest;
  return AsFloat(order > 0 ? StepDown(bits) : StepUp(bits));
}

// A double on the way would round too, but for f16, which is infinite long before a double is inexact.
template <class D, class T, Rounding kMode>
typename D::Row FromInteger(T exact) {
  typename D::Row nearest = 0;
  if constexpr (std::is_same_v<D, Single>) {
    nearest = std::bit_cast<U32>(static_cast<float>(exact));
  } else if constexpr (std::is_same_v<D, Bfloat>) {
    nearest = FloatToBfloat(IntegerToOdd(exact));
  } else {
    nearest = D::Nearest(static_cast<double>(exact));
  }
  if constexpr (kMode == Rounding::kNearest) return nearest;
  return Correct<kMode>(nearest, OrderOfInteger(static_cast<double>(D::Widen(nearest)), static_cast<Signed128>(exact)),
                        exact < 0);
}

template <Rounding kMode, class F>
F RoundToIntegral(F value) {
  if (kMode == Rounding::kNearest) return std::nearbyint(value);
  if (kMode == Rounding::kZero) return std::trunc(value);
  return kMode == Rounding::kDown ? std::floor(value) : std::ceil(value);
}

// Out of range: the nearest integer of the type. A NaN: 0, but of or to 64 bits the top bit. Source: PTX ISA 8.5, cvt.
template <class T, class S, Rounding kMode>
std::make_unsigned_t<T> ToInteger(typename S::Row bits) {
  using U = std::make_unsigned_t<T>;
  using F = typename S::Value;
  constexpr U kTop = static_cast<U>(U{1} << (8 * sizeof(U) - 1));
  const F value = S::Widen(bits);
  if (value != value) return sizeof(T) == 8 || sizeof(F) == 8 ? kTop : U{0};
  const F rounded = RoundToIntegral<kMode>(value);
  const F limit = std::ldexp(F{1}, std::numeric_limits<T>::digits);
  if (rounded >= limit) return static_cast<U>(std::numeric_limits<T>::max());
  if (std::is_signed_v<T> ? rounded < -limit : rounded < 0) return static_cast<U>(std::numeric_limits<T>::min());
  return static_cast<U>(static_cast<T>(rounded));
}

// --- The names.

template <Rounding kMode, class D, class T>
void AddFromInteger(OperationTable* table, const std::string& mode, const std::string& to, const std::string& from) {
  using U = std::make_unsigned_t<T>;
  table->Add("cvt.r" + mode + "." + to + "." + from,
             Map<[](U a) { return FromInteger<D, T, kMode>(static_cast<T>(a)); }, typename D::Row, U>());
}

template <Rounding kMode, class F, class T>
void AddWithInteger(OperationTable* table, const std::string& mode, const std::string& of_float,
                    const std::string& of_integer) {
  using U = std::make_unsigned_t<T>;
  AddFromInteger<kMode, F, T>(table, mode, of_float, of_integer);
  table->Add("cvt.r" + mode + "i." + of_integer + "." + of_float, Map<ToInteger<T, F, kMode>, U, typename F::Row>());
}

template <Rounding kMode, class F>
void AddWithIntegers(OperationTable* table, const std::string& mode, const std::string& type) {
  AddWithInteger<kMode, F, std::uint8_t>(table, mode, type, "u8");
  AddWithInteger<kMode, F, std::uint16_t>(table, mode, type, "u16");
  AddWithInteger<kMode, F, std::uint32_t>(table, mode, type, "u32");
  AddWithInteger<kMode, F, std::uint64_t>(table, mode, type, "u64");
  AddWithInteger<kMode, F, std::int8_t>(table, mode, type, "s8");
  AddWithInteger<kMode, F, std::int16_t>(table, mode, type, "s16");
  AddWithInteger<kMode, F, std::int32_t>(table, mode, type, "s32");
  AddWithInteger<kMode, F, std::int64_t>(table, mode, type, "s64");
  // Within the format, to a whole number.
  using Row = typename F::Row;
  table->Add(
      "cvt.r" + mode + "i." + type + "." + type,
      Map<[](Row a) { return F::Nearest(static_cast<double>(RoundToIntegral<kMode>(F::Widen(a)))); }, Row, Row>());
}

template <Rounding kMode, class D, class S>
void AddNarrowing(OperationTable* table, const std::string& name) {
  using From = typename S::Row;
  table->Add(
      "cvt." + name,
      Map<[](From a) { return NarrowFloat<D, kMode>(static_cast<double>(S::Widen(a))); }, typename D::Row, From>());
}

template <Rounding kMode, class D>
U32 NarrowPair(U32 high, U32 low) {
  const U32 first = NarrowFloat<D, kMode>(static_cast<double>(AsFloat(high)));
  return (first << 16) | NarrowFloat<D, kMode>(static_cast<double>(AsFloat(low)));
}

template <Rounding kMode>
void AddMode(OperationTable* table, const std::string& mode) {
  AddWithIntegers<kMode, Half>(table, mode, "f16");
  AddWithIntegers<kMode, Bfloat>(table, mode, "bf16");
  AddWithIntegers<kMode, Single>(table, mode, "f32");
  AddWithIntegers<kMode, Double>(table, mode, "f64");
  AddNarrowing<kMode, Single, Double>(table, "r" + mode + ".f32.f64");
  AddNarrowing<kMode, Half, Double>(table, "r" + mode + ".f16.f64");
  AddNarrowing<kMode, Half, Single>(table, "r" + mode + ".f16.f32");
  AddNarrowing<kMode, Bfloat, Double>(table, "r" + mode + ".bf16.f64");
  AddNarrowing<kMode, Bfloat, Single>(table, "r" + mode + ".bf16.f32");
  table->Add("cvt.r" + mode + ".f16x2.f32", Map<NarrowPair<kMode, Half>, U32, U32, U32>());
  table->Add("cvt.r" + mode + ".bf16x2.f32", Map<NarrowPair<kMode, Bfloat>, U32, U32, U32>());
}

}  // namespace

void AddConversions(OperationTable* table) {
  AddMode<Rounding::kNearest>(table, "n");
  AddMode<Rounding::kZero>(table, "z");
  AddMode<Rounding::kDown>(table, "m");
  AddMode<Rounding::kUp>(table, "p");
  AddNarrowing<Rounding::kNearest, Double, Single>(table, "f64.f32");
  AddNarrowing<Rounding::kNearest, Double, Half>(table, "f64.f16");
  AddNarrowing<Rounding::kNearest, Double, Bfloat>(table, "f64.bf16");
  AddNarrowing<Rounding::kNearest, Single, Half>(table, "f32.f16");
  AddNarrowing<Rounding::kNearest, Single, Bfloat>(table, "f32.bf16");
  table->Add("cvt.f16.f16", Map<[](U16 a) { return a; }, U16, U16>());
  table->Add("cvt.bf16.bf16", Map<[](U16 a) { return a; }, U16, U16>());
  table->Add("cvt.f32.f32", Map<[](U32 a) { return a; }, U32, U32>());
  table->Add("cvt.f64.f64", Map<[](U64 a) { return a; }, U64, U64>());
}

}  // namespace softgpu::ptx
