// What is remembered of addresses must be forgotten as soon as one of them changes, whichever way.

#include "plugins/softgpu/ptx/known_patterns.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/plugins/softgpu/ptx/machine.h"

namespace softgpu::ptx {
namespace {

using Addresses = std::vector<std::uint64_t>;
using Words = std::vector<std::uint32_t>;

constexpr std::uint32_t kLanes = 75;
constexpr std::uint32_t kMove = 512;  // What is added to the address of a word.

// Thread t stores 1 to word t, then changes its address by `change`, and stores 2. %b has the address plus kMove, and
// so has the table at %c, once per thread; %p is true for every third thread.
Words RunChange(const std::string& change) {
  Machine machine(fmt::format(R"(.version 7.8
.target sm_80
.address_size 64
.func (.reg .u64 %r) moved(.reg .u64 %x) {{ add.u64 %r, %x, {}; ret; }}
.visible .entry test(.param .u64 data, .param .u64 table) {{
  .reg .u64 %a, %b, %c, %d; .reg .u32 %t, %v, %lo, %hi; .reg .pred %p;
  .shared .align 8 .b8 own[1024];
  .reg .u64 %s;
  ld.param.u64 %a, [data];
  ld.param.u64 %c, [table];
  mov.u32 %t, %tid.x;
  mad.wide.u32 %a, %t, 4, %a;
  mad.wide.u32 %c, %t, 16, %c;
  add.u64 %b, %a, {};
  mov.u64 %s, own;
  mad.wide.u32 %s, %t, 8, %s;
  st.shared.u64 [%s], %b;
  rem.u32 %v, %t, 3;
  setp.eq.u32 %p, %v, 0;
  st.global.u32 [%a], 1;
  {}
  st.global.u32 [%a], 2;
  ret;
}})",
                              kMove, kMove, change));
  const std::uint64_t data = machine.Upload(Words(2 * kMove / 4));
  Addresses table(2 * kLanes);
  for (std::uint64_t i = 0; i < 2 * kLanes; ++i) table[i] = data + i / 2 * 4 + kMove;
  const LaunchResult result = machine.Run("test", {}, {kLanes, 1, 1}, Arguments(data, machine.Upload(table)));
  EXPECT_EQ(result.status, LaunchStatus::kDone) << result.detail;
  return machine.Download<std::uint32_t>(data, 2 * kMove / 4);
}

TEST(KnownPatternsTest, EveryWayToChangeAnAddressIsSeen) {
  for (const std::string change :
       {"add.u64 %a, %a, 512;", "mov.u64 %a, %b;", "cvta.to.global.u64 %a, %b;", "selp.b64 %a, %b, %a, 1;",
        "mad.wide.u32 %a, %v, 0, %b;", "add.cc.u64 %a, %a, 512;",
        "mov.b64 {%lo, %hi}, %a; add.cc.u32 %lo, %lo, 512; addc.u32 %hi, %hi, 0; mov.b64 %a, {%lo, %hi};",
        "ld.global.u64 %a, [%c];", "ld.global.v2.u64 {%d, %a}, [%c];", "ld.global.v2.u64 {%a, %d}, [%c];",
        "ld.shared.u64 %a, [%s];", "atom.global.add.u64 %a, [%c], 0;", "call (%a), moved, (%a);",
        "sub.u64 %a, %a, -512;", "xor.b64 %a, %a, %b; xor.b64 %a, %a, %b; max.u64 %a, %a, %b;"}) {
    SCOPED_TRACE(change);
    const Words found = RunChange(change);
    for (std::uint32_t i = 0; i < kLanes; ++i) {
      ASSERT_EQ(found[i], 1u) << i;
      ASSERT_EQ(found[i + kMove / 4], 2u) << i;
    }
  }
}

TEST(KnownPatternsTest, ChangesBySomeThreadsAreSeen) {
  for (const std::string change : {"@%p add.u64 %a, %a, 512;", "selp.b64 %a, %b, %a, %p;",
                                   "@!%p bra same; add.u64 %a, %a, 512; same:", "@%p ld.global.u64 %a, [%c];",
                                   "@%p atom.global.add.u64 %a, [%c], 0;"}) {
    SCOPED_TRACE(change);
    const Words found = RunChange(change);
    for (std::uint32_t i = 0; i < kLanes; ++i) {
      ASSERT_EQ(found[i], i % 3 == 0 ? 1u : 2u) << i;
      ASSERT_EQ(found[i + kMove / 4], i % 3 == 0 ? 2u : 0u) << i;
    }
  }
}

// A block must not believe what was true of the one before.
TEST(KnownPatternsTest, NextBlockStartsAnew) {
  Machine machine(R"(.version 7.8
.target sm_80
.address_size 64
.visible .entry test(.param .u64 data) {
  .reg .u64 %a; .reg .u32 %t, %c;
  ld.param.u64 %a, [data];
  mov.u32 %t, %tid.x;
  mov.u32 %c, %ctaid.x;
  mad.lo.u32 %t, %c, 32, %t;
  mad.wide.u32 %a, %t, 4, %a;
  st.global.u32 [%a], %t;
  ret;
})");
  const std::uint64_t data = machine.Upload(Words(96));
  ASSERT_EQ(machine.Run("test", {3, 1, 1}, {32, 1, 1}, Arguments(data)).status, LaunchStatus::kDone);
  const Words found = machine.Download<std::uint32_t>(data, 96);
  for (std::uint32_t i = 0; i < 96; ++i) EXPECT_EQ(found[i], i);
}

TEST(KnownPatternsTest, PatternsMoveByTheDisplacementOrAreFoundAnew) {
  const Addresses addresses = {~std::uint64_t{0} - 7, ~std::uint64_t{0} - 3, 0, 4};
  const Lanes all{0, 4, 4, nullptr};
  const Lanes front{0, 2, 2, nullptr};
  KnownPatterns known;
  for (const std::uint64_t displacement : {std::uint64_t{0}, std::uint64_t{8}, std::uint64_t{2}, ~std::uint64_t{0}}) {
    SCOPED_TRACE(displacement);
    for (const Lanes& lanes : {all, front, all}) {
      const AddressPattern expected = PatternOf(addresses.data(), displacement, lanes);
      const AddressPattern found = known.Of(1, addresses.data(), displacement, lanes, 4);
      EXPECT_EQ(found.low, expected.low);
      EXPECT_EQ(found.high, expected.high);
      EXPECT_EQ((found.all_bits & 3) == 0, (expected.all_bits & 3) == 0);
    }
  }
  // Two that are misaligned may make one that is not.
  const Addresses odd = {2, 6};
  EXPECT_NE(known.Of(2, odd.data(), 0, front, 4).all_bits & 3, 0u);
  EXPECT_EQ(known.Of(2, odd.data(), 2, front, 4).all_bits & 3, 0u);
  EXPECT_NE(known.Of(2, odd.data(), 1, front, 4).all_bits & 3, 0u);
}

}  // namespace
}  // namespace softgpu::ptx
