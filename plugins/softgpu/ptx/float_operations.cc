// Float arithmetic, rounded to nearest, and the approximations, which are exact to the last place or nearly.
//
// Compiled without contraction: only fma and mad are fused.

#include <bit>
#include <cmath>
#include <cstdint>

#include "plugins/softgpu/ptx/operation.h"

namespace softgpu::ptx {
namespace {

using U32 = std::uint32_t;
using U64 = std::uint64_t;

template <class F>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = U32;
};
template <>
struct BitsOf<double> {
  using type = U64;
};

template <class F>
F As(typename BitsOf<F>::type bits) {
  return std::bit_cast<F>(bits);
}

// -0 is less than +0, and a NaN loses against a number. Source: PTX ISA 8.5, min and max.
template <class F, bool kMaximum, bool kNanWins>
auto Extreme(typename BitsOf<F>::type x, typename BitsOf<F>::type y) {
  const F a = As<F>(x);
  const F b = As<F>(y);
  if (kNanWins && (a != a || b != b)) return Bits(std::numeric_limits<F>::quiet_NaN());
  const auto equal = kMaximum ? x & y : x | y;  // Zeroes of both signs.
  const bool takes_a = kMaximum ? a > b : a < b;
  const auto ordered = a == b ? equal : takes_a ? x : y;
  const auto number = a != a ? y : b != b ? x : ordered;
  return Bits(As<F>(number));
}

template <class F>
auto Reciprocal(typename BitsOf<F>::type x) {
  return Bits(F{1} / As<F>(x));
}

template <class F>
auto ReciprocalRoot(typename BitsOf<F>::type x) {
  return Bits(static_cast<F>(1 / std::sqrt(static_cast<double>(As<F>(x)))));
}

template <class F>
void AddArithmetic(OperationTable* table, const std::string& type) {
  using U = typename BitsOf<F>::type;
  table->Add("add." + type, Map<[](U a, U b) { return Bits(As<F>(a) + As<F>(b)); }, U, U, U>());
  table->Add("sub." + type, Map<[](U a, U b) { return Bits(As<F>(a) - As<F>(b)); }, U, U, U>());
  table->Add("mul." + type, Map<[](U a, U b) { return Bits(As<F>(a) * As<F>(b)); }, U, U, U>());
  table->Add("div." + type, Map<[](U a, U b) { return Bits(As<F>(a) / As<F>(b)); }, U, U, U>());
  for (const char* name : {"fma.", "mad."}) {
    table->Add(name + type,
               Map<[](U a, U b, U c) { return Bits(std::fma(As<F>(a), As<F>(b), As<F>(c))); }, U, U, U, U>());
  }
  table->Add("sqrt." + type, Map<[](U a) { return Bits(std::sqrt(As<F>(a))); }, U, U>());
  table->Add("rcp." + type, Map<Reciprocal<F>, U, U>());
  table->Add("rsqrt.approx." + type, Map<ReciprocalRoot<F>, U, U>());
  table->Add("min." + type, Map<Extreme<F, false, false>, U, U, U>());
  table->Add("max." + type, Map<Extreme<F, true, false>, U, U, U>());
  constexpr U kSign = U{1} << (8 * sizeof(U) - 1);
  table->Add("neg." + type, Map<[](U a) { return a ^ kSign; }, U, U>());
  table->Add("abs." + type, Map<[](U a) { return a & ~kSign; }, U, U>());
  table->Add("copysign." + type, Map<[](U a, U b) { return (a & kSign) | (b & ~kSign); }, U, U, U>());
}

void AddApproximations(OperationTable* table) {
  table->Add("div.full.f32", *table->Find("div.f32"));
  table->Add("div.approx.f32", *table->Find("div.f32"));
  table->Add("rcp.approx.f32", *table->Find("rcp.f32"));
  table->Add("rcp.approx.f64", *table->Find("rcp.f64"));
  table->Add("sqrt.approx.f32", *table->Find("sqrt.f32"));
  table->Add("ex2.approx.f32", Map<[](U32 a) { return Bits(std::exp2(AsFloat(a))); }, U32, U32>());
  table->Add("lg2.approx.f32", Map<[](U32 a) { return Bits(std::log2(AsFloat(a))); }, U32, U32>());
  table->Add("sin.approx.f32", Map<[](U32 a) { return Bits(std::sin(AsFloat(a))); }, U32, U32>());
  table->Add("cos.approx.f32", Map<[](U32 a) { return Bits(std::cos(AsFloat(a))); }, U32, U32>());
  table->Add("tanh.approx.f32", Map<[](U32 a) { return Bits(std::tanh(AsFloat(a))); }, U32, U32>());
}

// What .sat and .ftz become.
void AddModifiers(OperationTable* table) {
  table->Add("saturate.f32", Map<[](U32 a) {
               const float x = AsFloat(a);
               return (x > 0.0f) ? (x < 1.0f ? a : 0x3F800000u) : 0u;  // A NaN, and -0, become +0.
             },
                                 U32, U32>());
  table->Add("saturate.f64", Map<[](U64 a) {
               const double x = AsDouble(a);
               return (x > 0.0) ? (x < 1.0 ? a : 0x3FF0000000000000u) : U64{0};
             },
                                 U64, U64>());
  table->Add("flush.f32", Map<[](U32 a) { return (a & 0x7F800000u) == 0 ? a & 0x80000000u : a; }, U32, U32>());
}

template <class F>
void AddClasses(OperationTable* table, const std::string& type) {
  using U = typename BitsOf<F>::type;
  using P = std::uint8_t;
  table->Add("testp.finite." + type, Map<[](U a) { return std::isfinite(As<F>(a)); }, P, U>());
  table->Add("testp.infinite." + type, Map<[](U a) { return std::isinf(As<F>(a)); }, P, U>());
  table->Add("testp.number." + type, Map<[](U a) { return !std::isnan(As<F>(a)); }, P, U>());
  table->Add("testp.notanumber." + type, Map<[](U a) { return std::isnan(As<F>(a)); }, P, U>());
  table->Add("testp.normal." + type, Map<[](U a) { return std::isnormal(As<F>(a)); }, P, U>());
  table->Add("testp.subnormal." + type, Map<[](U a) { return std::fpclassify(As<F>(a)) == FP_SUBNORMAL; }, P, U>());
}

}  // namespace

void AddFloatOperations(OperationTable* table) {
  AddArithmetic<float>(table, "f32");
  AddArithmetic<double>(table, "f64");
  AddApproximations(table);
  AddModifiers(table);
  AddClasses<float>(table, "f32");
  AddClasses<double>(table, "f64");
  table->Add("min.NaN.f32", Map<Extreme<float, false, true>, U32, U32, U32>());
  table->Add("max.NaN.f32", Map<Extreme<float, true, true>, U32, U32, U32>());
}

}  // namespace softgpu::ptx
