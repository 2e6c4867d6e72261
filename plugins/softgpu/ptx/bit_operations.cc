// Logic, shifts, bit fields and moves.

#include <algorithm>
#include <bit>
#include <type_traits>

#include "plugins/softgpu/ptx/operation.h"

namespace softgpu::ptx {
namespace {

using U8 = std::uint8_t;
using U16 = std::uint16_t;
using U32 = std::uint32_t;
using U64 = std::uint64_t;

template <class U>
constexpr U32 kBits = 8 * sizeof(U);

template <class U>
U ShiftLeft(U value, U32 amount) {
  return amount >= kBits<U> ? U{0} : static_cast<U>(U64{value} << amount);
}

template <class U>
U ShiftRight(U value, U32 amount) {
  return amount >= kBits<U> ? U{0} : static_cast<U>(value >> amount);
}

template <class U>
U ShiftRightSigned(U value, U32 amount) {
  return static_cast<U>(static_cast<std::make_signed_t<U>>(value) >> std::min(amount, kBits<U> - 1));
}

template <class U>
U ReverseBits(U value) {
  U reversed = 0;
  for (U32 bit = 0; bit < kBits<U>; ++bit)
    reversed = static_cast<U>(reversed | (((value >> bit) & 1) << (kBits<U> - 1 - bit)));
  return reversed;
}

// The position of the highest bit that is not the sign; all ones if there is none.
template <class T>
U32 FindHighest(std::make_unsigned_t<T> value) {
  using U = std::make_unsigned_t<T>;
  if (std::is_signed_v<T> && static_cast<T>(value) < 0) value = static_cast<U>(~value);
  return value == 0 ? ~U32{0} : static_cast<U32>(std::bit_width(value)) - 1;
}

template <class T>
U32 FindHighestShift(std::make_unsigned_t<T> value) {
  const U32 found = FindHighest<T>(value);
  return found == ~U32{0} ? found : kBits<T> - 1 - found;
}

template <class U>
U LowMask(U32 length) {
  return length >= kBits<U> ? static_cast<U>(~U{0}) : static_cast<U>((U{1} << length) - 1);
}

// Source: PTX ISA 8.5, bfe.
template <class T>
std::make_unsigned_t<T> ExtractField(std::make_unsigned_t<T> value, U32 position, U32 length) {
  using U = std::make_unsigned_t<T>;
  position &= 0xFF;
  length &= 0xFF;
  const U mask = LowMask<U>(length);
  const U sign_bit = static_cast<U>((value >> std::min(position + length - (length > 0), kBits<U> - 1)) & 1);
  const bool extend = std::is_signed_v<T> && length > 0 && sign_bit != 0;
  // What lies beyond the value reads as the sign.
  const U field = extend ? ShiftRightSigned<U>(value, position) : ShiftRight<U>(value, position);
  if (extend && position + length > kBits<U>) {
    const U valid = position >= kBits<U> ? U{0} : LowMask<U>(kBits<U> - position);
    return static_cast<U>((field & valid) | ~valid);
  }
  return extend ? static_cast<U>(field | ~mask) : static_cast<U>(field & mask);
}

template <class U>
U InsertField(U field, U base, U32 position, U32 length) {
  position &= 0xFF;
  length &= 0xFF;
  const U mask = ShiftLeft<U>(LowMask<U>(length), position);
  return static_cast<U>((base & ~mask) | (ShiftLeft<U>(field, position) & mask));
}

U32 Lop3(U32 a, U32 b, U32 c, U32 table) {
  U32 result = 0;
  for (U32 row = 0; row < 8; ++row) {
    const U32 selected = ((row & 4) != 0 ? a : ~a) & ((row & 2) != 0 ? b : ~b) & ((row & 1) != 0 ? c : ~c);
    result |= ((table >> row) & 1) != 0 ? selected : 0;
  }
  return result;
}

U32 ByteOf(U32 a, U32 b, U32 selector) {
  const U64 bytes = (U64{b} << 32) | a;
  return static_cast<U32>(bytes >> (8 * (selector & 7))) & 0xFF;
}

U32 Permute(U32 a, U32 b, U32 selectors) {
  U32 result = 0;
  for (U32 i = 0; i < 4; ++i) {
    const U32 selector = selectors >> (4 * i);
    U32 byte = ByteOf(a, b, selector);
    if ((selector & 8) != 0) byte = (byte & 0x80) != 0 ? 0xFF : 0;
    result |= byte << (8 * i);
  }
  return result;
}

enum class PermuteMode { kForward4, kBackward4, kReplicate8, kClampLeft, kClampRight, kReplicate16 };

template <PermuteMode kMode>
U32 PermuteBy(U32 a, U32 b, U32 selector) {
  selector &= 3;
  U32 result = 0;
  for (U32 i = 0; i < 4; ++i) {
    U32 from = 0;
    if (kMode == PermuteMode::kForward4) from = selector + i;
    if (kMode == PermuteMode::kBackward4) from = (selector + 8 - i) & 7;
    if (kMode == PermuteMode::kReplicate8) from = selector;
    if (kMode == PermuteMode::kClampLeft) from = std::max(i, selector);
    if (kMode == PermuteMode::kClampRight) from = std::min(i, selector);
    if (kMode == PermuteMode::kReplicate16) from = (selector & 1) * 2 + (i & 1);
    result |= ByteOf(a, b, from) << (8 * i);
  }
  return result;
}

template <bool kLeft, bool kClamp>
U32 FunnelShift(U32 low, U32 high, U32 amount) {
  amount = kClamp ? std::min(amount, U32{32}) : amount & 31;
  const U64 both = (U64{high} << 32) | low;
  return kLeft ? static_cast<U32>((both << amount) >> 32) : static_cast<U32>(both >> amount);
}

template <class U>
void AddWidth(OperationTable* table, const std::string& bits) {
  const std::string b = "b" + bits;
  table->Add("and." + b, Map<[](U x, U y) { return static_cast<U>(x & y); }, U, U, U>());
  table->Add("or." + b, Map<[](U x, U y) { return static_cast<U>(x | y); }, U, U, U>());
  table->Add("xor." + b, Map<[](U x, U y) { return static_cast<U>(x ^ y); }, U, U, U>());
  table->Add("not." + b, Map<[](U x) { return static_cast<U>(~x); }, U, U>());
  table->Add("cnot." + b, Map<[](U x) { return static_cast<U>(x == 0); }, U, U>());
  table->Add("shl." + b, Map<ShiftLeft<U>, U, U, U32>());
  table->Add("shr." + b, Map<ShiftRight<U>, U, U, U32>());
  table->Add("shr.u" + bits, Map<ShiftRight<U>, U, U, U32>());
  table->Add("shr.s" + bits, Map<ShiftRightSigned<U>, U, U, U32>());
}

template <class U>
void AddFields(OperationTable* table, const std::string& bits) {
  using S = std::make_signed_t<U>;
  table->Add("popc.b" + bits, Map<[](U x) { return static_cast<U32>(std::popcount(x)); }, U32, U>());
  table->Add("clz.b" + bits, Map<[](U x) { return static_cast<U32>(std::countl_zero(x)); }, U32, U>());
  table->Add("brev.b" + bits, Map<ReverseBits<U>, U, U>());
  table->Add("bfind.u" + bits, Map<FindHighest<U>, U32, U>());
  table->Add("bfind.s" + bits, Map<FindHighest<S>, U32, U>());
  table->Add("bfind.shiftamt.u" + bits, Map<FindHighestShift<U>, U32, U>());
  table->Add("bfind.shiftamt.s" + bits, Map<FindHighestShift<S>, U32, U>());
  table->Add("bfe.u" + bits, Map<ExtractField<U>, U, U, U32, U32>());
  table->Add("bfe.s" + bits, Map<ExtractField<S>, U, U, U32, U32>());
  table->Add("bfi.b" + bits, Map<InsertField<U>, U, U, U, U32, U32>());
}

// Internal: what mov, and changes of width around other instructions, become.
template <class D, class S>
void AddExtensions(OperationTable* table, const std::string& suffix) {
  table->Add("extend.u" + suffix, Map<[](S x) { return static_cast<D>(x); }, D, S>());
  table->Add(
      "extend.s" + suffix,
      Map<[](S x) { return static_cast<D>(static_cast<std::make_signed_t<D>>(static_cast<std::make_signed_t<S>>(x))); },
          D, S>());
  table->Add("truncate" + suffix, Map<[](D x) { return static_cast<S>(x); }, S, D>());
  // Element number `b` of the value.
  table->Add("unpack" + suffix,
             Map<[](D x, U32 element) { return static_cast<S>(x >> (element * kBits<S>)); }, S, D, U32>());
  // a with its element number `c` replaced by b.
  table->Add("pack" + suffix, Map<[](D x, S part, U32 element) {
               const U32 shift = element * kBits<S>;
               const D mask = static_cast<D>(D{static_cast<S>(~S{0})} << shift);
               return static_cast<D>((x & ~mask) | static_cast<D>(D{part} << shift));
             },
                                  D, D, S, U32>());
}

void AddMoves(OperationTable* table) {
  table->Add("move.1", Map<[](U8 x) { return x; }, U8, U8>());
  table->Add("move.2", Map<[](U16 x) { return x; }, U16, U16>());
  table->Add("move.4", Map<[](U32 x) { return x; }, U32, U32>());
  table->Add("move.8", Map<[](U64 x) { return x; }, U64, U64>());
  AddExtensions<U16, U8>(table, ".2.1");
  AddExtensions<U32, U8>(table, ".4.1");
  AddExtensions<U64, U8>(table, ".8.1");
  AddExtensions<U32, U16>(table, ".4.2");
  AddExtensions<U64, U16>(table, ".8.2");
  AddExtensions<U64, U32>(table, ".8.4");
}

}  // namespace

void AddBitOperations(OperationTable* table) {
  AddWidth<U16>(table, "16");
  AddWidth<U32>(table, "32");
  AddWidth<U64>(table, "64");
  AddFields<U32>(table, "32");
  AddFields<U64>(table, "64");
  AddMoves(table);
  table->Add("lop3.b32", Map<Lop3, U32, U32, U32, U32, U32>());
  table->Add("prmt.b32", Map<Permute, U32, U32, U32, U32>());
  table->Add("prmt.b32.f4e", Map<PermuteBy<PermuteMode::kForward4>, U32, U32, U32, U32>());
  table->Add("prmt.b32.b4e", Map<PermuteBy<PermuteMode::kBackward4>, U32, U32, U32, U32>());
  table->Add("prmt.b32.rc8", Map<PermuteBy<PermuteMode::kReplicate8>, U32, U32, U32, U32>());
  table->Add("prmt.b32.ecl", Map<PermuteBy<PermuteMode::kClampLeft>, U32, U32, U32, U32>());
  table->Add("prmt.b32.ecr", Map<PermuteBy<PermuteMode::kClampRight>, U32, U32, U32, U32>());
  table->Add("prmt.b32.rc16", Map<PermuteBy<PermuteMode::kReplicate16>, U32, U32, U32, U32>());
  table->Add("shf.l.wrap.b32", Map<FunnelShift<true, false>, U32, U32, U32, U32>());
  table->Add("shf.l.clamp.b32", Map<FunnelShift<true, true>, U32, U32, U32, U32>());
  table->Add("shf.r.wrap.b32", Map<FunnelShift<false, false>, U32, U32, U32, U32>());
  table->Add("shf.r.clamp.b32", Map<FunnelShift<false, true>, U32, U32, U32, U32>());
  table->Add("bmsk.clamp.b32", Map<[](U32 a, U32 b) { return ShiftLeft<U32>(LowMask<U32>(b), a); }, U32, U32, U32>());
  table->Add("bmsk.wrap.b32",
             Map<[](U32 a, U32 b) { return ShiftLeft<U32>(LowMask<U32>(b & 31), a & 31); }, U32, U32, U32>());
}

}  // namespace softgpu::ptx
