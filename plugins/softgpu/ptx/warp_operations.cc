// Instructions by which the lanes of a warp see each other: lanes 32k to 32k+31 of the block.
//
// Lanes that do not take part: their registers still read as they are, where a device leaves the result open.

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "plugins/softgpu/ptx/operation.h"

namespace softgpu::ptx {
namespace {

using U8 = std::uint8_t;
using U32 = std::uint32_t;

constexpr U32 kWarpLanes = 32;

// Calls body(first lane of the warp, set of its active lanes) for each warp with any.
template <class Body>
void ForEachWarp(const Lanes& lanes, Body body) {
  if (lanes.index == nullptr) {
    for (U32 first = lanes.first / kWarpLanes * kWarpLanes; first < lanes.end; first += kWarpLanes) {
      U32 active = ~U32{0};
      if (lanes.first > first) active &= ~U32{0} << (lanes.first - first);
      if (lanes.end - first < kWarpLanes) active &= (U32{1} << (lanes.end - first)) - 1;
      body(first, active);
    }
    return;
  }
  for (U32 i = 0; i < lanes.count;) {
    const U32 warp = lanes.index[i] / kWarpLanes;
    U32 active = 0;
    for (; i < lanes.count && lanes.index[i] / kWarpLanes == warp; ++i)
      active |= U32{1} << (lanes.index[i] % kWarpLanes);
    body(warp * kWarpLanes, active);
  }
}

template <class Body>
void ForEachBit(U32 set, Body body) {
  for (; set != 0; set &= set - 1) body(static_cast<U32>(std::countr_zero(set)));
}

enum class Shuffle { kUp, kDown, kButterfly, kIndex };

// Which lane of its warp a lane reads from: itself if what it asks for is out of range. Source: PTX ISA 8.5, shfl.sync.
struct ShuffleSource {
  U32 lane = 0;
  bool in_range = false;
};

template <Shuffle kMode>
ShuffleSource SourceOf(U32 lane, U32 b, U32 c) {
  const U32 offset = b & 31;
  const U32 segment = (c >> 8) & 31;
  const U32 clamp = c & 31;
  const U32 low = lane & segment;
  const U32 high = low | (clamp & ~segment);
  U32 from = lane;
  bool in_range = false;
  if (kMode == Shuffle::kUp) {
    in_range = static_cast<std::int32_t>(lane - offset) >= static_cast<std::int32_t>(high);
    from = lane - offset;
  } else if (kMode == Shuffle::kDown) {
    from = lane + offset;
    in_range = from <= high;
  } else if (kMode == Shuffle::kButterfly) {
    from = lane ^ offset;
    in_range = from <= high;
  } else {
    from = low | (offset & ~segment);
    in_range = from <= high;
  }
  return {in_range ? from & 31 : lane, in_range};
}

// What a shuffle does to a whole warp whose lanes all ask for the same.
class WarpShuffle {
 public:
  template <Shuffle kMode>
  static WarpShuffle Of(U32 b, U32 c) {
    WarpShuffle shuffle;
    for (U32 lane = 0; lane < kWarpLanes; ++lane) shuffle.from_[lane] = SourceOf<kMode>(lane, b, c).lane;
    for (U32 lane = 0; lane < kWarpLanes; ++lane) shuffle.in_range_[lane] = SourceOf<kMode>(lane, b, c).in_range;
    for (U32 run = 0; run < kRuns; ++run) {
      const U32* const from = &shuffle.from_[run * kRunLanes];
      U32 different = 0;
      for (U32 i = 0; i < kRunLanes; ++i) different |= from[i] ^ (from[0] + i);
      shuffle.is_copy_[run] = different == 0;
    }
    return shuffle;
  }

  // REQUIRES: `before` and `d` are apart
  void Apply(const U32* before, U32* d) const {
    for (U32 run = 0; run < kRuns; ++run) {
      const U32* const from = &from_[run * kRunLanes];
      U32* const to = d + run * kRunLanes;
      if (is_copy_[run]) {
        std::memcpy(to, before + from[0], kRunLanes * sizeof(U32));
      } else {
        for (U32 i = 0; i < kRunLanes; ++i) to[i] = before[from[i]];
      }
    }
  }

  const std::array<U8, kWarpLanes>& in_range() const { return in_range_; }

