// Threads that diverge, meet, wait for each other, call, fail and hang.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>

#include "tests/plugins/softgpu/ptx/machine.h"

namespace softgpu::ptx {
namespace {

using testing::HasSubstr;
using Words = std::vector<std::uint32_t>;

// A kernel `test` with one parameter `data`, whose address plus 4 * tid.x is in %a; %t has tid.x, %base the address.
std::string Kernel(const std::string& body, const std::string& before = "") {
  return R"(.version 7.8
.target sm_80
.address_size 64
)" + before +
         R"(
.visible .entry test(.param .u64 data) {
  .reg .u64 %a, %base; .reg .u32 %t, %v, %w, %x; .reg .pred %p, %q;
  ld.param.u64 %base, [data];
  mov.u32 %t, %tid.x;
  mad.wide.u32 %a, %t, 4, %base;
)" + body +
         "\n}\n";
}

// What `lanes` threads leave in as many words that were 0.
Words RunOn(Machine& machine, std::uint32_t lanes, Words initial = {}) {
  initial.resize(std::max<std::size_t>(initial.size(), lanes));
  const std::size_t count = initial.size();
  const std::uint64_t data = machine.Upload(initial);
  const LaunchResult result = machine.Run("test", {}, {lanes, 1, 1}, Arguments(data));
  EXPECT_EQ(result.status, LaunchStatus::kDone) << result.detail;
  return machine.Download<std::uint32_t>(data, count);
}

TEST(ControlFlowTest, LoopsOfDifferentLengthMeetAgain) {
  Machine machine(Kernel(R"(
  mov.u32 %v, 0; mov.u32 %w, %t;
again:
  setp.eq.u32 %p, %w, 0;
  @%p bra done;
  add.u32 %v, %v, %w;
  sub.u32 %w, %w, 1;
  bra.uni again;
done:
  activemask.b32 %x;
  and.b32 %x, %x, 0x80000001;
  setp.eq.u32 %p, %x, 0x80000001;
  @!%p mov.u32 %v, 0xBAD;
  st.global.u32 [%a], %v;
  ret;)"));
  const Words found = RunOn(machine, 64);
  for (std::uint32_t i = 0; i < 64; ++i) EXPECT_EQ(found[i], i * (i + 1) / 2) << i;
}

TEST(ControlFlowTest, BothSidesOfABranchRun) {
  Machine machine(Kernel(R"(
  and.b32 %v, %t, 1;
  setp.eq.u32 %p, %v, 0;
  @%p bra even;
  mad.lo.u32 %v, %t, 3, 1;
  bra join;
even:
  shl.b32 %v, %t, 1;
join:
  add.u32 %v, %v, 100;
  st.global.u32 [%a], %v;
  ret;)"));
  const Words found = RunOn(machine, 40);
  for (std::uint32_t i = 0; i < 40; ++i) EXPECT_EQ(found[i], 100 + (i % 2 == 0 ? 2 * i : 3 * i + 1)) << i;
}

// The lanes that jump ahead wait at the shuffle for those whose code lies behind it.
TEST(ControlFlowTest, ShuffleWaitsForTheLanesItNames) {
  Machine machine(Kernel(R"(
  mov.u32 %v, %t;
  setp.ge.u32 %p, %t, 16;
  @%p bra aside;
join:
  shfl.sync.bfly.b32 %w, %v, 31, 31, 0xffffffff;
  st.global.u32 [%a], %w;
  ret;
aside:
  add.u32 %v, %v, 1000;
  bra join;)"));
  const Words found = RunOn(machine, 32);
  for (std::uint32_t i = 0; i < 32; ++i) EXPECT_EQ(found[i], (31 - i) + (i < 16 ? 1000 : 0)) << i;
}

TEST(ControlFlowTest, IndexedBranchGoesToEachTarget) {
  Machine machine(Kernel(R"(
  and.b32 %v, %t, 3;
  targets: .branchtargets zero, one, two, zero;
  brx.idx %v, targets;
zero:
  mov.u32 %w, 10; bra join;
one:
  mov.u32 %w, 11; bra join;
two:
  mov.u32 %w, 12;
join:
  st.global.u32 [%a], %w;
  ret;)"));
  EXPECT_THAT(RunOn(machine, 8), testing::ElementsAre(10, 11, 12, 10, 10, 11, 12, 10));
}

TEST(ControlFlowTest, GuardedInstructionsSkipTheOtherLanes) {
  Machine machine(Kernel(R"(
  setp.lt.u32 %p, %t, 3;
  mov.u32 %v, 1;
  @%p mov.u32 %v, 2;
  @!%p add.u32 %v, %v, 10;
  @%p exit;
  st.global.u32 [%a], %v;
  ret;)"));
  EXPECT_THAT(RunOn(machine, 5), testing::ElementsAre(0, 0, 0, 11, 11));
}

TEST(ControlFlowTest, BarrierOrdersTheThreadsOfABlock) {
  Machine machine(Kernel(R"(
  .shared .align 4 .b8 words[512];
  .reg .u32 %s, %k;
  mov.u32 %s, words;
  shl.b32 %k, %t, 2;
  add.u32 %k, %k, %s;
  st.shared.u32 [%k], %t;
  bar.sync 0;
  mov.u32 %w, 127;
  sub.u32 %w, %w, %t;
  shl.b32 %w, %w, 2;
  add.u32 %w, %w, %s;
  ld.shared.u32 %v, [%w];
  st.global.u32 [%a], %v;
  ret;)"));
  const Words found = RunOn(machine, 128);
  for (std::uint32_t i = 0; i < 128; ++i) EXPECT_EQ(found[i], 127 - i);
}

TEST(ControlFlowTest, BarrierOfDivergedThreadsAndOfThoseThatAreLeft) {
  Machine machine(Kernel(R"(
  setp.lt.u32 %p, %t, 8;
  @%p exit;
  setp.lt.u32 %p, %t, 16;
  @%p bra low;
  bar.sync 1;
  mov.u32 %v, 2;
  bra join;
low:
  bar.sync 1;
  mov.u32 %v, 1;
join:
  st.global.u32 [%a], %v;
  ret;)"));
  const Words found = RunOn(machine, 32);
  for (std::uint32_t i = 0; i < 32; ++i) EXPECT_EQ(found[i], i < 8 ? 0u : i < 16 ? 1u : 2u);
}

TEST(ControlFlowTest, ProducersArriveAndConsumersWait) {
  Machine machine(Kernel(R"(
  .shared .align 4 .b8 words[4];
  setp.lt.u32 %p, %t, 32;
  @%p bra consumer;
  mov.u32 %v, 77;
  st.shared.u32 [words], %v;
  bar.arrive 3, 64;
  ret;
consumer:
  bar.sync 3, 64;
  ld.shared.u32 %v, [words];
  st.global.u32 [%a], %v;
  ret;)"));
  const Words found = RunOn(machine, 64);
  EXPECT_EQ(found[0], 77u);
  EXPECT_EQ(found[31], 77u);
}

// Threads that arrived without waiting count for the barrier at which all then meet, and for no later one.
TEST(ControlFlowTest, BarrierOpensForAllAtOnceAndIsAsNewAfterwards) {
  Machine machine(Kernel(R"(
  .shared .align 4 .b8 words[4];
  bar.arrive 2, 128;
  bar.sync 2, 96;
  setp.lt.u32 %p, %t, 16;
  @%p bra low;
  bar.sync 2;
  ld.shared.u32 %v, [words];
  bra join;
low:
  mov.u32 %v, 5;
  st.shared.u32 [words], %v;
  bar.sync 2;
join:
  bar.sync 0;
  st.global.u32 [%a], %v;
  ret;)"));
  for (const std::uint32_t word : RunOn(machine, 61)) EXPECT_EQ(word, 5u);
}

TEST(ControlFlowTest, BarrierThatThereIsNotIsAnErrorAlsoOfAllAtOnce) {
  Machine machine(Kernel("bar.sync 16; ret;"));
  EXPECT_EQ(machine.Run("test", {}, {32, 1, 1}, Arguments(machine.Upload(Words(32)))).status,
            LaunchStatus::kIllegalInstruction);
}

TEST(ControlFlowTest, LanesThatLeaveInAnyPatternLeaveTheOthersRunning) {
  Machine machine(Kernel(R"(
  mul.lo.u32 %v, %t, 0x9E3779B1;
  shr.u32 %v, %v, 30;
  mov.u32 %w, 0;
again:
  setp.eq.u32 %p, %v, %w;
  @%p st.global.u32 [%a], %w;
  @%p exit;
  add.u32 %w, %w, 1;
  bar.sync 0;
  bra again;)"));
  const Words found = RunOn(machine, 203, Words(203, 99));
  for (std::uint32_t i = 0; i < 203; ++i) EXPECT_EQ(found[i], (i * 0x9E3779B1u) >> 30) << i;
}

TEST(ControlFlowTest, BarrierReductionsSeeEveryThread) {
  Machine machine(Kernel(R"(
  setp.lt.u32 %p, %t, 5;
  bar.red.popc.u32 %v, 0, %p;
  bar.red.and.pred %q, 0, %p;
  selp.u32 %w, 100, 0, %q;
  add.u32 %v, %v, %w;
  bar.red.or.pred %q, 0, !%p;
  selp.u32 %w, 1000, 0, %q;
  add.u32 %v, %v, %w;
  st.global.u32 [%a], %v;
  ret;)"));
  for (const std::uint32_t word : RunOn(machine, 48)) EXPECT_EQ(word, 1005u);
}

TEST(ControlFlowTest, ThreadsThatWaitForEachOtherForEverAreAnError) {
  Machine machine(Kernel(R"(
  setp.eq.u32 %p, %t, 0;
  @%p bra other;
  bar.sync 0;
  ret;
other:
  bar.sync 1;
  ret;)"));
  const LaunchResult result = machine.Run("test", {}, {2, 1, 1}, Arguments(machine.Upload(Words(2))));
  EXPECT_EQ(result.status, LaunchStatus::kIllegalInstruction);
  EXPECT_THAT(result.detail, HasSubstr("wait at barriers"));
}

// Each thread takes a lock in turn: who holds it stands at a later instruction than those who try.
TEST(ControlFlowTest, SpinLockMakesProgress) {
  Machine machine(Kernel(R"(
again:
  atom.global.cas.b32 %v, [%base], 0, 1;
  setp.ne.u32 %p, %v, 0;
  @%p bra again;
  ld.global.u32 %w, [%base+4];
  add.u32 %w, %w, 1;
  st.global.u32 [%base+4], %w;
  atom.global.exch.b32 %v, [%base], 0;
  ret;)"));
  EXPECT_THAT(RunOn(machine, 6, Words(6)), testing::ElementsAre(0, 6, 0, 0, 0, 0));
}

TEST(ControlFlowTest, EndlessLoopCanBeAborted) {
  Machine machine(Kernel("again: bra again;"));
  std::atomic<bool> abort = false;
  std::thread aborter([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    abort = true;
  });
  const LaunchResult result = machine.Run("test", {}, {32, 1, 1}, Arguments(machine.Upload(Words(32))), 0, &abort);
  aborter.join();
  EXPECT_EQ(result.status, LaunchStatus::kAborted);
}

TEST(ControlFlowTest, TrapNamesBlockThreadAndLine) {
  Machine machine(Kernel(R"(
  mov.u32 %v, %ctaid.x;
  setp.eq.u32 %p, %v, 2;
  setp.eq.and.u32 %p, %t, 5, %p;
  @%p trap;
  ret;)"));
  const LaunchResult result = machine.Run("test", {4, 1, 1}, {32, 1, 1}, Arguments(std::uint64_t{0}));
  EXPECT_EQ(result.status, LaunchStatus::kTrap);
  EXPECT_THAT(result.detail, HasSubstr("kernel test, PTX line 14, block (2, 0, 0), thread (5, 0, 0)"));
}

TEST(ControlFlowTest, CallsPassParametersAndResults) {
  Machine machine(Kernel(R"(
  {
    .param .b32 arguments0; .param .b32 arguments1; .param .b32 result;
    st.param.b32 [arguments0+0], %t;
    st.param.b32 [arguments1+0], 7;
    call.uni (result), multiply, (arguments0, arguments1);
    ld.param.b32 %v, [result+0];
  }
  setp.gt.u32 %p, %t, 1;
  @%p call (%v), add_one, (%v);
  st.global.u32 [%a], %v;
  ret;)",
                         R"(
.func (.param .b32 product) multiply(.param .b32 x, .param .b32 y);
.func (.reg .u32 %r) add_one(.reg .u32 %x) {
  setp_skip: add.u32 %r, %x, 1;
  ret;
}
.func (.param .b32 product) multiply(.param .b32 x, .param .b32 y) {
  .reg .u32 %x, %y; .reg .pred %zero;
  ld.param.b32 %x, [x+0];
  ld.param.b32 %y, [y+0];
  setp.eq.u32 %zero, %x, 0;
  @%zero bra none;
  mul.lo.u32 %x, %x, %y;
  st.param.b32 [product+0], %x;
  ret;
none:
  st.param.b32 [product+0], 99;
  ret;
})"));
  EXPECT_THAT(RunOn(machine, 4), testing::ElementsAre(99, 7, 15, 22));
}

TEST(ControlFlowTest, BlocksSeeTheirPlaceInTheGrid) {
  Machine machine(R"(.version 7.8
.target sm_80
.address_size 64
.visible .entry test(.param .u64 data) {
  .reg .u64 %a; .reg .u32 %i, %n, %tx, %ty, %cx, %cy, %cz, %gx, %gy;
  ld.param.u64 %a, [data];
  mov.u32 %tx, %tid.x; mov.u32 %ty, %tid.y;
  mov.u32 %cx, %ctaid.x; mov.u32 %cy, %ctaid.y; mov.u32 %cz, %ctaid.z;
  mov.u32 %gx, %nctaid.x; mov.u32 %gy, %nctaid.y;
  mad.lo.u32 %i, %cz, %gy, %cy;
  mad.lo.u32 %i, %i, %gx, %cx;
  mov.u32 %n, %ntid.y;
  mad.lo.u32 %i, %i, %n, %ty;
  mov.u32 %n, %ntid.x;
  mad.lo.u32 %i, %i, %n, %tx;
  mad.wide.u32 %a, %i, 4, %a;
  st.global.u32 [%a], %i;
  ret;
})");
  const std::uint64_t data = machine.Upload(Words(2 * 3 * 4 * 5 * 6));
  ASSERT_EQ(machine.Run("test", {2, 3, 4}, {5, 6, 1}, Arguments(data)).status, LaunchStatus::kDone);
  Words expected(2 * 3 * 4 * 5 * 6);
  std::iota(expected.begin(), expected.end(), 0u);
  EXPECT_EQ(machine.Download<std::uint32_t>(data, expected.size()), expected);
}

TEST(ControlFlowTest, RefusesConfigurationsThatNoDeviceTakes) {
  Machine machine(Kernel("ret;"));
  const Arguments arguments(std::uint64_t{0});
  EXPECT_EQ(machine.Run("test", {}, {1025, 1, 1}, arguments).status, LaunchStatus::kInvalidConfig);
  EXPECT_EQ(machine.Run("test", {}, {32, 32, 2}, arguments).status, LaunchStatus::kInvalidConfig);
  EXPECT_EQ(machine.Run("test", {0, 1, 1}, {}, arguments).status, LaunchStatus::kInvalidConfig);
  EXPECT_EQ(machine.Run("test", {}, {}, Arguments()).status, LaunchStatus::kInvalidConfig);
  EXPECT_EQ(machine.Run("test", {}, {}, arguments, 1 << 20).status, LaunchStatus::kInvalidConfig);
  EXPECT_EQ(machine.Run("test", {}, {1024, 1, 1}, arguments).status, LaunchStatus::kDone);
}

}  // namespace
}  // namespace softgpu::ptx
