// Instructions between the lanes of a warp.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>

#include "tests/plugins/softgpu/ptx/machine.h"

namespace softgpu::ptx {
namespace {

using Words = std::vector<std::uint32_t>;

// Runs `body`, which makes %v and %w of %t (the thread) and %m (a multiplicative hash of it), on 96 threads.
std::pair<Words, Words> RunBody(const std::string& body) {
  Machine machine(fmt::format(R"(.version 7.8
.target sm_80
.address_size 64
.visible .entry test(.param .u64 data) {{
  .reg .u64 %a; .reg .u32 %t, %v, %w, %m; .reg .pred %p, %q; .reg .b64 %d;
  ld.param.u64 %a, [data];
  mov.u32 %t, %tid.x;
  mad.wide.u32 %a, %t, 8, %a;
  mul.lo.u32 %m, %t, 0x9E3779B1;
  mov.u32 %v, 0; mov.u32 %w, 0;
  {}
  st.global.v2.u32 [%a], {{%v, %w}};
  ret;
}}
)",
                              body));
  const std::uint64_t data = machine.Upload(Words(192));
  const LaunchResult result = machine.Run("test", {}, {96, 1, 1}, Arguments(data));
  EXPECT_EQ(result.status, LaunchStatus::kDone) << result.detail;
  const Words both = machine.Download<std::uint32_t>(data, 192);
  std::pair<Words, Words> split;
  for (std::size_t i = 0; i < 96; ++i) {
    split.first.push_back(both[2 * i]);
    split.second.push_back(both[2 * i + 1]);
  }
  return split;
}

std::uint32_t HashOf(std::uint32_t thread) { return thread * 0x9E3779B1u; }

struct Source {
  std::uint32_t lane = 0;
  bool in_range = false;
};

// Source: the pseudocode of PTX ISA 8.5, shfl.sync.
Source SourceOf(const std::string& mode, std::uint32_t thread, std::uint32_t offset, std::uint32_t clamp) {
  const int lane = static_cast<int>(thread % 32), bval = static_cast<int>(offset & 31),
            cval = static_cast<int>(clamp & 31);
  const int segmask = static_cast<int>((clamp >> 8) & 31);
  const int max_lane = (lane & segmask) | (cval & ~segmask), min_lane = lane & segmask;
  int j = mode == "up" ? lane - bval : mode == "down" ? lane + bval : lane ^ bval;
  if (mode == "idx") j = min_lane | (bval & ~segmask);
  const bool in_range = mode == "up" ? j >= max_lane : j <= max_lane;
  return {static_cast<std::uint32_t>(in_range ? j : lane), in_range};
}

TEST(WarpOperationsTest, ShufflesFollowThePseudocodeOfTheSpecification) {
  for (const std::string mode : {"up", "down", "bfly", "idx"}) {
    for (const std::uint32_t offset : {0u, 1u, 7u, 8u, 16u, 31u, 33u}) {
      for (const std::uint32_t clamp : {0u, 31u, 0x1F00u, 0x181Fu, 0x1800u, 0x1C03u}) {
        const auto [values, flags] = RunBody(
            fmt::format("shfl.sync.{}.b32 %v|%p, %m, {}, {}, 0xffffffff; selp.u32 %w, 1, 0, %p;", mode, offset, clamp));
        for (std::uint32_t thread = 0; thread < 96; ++thread) {
          const Source source = SourceOf(mode, thread, offset, clamp);
          ASSERT_EQ(values[thread], HashOf(thread / 32 * 32 + source.lane))
              << mode << offset << " " << clamp << " " << thread;
          ASSERT_EQ(flags[thread], source.in_range ? 1u : 0u);
        }
      }
    }
  }
}

// Whole warps that ask for the same go a way of their own. Here threads 0 to 4 and 90 to 95 stay away, or every third;
// the offset differs, or does not; and the result goes where the value was.
TEST(WarpOperationsTest, ShufflesOfSomeThreadsAndOfDifferentOffsets) {
  struct Members {
    std::string predicate;  // Into %q
    bool (*has)(std::uint32_t thread);
  };
  const Members all{"setp.ge.u32 %q, %t, 0;", [](std::uint32_t) { return true; }};
  const Members range{"sub.u32 %w, %t, 5; setp.lt.u32 %q, %w, 85;",
                      [](std::uint32_t thread) { return thread >= 5 && thread < 90; }};
  const Members list{"rem.u32 %w, %t, 3; setp.ne.u32 %q, %w, 0;", [](std::uint32_t thread) { return thread % 3 != 0; }};
  for (const Members& members : {all, range, list}) {
    for (const std::string mode : {"up", "down", "bfly", "idx"}) {
      for (const std::uint32_t step : {0u, 1u}) {
        SCOPED_TRACE(members.predicate + mode);
        const auto [values, flags] =
            RunBody(fmt::format("{} mad.lo.u32 %w, %t, {}, 4; mov.u32 %v, %m; setp.ne.u32 %p, 0, 0; "
                                "@%q shfl.sync.{}.b32 %v|%p, %v, %w, {}, 0xffffffff; selp.u32 %w, 1, 0, %p;",
                                members.predicate, step, mode, mode == "up" ? 0 : 31));
        for (std::uint32_t thread = 0; thread < 96; ++thread) {
          const Source source = SourceOf(mode, thread, thread * step + 4, mode == "up" ? 0 : 31);
          const bool moves = members.has(thread);
          ASSERT_EQ(values[thread], HashOf(moves ? thread / 32 * 32 + source.lane : thread)) << thread;
          ASSERT_EQ(flags[thread], moves && source.in_range ? 1u : 0u) << thread;
        }
      }
    }
  }
}

TEST(WarpOperationsTest, ShuffleReadsWhatWasThereBefore) {
  const auto [values, unused] = RunBody("mov.u32 %v, %t; shfl.sync.down.b32 %v, %v, 1, 31, 0xffffffff;");
  for (std::uint32_t thread = 0; thread < 96; ++thread)
    EXPECT_EQ(values[thread], thread % 32 == 31 ? thread : thread + 1);
}

TEST(WarpOperationsTest, VotesCountTheMembersOnly) {
  const auto [ballots, any] = RunBody(R"(
  and.b32 %v, %t, 1;
  setp.eq.u32 %p, %v, 0;
  vote.sync.ballot.b32 %v, %p, 0xffff;
  vote.sync.any.pred %q, %p, 0xaaaaaaaa;
  selp.u32 %w, 1, 0, %q;)");
  const auto [all, uniform] = RunBody(R"(
  setp.lt.u32 %p, %t, 40;
  vote.sync.all.pred %q, %p, 0xffffffff;
  selp.u32 %v, 1, 0, %q;
  vote.sync.uni.pred %q, %p, 0xffffffff;
  selp.u32 %w, 1, 0, %q;)");
  for (std::uint32_t thread = 0; thread < 96; ++thread) {
    EXPECT_EQ(ballots[thread], 0x5555u);
    EXPECT_EQ(any[thread], 0u);
    EXPECT_EQ(all[thread], thread < 32 ? 1u : 0u);
    EXPECT_EQ(uniform[thread], thread / 32 == 1 ? 0u : 1u);
  }
}

TEST(WarpOperationsTest, ActiveMaskIsWhoIsHere) {
  const auto [masks, unused] = RunBody(R"(
  setp.lt.u32 %p, %t, 40;
  @%p activemask.b32 %v;)");
  for (std::uint32_t thread = 0; thread < 96; ++thread)
    EXPECT_EQ(masks[thread], thread < 32 ? 0xFFFFFFFF : thread < 40 ? 0xFFu : 0u);
}

TEST(WarpOperationsTest, MatchAndReduce) {
  const auto [any, all] = RunBody(R"(
  and.b32 %m, %t, 3;
  match.any.sync.b32 %v, %m, 0xffffffff;
  mov.u32 %m, 5;
  match.all.sync.b32 %w|%p, %m, 0xffffffff;)");
  const auto [sums, minima] = RunBody(R"(
  redux.sync.add.u32 %v, %t, 0xffffffff;
  neg.s32 %m, %t;
  redux.sync.min.s32 %w, %m, 0xffffffff;)");
  for (std::uint32_t thread = 0; thread < 96; ++thread) {
    EXPECT_EQ(any[thread], 0x11111111u << (thread % 4));
    EXPECT_EQ(all[thread], 0xFFFFFFFF);
    const std::uint32_t first = thread / 32 * 32;
    EXPECT_EQ(sums[thread], first * 32 + 496);
    EXPECT_EQ(minima[thread], static_cast<std::uint32_t>(-static_cast<int>(first + 31)));
  }
}

TEST(WarpOperationsTest, LaneRegistersNameTheLane) {
  const auto [lanes, warps] = RunBody("mov.u32 %v, %laneid; mov.u32 %w, %warpid;");
  const auto [less, equal] = RunBody("mov.u32 %v, %lanemask_lt; mov.u32 %w, %lanemask_eq;");
  for (std::uint32_t thread = 0; thread < 96; ++thread) {
    EXPECT_EQ(lanes[thread], thread % 32);
    EXPECT_EQ(warps[thread], thread / 32);
    EXPECT_EQ(less[thread], (1u << (thread % 32)) - 1);
    EXPECT_EQ(equal[thread], 1u << (thread % 32));
  }
}

}  // namespace
}  // namespace softgpu::ptx
