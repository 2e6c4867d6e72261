// A kernel as the interpreter runs it, and the state of the block that it runs on.
//
// One instruction runs for many threads (lanes) at once. A register is a row: the values of all lanes of the block, one
// after the other. Immediates, special registers and addresses of variables are rows too, filled before the first
// instruction, so that a handler knows nothing but rows. Where a row begins depends on the number of lanes: an offset
// counts in bytes per lane, and is multiplied by Block::stride.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "plugins/softgpu/ptx/known_patterns.h"
#include "plugins/softgpu/ptx/lanes.h"
#include "plugins/softgpu/ptx/launch.h"
#include "plugins/softgpu/ptx/types.h"

namespace softgpu::ptx {

struct Block;
struct Instruction;

// Faults are left in Block::fault.
using Handler = void (*)(Block&, const Instruction&, const Lanes&);

inline constexpr std::uint32_t kNoRow = ~std::uint32_t{0};
inline constexpr std::size_t kMaxRows = 8;  // Of one instruction.

struct Instruction {
  enum class Kind : std::uint8_t {
    kCompute,
    kConverge,       // Computes, after the lanes that rows[mask_row] names have come here: shfl.sync, vote.sync ...
    kBranch,         // To `target`, of those for whom the guard holds.
    kBranchIndexed,  // To Program::branch_tables[target][rows[0]].
    kExit,
    kTrap,
    kBarrier,  // Barrier rows[0], of rows[1] threads or kNoRow; then if there is a handler, its reduction.
    kBarrierArrive,
  };
  Handler handler = nullptr;
  std::array<std::uint32_t, kMaxRows> rows = {kNoRow, kNoRow, kNoRow, kNoRow, kNoRow, kNoRow, kNoRow, kNoRow};
  std::int64_t displacement = 0;  // Of a memory address.
  std::uint32_t guard = kNoRow;
  std::uint32_t target = 0;
  std::int32_t line = 0;
  Kind kind = Kind::kCompute;
  Space space = Space::kNone;  // Of a memory access.
  bool guard_negated = false;
  bool writes_address = false;  // Perhaps, into a row that an access of the program takes its addresses from.
  std::uint8_t mask_row = 0;
  std::uint8_t uniform_rows = 0;  // Bit i: rows[i] is known to have one value for all lanes of the block.

  bool IsUniform(std::size_t i) const { return (uniform_rows >> i & 1) != 0; }
};
static_assert(kMaxRows <= 8);

enum class SpecialRegister : std::uint8_t {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLaneid,
  kWarpid,
  kNwarpid,
  kLanemaskEq,
  kLanemaskLe,
  kLanemaskLt,
  kLanemaskGe,
  kLanemaskGt,
  kDynamicSmemSize,
  kTotalSmemSize,
  kZero32,
  kZero64,
};

// A row whose value is known when the launch, or its next block, begins.
struct FixedRow {
  enum class Kind : std::uint8_t { kValue, kGlobalAddress, kDynamicShared, kSpecial };
  Kind kind = Kind::kValue;
  std::uint8_t bytes = 0;  // Per lane.
  SpecialRegister special = SpecialRegister::kTidX;
  std::uint32_t row = 0;
  std::uint32_t global = 0;  // kGlobalAddress
  std::uint64_t value = 0;   // kValue; the addend of the two addresses.
};

// Has it one value for all lanes of a block?
bool IsUniform(const FixedRow& fixed);

struct Program {
  std::vector<Instruction> instructions;  // The last is kExit.
  std::vector<FixedRow> fixed_rows;
  std::vector<std::vector<std::uint32_t>> branch_tables;
  std::uint32_t frame_bytes = 0;  // Of all rows, per lane.
  std::uint32_t local_bytes = 0;
  std::uint32_t static_shared_bytes = 0;
  bool uses_dynamic_shared = false;
};

struct Block {
  std::byte* rows = nullptr;
  std::size_t stride = 0;  // Lanes, rounded up so that every row is aligned to 64 bytes.
  std::uint32_t lane_count = 0;
  std::span<std::byte> shared;
  std::byte* local = nullptr;  // Lane i has the bytes from i * local_bytes.
  std::size_t local_bytes = 0;
  std::span<const std::byte> parameters;
  DeviceMemory* memory = nullptr;
  std::array<Segment, 4> segments;  // The last found.
  std::size_t next_segment = 0;
  KnownPatterns patterns;  // Of rows of addresses. Whoever writes to such a row forgets them.

  LaunchStatus fault = LaunchStatus::kDone;
  std::uint64_t fault_address = 0;
  std::uint32_t fault_lane = 0;

  // Of the barrier being released, for its reduction.
  std::uint32_t barrier_lanes = 0;
  std::uint32_t barrier_true_lanes = 0;

  template <class T>
  T* Row(std::uint32_t offset) const {
    return reinterpret_cast<T*>(rows + offset * stride);
  }
  void SetFault(LaunchStatus status, std::uint32_t lane, std::uint64_t address) {
    if (fault != LaunchStatus::kDone) return;
    fault = status;
    fault_lane = lane;
    fault_address = address;
  }
};

// Calls `body` with the number of each lane. The body must touch no row but at that number.
template <class Body>
[[gnu::always_inline]] inline void ForEachLane(const Lanes& lanes, Body body) {
  if (lanes.index == nullptr) {
    const std::size_t end = lanes.end;
#pragma GCC ivdep
    for (std::size_t lane = lanes.first; lane < end; ++lane) body(lane);
  } else {
    for (std::size_t i = 0; i < lanes.count; ++i) body(lanes.index[i]);
  }
}

}  // namespace softgpu::ptx
