// Integer arithmetic. All of it wraps around, as on a device, so it is done in unsigned types.

#include <algorithm>
#include <limits>
#include <type_traits>

#include "plugins/softgpu/ptx/operation.h"

namespace softgpu::ptx {
namespace {

__extension__ typedef unsigned __int128 Unsigned128;
__extension__ typedef __int128 Signed128;

template <class T>
using Signed = std::make_signed_t<T>;

// The type that holds every product of two T.
template <class T>
struct WideOf;
template <>
struct WideOf<std::uint16_t> {
  using type = std::uint32_t;
};
template <>
struct WideOf<std::uint32_t> {
  using type = std::uint64_t;
};
template <>
struct WideOf<std::uint64_t> {
  using type = Unsigned128;
};
template <>
struct WideOf<std::int16_t> {
  using type = std::int32_t;
};
template <>
struct WideOf<std::int32_t> {
  using type = std::int64_t;
};
template <>
struct WideOf<std::int64_t> {
  using type = Signed128;
};
template <class T>
using Wide = typename WideOf<T>::type;

// No type is narrower than this in arithmetic, so that products of 16 bits do not overflow an int.
template <class T>
using AtLeast32 = std::conditional_t<sizeof(T) < 4, std::uint32_t, T>;

template <class T>
T MultiplyHigh(T a, T b) {
  return static_cast<T>((Wide<T>{a} * b) >> (8 * sizeof(T)));
}

// Division by zero: what the devices' division sequence leaves; PTX leaves it open.
template <class T>
std::make_unsigned_t<T> Divide(T a, T b) {
  using U = std::make_unsigned_t<T>;
  if (b == 0) return static_cast<U>(~U{0});
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) return static_cast<U>(U{0} - static_cast<U>(a));
  }
  return static_cast<U>(a / b);
}

template <class T>
std::make_unsigned_t<T> Remainder(T a, T b) {
  using U = std::make_unsigned_t<T>;
  if (b == 0) return static_cast<U>(a);
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) return 0;
  }
  return static_cast<U>(a % b);
}

std::uint32_t Saturate32(std::int64_t value) {
  constexpr std::int64_t kLow = std::numeric_limits<std::int32_t>::min();
  constexpr std::int64_t kHigh = std::numeric_limits<std::int32_t>::max();
  return static_cast<std::uint32_t>(std::clamp(value, kLow, kHigh));
}

// What does not depend on the sign: under the names of all types of this size.
template <class U>
void AddSignless(OperationTable* table, const std::string& type) {
  using A = AtLeast32<U>;
  table->Add("add." + type, Map<[](U a, U b) { return static_cast<U>(a + b); }, U, U, U>());
  table->Add("sub." + type, Map<[](U a, U b) { return static_cast<U>(a - b); }, U, U, U>());
  table->Add("mul.lo." + type, Map<[](U a, U b) { return static_cast<U>(A{a} * b); }, U, U, U>());
  table->Add("mad.lo." + type, Map<[](U a, U b, U c) { return static_cast<U>(A{a} * b + c); }, U, U, U, U>());
}

// T: the type of the instruction; U: its rows'.
template <class T>
void AddSigned(OperationTable* table, const std::string& type) {
  using U = std::make_unsigned_t<T>;
  table->Add(
      "mul.hi." + type,
      Map<[](U a, U b) { return static_cast<U>(MultiplyHigh(static_cast<T>(a), static_cast<T>(b))); }, U, U, U>());
  table->Add("mad.hi." + type, Map<[](U a, U b, U c) {
               return static_cast<U>(static_cast<U>(MultiplyHigh(static_cast<T>(a), static_cast<T>(b))) + c);
             },
                                   U, U, U, U>());
  table->Add("div." + type, Map<[](U a, U b) { return Divide(static_cast<T>(a), static_cast<T>(b)); }, U, U, U>());
  table->Add("rem." + type, Map<[](U a, U b) { return Remainder(static_cast<T>(a), static_cast<T>(b)); }, U, U, U>());
  table->Add("min." + type, Map<[](U a, U b) { return static_cast<T>(a) < static_cast<T>(b) ? a : b; }, U, U, U>());
  table->Add("max." + type, Map<[](U a, U b) { return static_cast<T>(a) < static_cast<T>(b) ? b : a; }, U, U, U>());
  table->Add("sad." + type, Map<[](U a, U b, U c) {
               const U distance = static_cast<T>(a) < static_cast<T>(b) ? static_cast<U>(b - a) : static_cast<U>(a - b);
               return static_cast<U>(c + distance);
             },
                                U, U, U, U>());
  if constexpr (std::is_signed_v<T>) {
    table->Add("abs." + type, Map<[](U a) { return static_cast<T>(a) < 0 ? static_cast<U>(U{0} - a) : a; }, U, U>());
    table->Add("neg." + type, Map<[](U a) { return static_cast<U>(U{0} - a); }, U, U>());
  }
  if constexpr (sizeof(T) < 8) {
    using W = std::make_unsigned_t<Wide<T>>;
    table->Add("mul.wide." + type,
               Map<[](U a, U b) { return static_cast<W>(Wide<T>{static_cast<T>(a)} * static_cast<T>(b)); }, W, U, U>());
    table->Add("mad.wide." + type, Map<[](U a, U b, W c) {
                 return static_cast<W>(static_cast<W>(Wide<T>{static_cast<T>(a)} * static_cast<T>(b)) + c);
               },
                                       W, U, U, W>());
  }
}