 private:
  static constexpr U32 kRunLanes = 8;  // That one move of a vector register can fill.
  static constexpr U32 kRuns = kWarpLanes / kRunLanes;
  std::array<U32, kWarpLanes> from_ = {};
  std::array<U8, kWarpLanes> in_range_ = {};
  std::array<bool, kRuns> is_copy_ = {};
};

bool IsUniform(const Block& block, const Instruction& instruction, std::size_t number, const Lanes& lanes) {
  if (instruction.IsUniform(number)) return true;
  const U32* const row = block.Row<U32>(instruction.rows[number]);
  const U32 value = row[lanes.first];
  U32 different = 0;
  ForEachLane(lanes, [&](std::size_t lane) { different |= row[lane] ^ value; });
  return different == 0;
}

// Rows: d, in-range predicate or kNoRow, a, b, c, mask.
template <Shuffle kMode>
void ShuffleLanes(Block& block, const Instruction& instruction, const Lanes& lanes) {
  U32* const d = block.Row<U32>(instruction.rows[0]);
  U8* const in_range = instruction.rows[1] == kNoRow ? nullptr : block.Row<U8>(instruction.rows[1]);
  const U32* const a = block.Row<U32>(instruction.rows[2]);
  const U32* const b = block.Row<U32>(instruction.rows[3]);
  const U32* const c = block.Row<U32>(instruction.rows[4]);
  const bool is_uniform =
      lanes.index == nullptr && IsUniform(block, instruction, 3, lanes) && IsUniform(block, instruction, 4, lanes);
  const WarpShuffle shuffle = is_uniform ? WarpShuffle::Of<kMode>(b[lanes.first], c[lanes.first]) : WarpShuffle();
  ForEachWarp(lanes, [&](U32 first, U32 active) {
    const bool is_whole = is_uniform && active == ~U32{0};
    std::array<U32, kWarpLanes> before;
    if (!is_whole || a == d) std::copy_n(a + first, kWarpLanes, before.begin());
    if (is_whole) {
      shuffle.Apply(a == d ? before.data() : a + first, d + first);
      if (in_range != nullptr) std::ranges::copy(shuffle.in_range(), in_range + first);
      return;
    }
    ForEachBit(active, [&](U32 lane) {
      const ShuffleSource source = SourceOf<kMode>(lane, b[first + lane], c[first + lane]);
      d[first + lane] = before[source.lane];
      if (in_range != nullptr) in_range[first + lane] = source.in_range;
    });
  });
}

enum class Vote { kAll, kAny, kUniform, kBallot };

// Rows: d, a, mask. Of a ballot d has 32 bits, else it is a predicate.
template <Vote kMode>
void VoteLanes(Block& block, const Instruction& instruction, const Lanes& lanes) {
  const U8* const a = block.Row<U8>(instruction.rows[1]);
  const U32* const mask = block.Row<U32>(instruction.rows[2]);
  ForEachWarp(lanes, [&](U32 first, U32 active) {
    U32 ballot = 0;
    ForEachBit(active, [&](U32 lane) { ballot |= U32{a[first + lane]} << lane; });
    ForEachBit(active, [&](U32 lane) {
      const U32 members = active & mask[first + lane];
      const U32 yes = ballot & members;
      if constexpr (kMode == Vote::kBallot) {
        block.Row<U32>(instruction.rows[0])[first + lane] = yes;
      } else {
        const bool all = yes == members;
        const bool result = kMode == Vote::kAll ? all : kMode == Vote::kAny ? yes != 0 : all || yes == 0;
        block.Row<U8>(instruction.rows[0])[first + lane] = result;
      }
    });
  });
}

// Rows: d, predicate or kNoRow, a, mask. match.any: the lanes with an equal value. match.all: the mask if all are
// equal.
template <class U, bool kAll>
void MatchLanes(Block& block, const Instruction& instruction, const Lanes& lanes) {
  U32* const d = block.Row<U32>(instruction.rows[0]);
  U8* const equal = instruction.rows[1] == kNoRow ? nullptr : block.Row<U8>(instruction.rows[1]);
  const U* const a = block.Row<U>(instruction.rows[2]);
  const U32* const mask = block.Row<U32>(instruction.rows[3]);
  ForEachWarp(lanes, [&](U32 first, U32 active) {
    std::array<U, kWarpLanes> values;
    std::copy_n(a + first, kWarpLanes, values.begin());
    ForEachBit(active, [&](U32 lane) {
      const U32 members = active & mask[first + lane];
      U32 same = 0;
      ForEachBit(members, [&](U32 other) { same |= U32{values[other] == values[lane]} << other; });
      const bool all = same == members;
      d[first + lane] = kAll ? (all ? members : 0) : same;
      if (equal != nullptr) equal[first + lane] = all;
    });
  });
}

// Rows: d, a, mask.
template <auto F>
void ReduceLanes(Block& block, const Instruction& instruction, const Lanes& lanes) {
  U32* const d = block.Row<U32>(instruction.rows[0]);
  const U32* const a = block.Row<U32>(instruction.rows[1]);
  const U32* const mask = block.Row<U32>(instruction.rows[2]);
  ForEachWarp(lanes, [&](U32 first, U32 active) {
    std::array<U32, kWarpLanes> values;
    std::copy_n(a + first, kWarpLanes, values.begin());
    ForEachBit(active, [&](U32 lane) {
      U32 result = values[lane];
      ForEachBit(active & mask[first + lane] & ~(U32{1} << lane),
                 [&](U32 other) { result = F(result, values[other]); });
      d[first + lane] = result;
    });
  });
}

// Rows: d.
void ActiveMask(Block& block, const Instruction& instruction, const Lanes& lanes) {
  U32* const d = block.Row<U32>(instruction.rows[0]);
  ForEachWarp(lanes, [&](U32 first, U32 active) { ForEachBit(active, [&](U32 lane) { d[first + lane] = active; }); });
}

enum class BarrierResult { kCount, kAll, kAny };

// Rows: barrier, count, d. The scheduler has counted.
template <BarrierResult kResult>
void ReduceBarrier(Block& block, const Instruction& instruction, const Lanes& lanes) {
  const U32 yes = block.barrier_true_lanes;
  if constexpr (kResult == BarrierResult::kCount) {
    U32* const d = block.Row<U32>(instruction.rows[2]);
    ForEachLane(lanes, [=](std::size_t lane) { d[lane] = yes; });
  } else {
    U8* const d = block.Row<U8>(instruction.rows[2]);
    const bool result = kResult == BarrierResult::kAll ? yes == block.barrier_lanes : yes != 0;
    ForEachLane(lanes, [=](std::size_t lane) { d[lane] = result; });
  }
}

void NoOperation(Block&, const Instruction&, const Lanes&) {}

}  // namespace

void AddWarpOperations(OperationTable* table) {
  const auto shuffle = [](Handler handler) { return Operation{handler, 6, {4, 1, 4, 4, 4, 4}}; };
  table->Add("shfl.up", shuffle(&ShuffleLanes<Shuffle::kUp>));
  table->Add("shfl.down", shuffle(&ShuffleLanes<Shuffle::kDown>));
  table->Add("shfl.bfly", shuffle(&ShuffleLanes<Shuffle::kButterfly>));
  table->Add("shfl.idx", shuffle(&ShuffleLanes<Shuffle::kIndex>));
  table->Add("vote.all", {&VoteLanes<Vote::kAll>, 3, {1, 1, 4}});
  table->Add("vote.any", {&VoteLanes<Vote::kAny>, 3, {1, 1, 4}});
  table->Add("vote.uni", {&VoteLanes<Vote::kUniform>, 3, {1, 1, 4}});
  table->Add("vote.ballot", {&VoteLanes<Vote::kBallot>, 3, {4, 1, 4}});
  table->Add("match.any.b32", {&MatchLanes<U32, false>, 4, {4, 1, 4, 4}});
  table->Add("match.all.b32", {&MatchLanes<U32, true>, 4, {4, 1, 4, 4}});
  table->Add("match.any.b64", {&MatchLanes<std::uint64_t, false>, 4, {4, 1, 8, 4}});
  table->Add("match.all.b64", {&MatchLanes<std::uint64_t, true>, 4, {4, 1, 8, 4}});
  const auto reduce = [&](const char* name, Handler handler) { table->Add(name, {handler, 3, {4, 4, 4}}); };
  reduce("redux.add.u32", &ReduceLanes<[](U32 a, U32 b) { return a + b; }>);
  reduce("redux.add.s32", &ReduceLanes<[](U32 a, U32 b) { return a + b; }>);
  reduce("redux.min.u32", &ReduceLanes<[](U32 a, U32 b) { return std::min(a, b); }>);
  reduce("redux.max.u32", &ReduceLanes<[](U32 a, U32 b) { return std::max(a, b); }>);
  reduce(
      "redux.min.s32",
      &ReduceLanes<[](U32 a, U32 b) { return static_cast<std::int32_t>(a) < static_cast<std::int32_t>(b) ? a : b; }>);
  reduce(
      "redux.max.s32",
      &ReduceLanes<[](U32 a, U32 b) { return static_cast<std::int32_t>(a) < static_cast<std::int32_t>(b) ? b : a; }>);
  reduce("redux.and.b32", &ReduceLanes<[](U32 a, U32 b) { return a & b; }>);
  reduce("redux.or.b32", &ReduceLanes<[](U32 a, U32 b) { return a | b; }>);
  reduce("redux.xor.b32", &ReduceLanes<[](U32 a, U32 b) { return a ^ b; }>);
  table->Add("activemask", {&ActiveMask, 1, {4}});
  table->Add("bar.red.popc", {&ReduceBarrier<BarrierResult::kCount>, 3, {4, 4, 4}});
  table->Add("bar.red.and", {&ReduceBarrier<BarrierResult::kAll>, 3, {4, 4, 1}});
  table->Add("bar.red.or", {&ReduceBarrier<BarrierResult::kAny>, 3, {4, 4, 1}});
  table->Add("bar.warp", {&NoOperation, 1, {4}});
}

}  // namespace softgpu::ptx
