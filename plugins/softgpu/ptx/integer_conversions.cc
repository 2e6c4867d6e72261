// cvt from integers to integers.

#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

#include "plugins/softgpu/ptx/operation.h"

namespace softgpu::ptx {
namespace {

template <class D, class S>
D Clamp(S value) {
  if (std::cmp_less(value, std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
  if (std::cmp_greater(value, std::numeric_limits<D>::max())) return std::numeric_limits<D>::max();
  return static_cast<D>(value);
}

template <class D, class S>
void AddPair(OperationTable* table, const std::string& to, const std::string& from) {
  using DRow = std::make_unsigned_t<D>;
  using SRow = std::make_unsigned_t<S>;
  table->Add("cvt." + to + "." + from,
             Map<[](SRow a) { return static_cast<DRow>(static_cast<D>(static_cast<S>(a))); }, DRow, SRow>());
  table->Add("cvt.sat." + to + "." + from,
             Map<[](SRow a) { return static_cast<DRow>(Clamp<D>(static_cast<S>(a))); }, DRow, SRow>());
}

template <class D>
void AddTo(OperationTable* table, const std::string& to) {
  AddPair<D, std::uint8_t>(table, to, "u8");
  AddPair<D, std::uint16_t>(table, to, "u16");
  AddPair<D, std::uint32_t>(table, to, "u32");
  AddPair<D, std::uint64_t>(table, to, "u64");
  AddPair<D, std::int8_t>(table, to, "s8");
  AddPair<D, std::int16_t>(table, to, "s16");
  AddPair<D, std::int32_t>(table, to, "s32");
  AddPair<D, std::int64_t>(table, to, "s64");
}

}  // namespace

void AddIntegerConversions(OperationTable* table) {
  AddTo<std::uint8_t>(table, "u8");
  AddTo<std::uint16_t>(table, "u16");
  AddTo<std::uint32_t>(table, "u32");
  AddTo<std::uint64_t>(table, "u64");
  AddTo<std::int8_t>(table, "s8");
  AddTo<std::int16_t>(table, "s16");
  AddTo<std::int32_t>(table, "s32");
  AddTo<std::int64_t>(table, "s64");
}

}  // namespace softgpu::ptx
