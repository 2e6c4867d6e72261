// Comparisons, selection, and logic of predicates. A predicate is a byte, 0 or 1.

#include <bit>
#include <cstdint>
#include <type_traits>

#include "plugins/softgpu/ptx/half.h"
#include "plugins/softgpu/ptx/operation.h"

namespace softgpu::ptx {
namespace {

using U8 = std::uint8_t;
using U16 = std::uint16_t;
using U32 = std::uint32_t;
using U64 = std::uint64_t;

template <class U, class T>
void AddIntegerOrder(OperationTable* table, const std::string& type) {
  const auto add = [&](const char* name, const char* alias, const Operation& operation) {
    table->Add(std::string("setp.") + name + "." + type, operation);
    if (std::is_unsigned_v<T>) table->Add(std::string("setp.") + alias + "." + type, operation);
  };
  add("lt", "lo", Map<[](U a, U b) { return static_cast<T>(a) < static_cast<T>(b); }, U8, U, U>());
  add("le", "ls", Map<[](U a, U b) { return static_cast<T>(a) <= static_cast<T>(b); }, U8, U, U>());
  add("gt", "hi", Map<[](U a, U b) { return (static_cast<T>(a) > static_cast<T>(b)); }, U8, U, U>());
  add("ge", "hs", Map<[](U a, U b) { return static_cast<T>(a) >= static_cast<T>(b); }, U8, U, U>());
}

template <class U>
void AddIntegers(OperationTable* table, const std::string& bits) {
  for (const char* sign : {"b", "u", "s"}) {
    table->Add("setp.eq." + (sign + bits), Map<[](U a, U b) { return a == b; }, U8, U, U>());
    table->Add("setp.ne." + (sign + bits), Map<[](U a, U b) { return a != b; }, U8, U, U>());
  }
  AddIntegerOrder<U, U>(table, "u" + bits);
  AddIntegerOrder<U, std::make_signed_t<U>>(table, "s" + bits);
}

inline float WidenFloat(U32 bits) { return std::bit_cast<float>(bits); }
inline double WidenDouble(U64 bits) { return std::bit_cast<double>(bits); }

// The ordered comparisons are false of a NaN, those with a "u" are true.
template <class U, auto kWiden>
void AddFloats(OperationTable* table, const std::string& type) {
  const auto add = [&](const char* name, const Operation& operation) {
    table->Add(std::string("setp.") + name + "." + type, operation);
  };
  add("eq", Map<[](U a, U b) { return kWiden(a) == kWiden(b); }, U8, U, U>());
  add("ne", Map<[](U a, U b) { return (kWiden(a) < kWiden(b)) | (kWiden(a) > kWiden(b)); }, U8, U, U>());
  add("lt", Map<[](U a, U b) { return kWiden(a) < kWiden(b); }, U8, U, U>());
  add("le", Map<[](U a, U b) { return kWiden(a) <= kWiden(b); }, U8, U, U>());
  add("gt", Map<[](U a, U b) { return (kWiden(a) > kWiden(b)); }, U8, U, U>());
  add("ge", Map<[](U a, U b) { return kWiden(a) >= kWiden(b); }, U8, U, U>());
  add("equ", Map<[](U a, U b) { return !((kWiden(a) < kWiden(b)) | (kWiden(a) > kWiden(b))); }, U8, U, U>());
  add("neu", Map<[](U a, U b) { return !(kWiden(a) == kWiden(b)); }, U8, U, U>());
  add("ltu", Map<[](U a, U b) { return !(kWiden(a) >= kWiden(b)); }, U8, U, U>());
  add("leu", Map<[](U a, U b) { return !(kWiden(a) > kWiden(b)); }, U8, U, U>());
  add("gtu", Map<[](U a, U b) { return !(kWiden(a) <= kWiden(b)); }, U8, U, U>());
  add("geu", Map<[](U a, U b) { return !(kWiden(a) < kWiden(b)); }, U8, U, U>());
  add("num", Map<[](U a, U b) { return (kWiden(a) == kWiden(a)) & (kWiden(b) == kWiden(b)); }, U8, U, U>());
  add("nan", Map<[](U a, U b) { return (kWiden(a) != kWiden(a)) | (kWiden(b) != kWiden(b)); }, U8, U, U>());
}

template <class U>
void AddSelection(OperationTable* table, const std::string& bytes) {
  table->Add("select." + bytes, Map<[](U a, U b, U8 choice) { return choice != 0 ? a : b; }, U, U, U, U8>());
  table->Add("slct." + bytes + ".s32",
             Map<[](U a, U b, U32 c) { return static_cast<std::int32_t>(c) >= 0 ? a : b; }, U, U, U, U32>());
  // -0 counts as 0; a NaN selects b. Source: PTX ISA 8.5, slct.
  table->Add("slct." + bytes + ".f32", Map<[](U a, U b, U32 c) { return WidenFloat(c) >= 0 ? a : b; }, U, U, U, U32>());
}

}  // namespace

void AddPredicateOperations(OperationTable* table) {
  AddIntegers<U16>(table, "16");
  AddIntegers<U32>(table, "32");
  AddIntegers<U64>(table, "64");
  AddFloats<U32, WidenFloat>(table, "f32");
  AddFloats<U64, WidenDouble>(table, "f64");
  AddFloats<U16, HalfToFloat>(table, "f16");
  AddFloats<U16, BfloatToFloat>(table, "bf16");
  AddSelection<U8>(table, "1");
  AddSelection<U16>(table, "2");
  AddSelection<U32>(table, "4");
  AddSelection<U64>(table, "8");
  table->Add("and.pred", Map<[](U8 a, U8 b) { return a & b; }, U8, U8, U8>());
  table->Add("or.pred", Map<[](U8 a, U8 b) { return a | b; }, U8, U8, U8>());
  table->Add("xor.pred", Map<[](U8 a, U8 b) { return a ^ b; }, U8, U8, U8>());
  table->Add("not.pred", Map<[](U8 a) { return a ^ 1; }, U8, U8>());
}

}  // namespace softgpu::ptx
