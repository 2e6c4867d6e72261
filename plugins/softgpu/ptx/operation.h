// The instructions that work on rows alone, by name.
//
// A name is the opcode with what lowering takes care of left out: ".rn" of arithmetic, ".ftz" and ".sat" of floats
// (instructions of their own, before and after), cache and memory-order hints.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "plugins/softgpu/ptx/program.h"

namespace softgpu::ptx {

struct Operation {
  Handler handler = nullptr;
  std::uint8_t row_count = 0;
  std::array<std::uint8_t, kMaxRows> bytes = {};  // Of each row; rows[0] is the destination.
};

class OperationTable {
 public:
  // The table of all operations. Immutable once built, so any number of threads may use it.
  static const OperationTable& Get();

  const Operation* Find(std::string_view name) const;
  void Add(std::string name, const Operation& operation) { operations_.insert_or_assign(std::move(name), operation); }

 private:
  OperationTable();

  std::unordered_map<std::string, Operation> operations_;
};

void AddIntegerOperations(OperationTable* table);
void AddBitOperations(OperationTable* table);
void AddFloatOperations(OperationTable* table);
void AddRoundedOperations(OperationTable* table);
void AddPredicateOperations(OperationTable* table);
void AddConversions(OperationTable* table);
void AddIntegerConversions(OperationTable* table);
void AddHalfOperations(OperationTable* table);
void AddWarpOperations(OperationTable* table);

// d = F(a), F(a, b) ... for each lane; D and S are the unsigned integers of the rows' sizes.
template <auto F, class D, class A>
void MapRows1(Block& block, const Instruction& instruction, const Lanes& lanes) {
  D* const d = block.Row<D>(instruction.rows[0]);
  const A* const a = block.Row<A>(instruction.rows[1]);
  ForEachLane(lanes, [=](std::size_t i) { d[i] = static_cast<D>(F(a[i])); });
}

template <auto F, class D, class A, class B>
void MapRows2(Block& block, const Instruction& instruction, const Lanes& lanes) {
  D* const d = block.Row<D>(instruction.rows[0]);
  const A* const a = block.Row<A>(instruction.rows[1]);
  const B* const b = block.Row<B>(instruction.rows[2]);
  // A number in the program, mostly. That it is one leaves the compiler more to do once instead of per lane.
  if (instruction.IsUniform(2)) {
    ForEachLane(lanes, [=, b = b[lanes.first]](std::size_t i) { d[i] = static_cast<D>(F(a[i], b)); });
  } else {
    ForEachLane(lanes, [=](std::size_t i) { d[i] = static_cast<D>(F(a[i], b[i])); });
  }
}

template <auto F, class D, class A, class B, class C>
void MapRows3(Block& block, const Instruction& instruction, const Lanes& lanes) {
  D* const d = block.Row<D>(instruction.rows[0]);
  const A* const a = block.Row<A>(instruction.rows[1]);
  const B* const b = block.Row<B>(instruction.rows[2]);
  const C* const c = block.Row<C>(instruction.rows[3]);
  ForEachLane(lanes, [=](std::size_t i) { d[i] = static_cast<D>(F(a[i], b[i], c[i])); });
}

template <auto F, class D, class A, class B, class C, class E>
void MapRows4(Block& block, const Instruction& instruction, const Lanes& lanes) {
  D* const d = block.Row<D>(instruction.rows[0]);
  const A* const a = block.Row<A>(instruction.rows[1]);
  const B* const b = block.Row<B>(instruction.rows[2]);
  const C* const c = block.Row<C>(instruction.rows[3]);
  const E* const e = block.Row<E>(instruction.rows[4]);
  ForEachLane(lanes, [=](std::size_t i) { d[i] = static_cast<D>(F(a[i], b[i], c[i], e[i])); });
}

template <auto F, class D, class... S>
Operation Map() {
  Operation operation{nullptr, 1 + sizeof...(S), {sizeof(D), sizeof(S)...}};
  if constexpr (sizeof...(S) == 1) operation.handler = &MapRows1<F, D, S...>;
  if constexpr (sizeof...(S) == 2) operation.handler = &MapRows2<F, D, S...>;
  if constexpr (sizeof...(S) == 3) operation.handler = &MapRows3<F, D, S...>;
  if constexpr (sizeof...(S) == 4) operation.handler = &MapRows4<F, D, S...>;
  return operation;
}

inline float AsFloat(std::uint32_t bits) { return std::bit_cast<float>(bits); }
inline double AsDouble(std::uint64_t bits) { return std::bit_cast<double>(bits); }

// A device has one f32 NaN, whatever went in. Source: CUDA programming guide, floating-point standard.
inline std::uint32_t Bits(float value) { return value != value ? 0x7FFFFFFFu : std::bit_cast<std::uint32_t>(value); }
inline std::uint64_t Bits(double value) { return std::bit_cast<std::uint64_t>(value); }

}  // namespace softgpu::ptx