template <class U>
void AddWidth(OperationTable* table, const std::string& bits) {
  for (const char* sign : {"u", "s", "b"}) AddSignless<U>(table, sign + bits);
  AddSigned<U>(table, "u" + bits);
  AddSigned<Signed<U>>(table, "s" + bits);
}

// The low 24 bits, extended to 32.
template <class T>
std::int64_t Low24(std::uint32_t value) {
  if constexpr (std::is_signed_v<T>) return static_cast<std::int32_t>(value << 8) >> 8;
  return value & 0xFFFFFF;
}

template <class T>
void AddMultiply24(OperationTable* table, const std::string& type) {
  using U = std::uint32_t;
  table->Add("mul24.lo." + type, Map<[](U a, U b) { return static_cast<U>(Low24<T>(a) * Low24<T>(b)); }, U, U, U>());
  table->Add("mul24.hi." + type,
             Map<[](U a, U b) { return static_cast<U>((Low24<T>(a) * Low24<T>(b)) >> 16); }, U, U, U>());
  table->Add("mad24.lo." + type,
             Map<[](U a, U b, U c) { return static_cast<U>(Low24<T>(a) * Low24<T>(b)) + c; }, U, U, U, U>());
  table->Add("mad24.hi." + type,
             Map<[](U a, U b, U c) { return static_cast<U>((Low24<T>(a) * Low24<T>(b)) >> 16) + c; }, U, U, U, U>());
}

void AddSaturating(OperationTable* table) {
  using U = std::uint32_t;
  using S = std::int32_t;
  table->Add("add.sat.s32",
             Map<[](U a, U b) { return Saturate32(std::int64_t{static_cast<S>(a)} + static_cast<S>(b)); }, U, U, U>());
  table->Add("sub.sat.s32",
             Map<[](U a, U b) { return Saturate32(std::int64_t{static_cast<S>(a)} - static_cast<S>(b)); }, U, U, U>());
  table->Add("mad.hi.sat.s32", Map<[](U a, U b, U c) {
               return Saturate32(std::int64_t{MultiplyHigh(static_cast<S>(a), static_cast<S>(b))} + static_cast<S>(c));
             },
                                   U, U, U, U>());
}

template <class A, class B>
std::uint32_t DotProduct4(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  for (int byte = 0; byte < 4; ++byte) {
    const int product = static_cast<A>(a >> (8 * byte)) * static_cast<B>(b >> (8 * byte));
    c += static_cast<std::uint32_t>(product);
  }
  return c;
}

// Rows: sum, carry out, a, b, carry in, c. A carry is a row of its own, of one byte per lane; kNoRow: not wanted, or 0.
template <class U, bool kSubtract>
void AddWithCarry(Block& block, const Instruction& instruction, const Lanes& lanes) {
  U* const d = block.Row<U>(instruction.rows[0]);
  std::uint8_t* const out = instruction.rows[1] == kNoRow ? nullptr : block.Row<std::uint8_t>(instruction.rows[1]);
  const U* const a = block.Row<U>(instruction.rows[2]);
  const U* const b = block.Row<U>(instruction.rows[3]);
  const std::uint8_t* const in = instruction.rows[4] == kNoRow ? nullptr : block.Row<std::uint8_t>(instruction.rows[4]);
  ForEachLane(lanes, [=](std::size_t i) {
    const Unsigned128 carry = in == nullptr ? 0 : in[i];
    const Unsigned128 sum = kSubtract ? Unsigned128{a[i]} - b[i] - carry : Unsigned128{a[i]} + b[i] + carry;
    d[i] = static_cast<U>(sum);
    if (out != nullptr) out[i] = static_cast<std::uint8_t>((sum >> (8 * sizeof(U))) & 1);
  });
}

template <class U>
void AddCarrying(OperationTable* table, const std::string& bits) {
  const auto rows = [](Handler handler) { return Operation{handler, 5, {sizeof(U), 1, sizeof(U), sizeof(U), 1}}; };
  table->Add("carry.add." + bits, rows(&AddWithCarry<U, false>));
  table->Add("carry.sub." + bits, rows(&AddWithCarry<U, true>));
}

}  // namespace

void AddIntegerOperations(OperationTable* table) {
  using U = std::uint32_t;
  AddWidth<std::uint16_t>(table, "16");
  AddWidth<std::uint32_t>(table, "32");
  AddWidth<std::uint64_t>(table, "64");
  AddMultiply24<std::uint32_t>(table, "u32");
  AddMultiply24<std::int32_t>(table, "s32");
  AddSaturating(table);
  AddCarrying<std::uint32_t>(table, "32");
  AddCarrying<std::uint64_t>(table, "64");
  table->Add("dp4a.u32.u32", Map<DotProduct4<std::uint8_t, std::uint8_t>, U, U, U, U>());
  table->Add("dp4a.u32.s32", Map<DotProduct4<std::uint8_t, std::int8_t>, U, U, U, U>());
  table->Add("dp4a.s32.u32", Map<DotProduct4<std::int8_t, std::uint8_t>, U, U, U, U>());
  table->Add("dp4a.s32.s32", Map<DotProduct4<std::int8_t, std::int8_t>, U, U, U, U>());
}

}  // namespace softgpu::ptx
