// Loads, stores and atomics in every state space, and every way to miss.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>

#include "tests/plugins/softgpu/ptx/machine.h"

namespace softgpu::ptx {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Words = std::vector<std::uint32_t>;

std::string Kernel(const std::string& body, const std::string& before = "") {
  return R"(.version 7.8
.target sm_80
.address_size 64
)" + before +
         R"(
.visible .entry test(.param .u64 data, .param .u32 number) {
  .reg .u64 %a, %base, %b; .reg .u32 %t, %v, %w, %x, %y, %n; .reg .pred %p; .reg .u16 %h; .reg .f32 %f; .reg .f64 %d;
  ld.param.u64 %base, [data];
  ld.param.u32 %n, [number];
  mov.u32 %t, %tid.x;
  mad.wide.u32 %a, %t, 4, %base;
)" + body +
         "\nret;\n}\n";
}

LaunchResult Start(Machine& machine, std::uint64_t data, std::uint32_t lanes = 1, std::uint32_t number = 0,
                   std::uint32_t dynamic_shared_bytes = 0) {
  return machine.Run("test", {}, {lanes, 1, 1}, Arguments(data, number), dynamic_shared_bytes);
}

Words RunOn(Machine& machine, std::uint32_t lanes, const Words& initial, std::uint32_t number = 0,
            std::uint32_t dynamic_shared_bytes = 0) {
  const std::uint64_t data = machine.Upload(initial);
  const LaunchResult result = Start(machine, data, lanes, number, dynamic_shared_bytes);
  EXPECT_EQ(result.status, LaunchStatus::kDone) << result.detail;
  return machine.Download<std::uint32_t>(data, initial.size());
}

TEST(MemoryTest, NarrowLoadsExtendIntoWideRegisters) {
  Machine machine(Kernel(R"(
  ld.global.u8 %v, [%base];
  ld.global.s8 %w, [%base];
  ld.global.s16 %x, [%base+2];
  ld.global.u8 %h, [%base+1];
  cvt.u32.u16 %y, %h;
  st.global.v4.u32 [%base+16], {%v, %w, %x, %y};
  st.global.u8 [%base+4], %w;)"));
  EXPECT_THAT(RunOn(machine, 1, {0x8001A5F0, 0, 0, 0, 0, 0, 0, 0}),
              ElementsAre(0x8001A5F0, 0xF0, 0, 0, 0xF0, 0xFFFFFFF0, 0xFFFF8001, 0xA5));
}

TEST(MemoryTest, VectorsAndTheirAddressRegisterMayOverlap) {
  Machine machine(Kernel(R"(
  ld.global.v2.u64 {%base, %b}, [%base];
  ld.param.u64 %a, [data];
  st.global.v2.u64 [%a+16], {%b, %base};)"));
  EXPECT_THAT(RunOn(machine, 1, {1, 2, 3, 4, 0, 0, 0, 0}), ElementsAre(1, 2, 3, 4, 3, 4, 1, 2));
}

// Neighbouring lanes with neighbouring vectors go a way of their own; each element must still find its register.
TEST(MemoryTest, NeighbouringVectorsAreDealtAndGathered) {
  struct Shape {
    std::uint32_t bytes, count;
  };
  for (const auto [bytes, count] :
       {Shape{1, 2}, Shape{1, 4}, Shape{2, 2}, Shape{2, 4}, Shape{4, 2}, Shape{4, 4}, Shape{8, 2}}) {
    SCOPED_TRACE(fmt::format("v{} of {} bytes", count, bytes));
    // Out comes each vector with its elements in reverse order.
    const std::string access = fmt::format("global.v{}.b{}", count, bytes * 8);
    const std::string bits = bytes == 8 ? "b64" : bytes == 4 ? "b32" : "b16";
    const std::string forward = count == 2 ? "{%e0, %e1}" : "{%e0, %e1, %e2, %e3}";
    const std::string reverse = count == 2 ? "{%e1, %e0}" : "{%e3, %e2, %e1, %e0}";
    Machine machine(fmt::format(R"(.version 7.5
.target sm_80
.address_size 64
.visible .entry reverse(.param .u64 from, .param .u64 to) {{
  .reg .{} %e<4>;
  .reg .b32 %t;
  .reg .b64 %f, %g;
  ld.param.u64 %f, [from];
  ld.param.u64 %g, [to];
  mov.u32 %t, %tid.x;
  mad.wide.u32 %f, %t, {}, %f;
  mad.wide.u32 %g, %t, {}, %g;
  ld.{} {}, [%f];
  st.{} [%g], {};
  ret;
}})",
                                bits, bytes * count, bytes * count, access, forward, access, reverse));
    const std::uint32_t lanes = 75;
    std::vector<std::uint8_t> from(lanes * bytes * count), expected(from.size());
    for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::uint8_t>(i * 37 + 11);
    for (std::size_t i = 0; i < lanes * count; ++i) {
      const std::size_t mirrored = i / count * count + (count - 1 - i % count);
      std::copy_n(from.begin() + static_cast<long>(i * bytes), bytes,
                  expected.begin() + static_cast<long>(mirrored * bytes));
    }
    const std::uint64_t to = machine.Upload(std::vector<std::uint8_t>(from.size()));
    const LaunchResult result = machine.Run("reverse", {1, 1, 1}, {lanes, 1, 1}, Arguments(machine.Upload(from), to));
    ASSERT_EQ(result.status, LaunchStatus::kDone) << result.detail;
    EXPECT_EQ(machine.Download<std::uint8_t>(to, from.size()), expected);
  }
}

TEST(MemoryTest, GatherScatterAndBroadcast) {
  Machine machine(Kernel(R"(
  sub.u32 %v, 63, %t;
  mad.wide.u32 %b, %v, 4, %base;
  ld.global.u32 %w, [%b];
  ld.global.u32 %x, [%base+40];
  add.u32 %w, %w, %x;
  bar.sync 0;
  st.global.u32 [%a], %w;)"));
  Words initial(64);
  for (std::uint32_t i = 0; i < 64; ++i) initial[i] = 100 + i;
  const Words found = RunOn(machine, 64, initial);
  for (std::uint32_t i = 0; i < 64; ++i) EXPECT_EQ(found[i], 163 - i + 110);
}

TEST(MemoryTest, LastLaneWinsAConflict) {
  Machine machine(Kernel("st.global.u32 [%base], %t;"));
  EXPECT_EQ(RunOn(machine, 64, Words(64))[0], 63u);
}

TEST(MemoryTest, LocalMemoryIsOfEachThread) {
  Machine machine(Kernel(R"(
  .local .align 8 .b8 depot[32];
  .reg .u64 %l, %g;
  mov.u64 %l, depot;
  cvta.local.u64 %g, %l;
  st.u32 [%g+4], %t;
  st.local.u32 [depot+8], 5;
  ld.local.u32 %v, [%l+4];
  ld.u32 %w, [%g+8];
  add.u32 %v, %v, %w;
  st.global.u32 [%a], %v;)"));
  EXPECT_THAT(RunOn(machine, 4, Words(4)), ElementsAre(5, 6, 7, 8));
}

TEST(MemoryTest, SharedMemoryStaticAndDynamic) {
  Machine machine(Kernel(R"(
  .shared .align 4 .b8 own[20];
  .reg .u64 %s, %g;
  mov.u64 %s, dynamic;
  cvta.shared.u64 %g, %s;
  mad.wide.u32 %g, %t, 4, %g;
  st.u32 [%g], %t;
  st.shared.u32 [own+4], 1000;
  st.shared.u32 [of_module], 7;
  bar.sync 0;
  xor.b32 %v, %t, 1;
  mad.wide.u32 %s, %v, 4, %s;
  ld.shared.u32 %w, [%s];
  ld.shared.u32 %x, [own+4];
  add.u32 %w, %w, %x;
  ld.shared.u32 %x, [of_module];
  add.u32 %w, %w, %x;
  mov.u32 %x, %dynamic_smem_size;
  add.u32 %w, %w, %x;
  st.global.u32 [%a], %w;)",
                         ".extern .shared .align 16 .b8 dynamic[];\n.shared .align 4 .u32 of_module;"));
  EXPECT_EQ(machine.module->FindKernel("test")->static_shared_bytes, 24u);
  EXPECT_THAT(RunOn(machine, 4, Words(4), 0, 16), ElementsAre(1024, 1023, 1026, 1025));
  EXPECT_EQ(Start(machine, machine.Upload(Words(4)), 4, 0, 8).status, LaunchStatus::kIllegalAddress);
}

TEST(MemoryTest, ModuleVariablesHaveTheirInitialValues) {
  Machine machine(Kernel(R"(
  ld.const.u32 %v, [table+8];
  ld.global.u32 %w, [counter];
  add.u32 %w, %w, 1;
  st.global.u32 [counter], %w;
  ld.global.u64 %b, [pointer];
  ld.u32 %x, [%b];
  ld.global.f32 %f, [half];
  mov.b32 %y, %f;
  st.global.v4.u32 [%base], {%v, %w, %x, %y};)",
                         R"(
.const .align 4 .u32 table[4] = {10, 20, 30, 40};
.global .align 4 .u32 counter = 41;
.global .align 8 .u64 pointer = generic(table) + 4;
.global .f32 half = 0f3F000000;
.visible .global .align 4 .b8 bytes[3] = {1, -1, 0x7f};)"));
  const std::vector<GlobalVariable>& globals = machine.module->globals();
  ASSERT_EQ(globals.size(), 5u);
  EXPECT_TRUE(globals[0].is_const);
  EXPECT_EQ(globals[1].name, "counter");
  EXPECT_THAT(globals[4].initial, ElementsAre(std::byte{1}, std::byte{0xFF}, std::byte{0x7F}));
  EXPECT_THAT(RunOn(machine, 1, Words(4)), ElementsAre(30, 42, 20, 0x3F000000));
  EXPECT_EQ(machine.Download<std::uint32_t>(machine.global_addresses[1], 1)[0], 42u);
}

TEST(MemoryTest, ParametersCanBeReadThroughAnAddress) {
  Machine machine(Kernel(R"(
  .reg .u64 %q;
  mov.b64 %q, number;
  ld.param.u32 %v, [%q];
  cvta.param.u64 %q, %q;
  ld.u32 %w, [%q];
  st.global.v2.u32 [%base], {%v, %w};)"));
  EXPECT_THAT(RunOn(machine, 1, Words(2), 123), ElementsAre(123, 123));
}

TEST(MemoryTest, ParametersLieAtTheirNaturalOffsets) {
  Machine machine(R"(.version 7.8
.target sm_80
.address_size 64
.visible .entry test(.param .u8 a, .param .u64 .ptr .global .align 4 b, .param .align 16 .b8 c[20], .param .u16 d) .maxntid 128, 1, 1 { ret; }
)");
  const softgpu::ptx::Kernel& kernel = *machine.module->FindKernel("test");
  ASSERT_EQ(kernel.parameters.size(), 4u);
  EXPECT_EQ(kernel.parameters[1].offset, 8u);
  EXPECT_EQ(kernel.parameters[2].offset, 16u);
  EXPECT_EQ(kernel.parameters[2].bytes, 20u);
  EXPECT_EQ(kernel.parameters[3].offset, 36u);
  EXPECT_EQ(kernel.parameter_bytes, 38u);
  EXPECT_EQ((*kernel.max_ntid)[0], 128u);
}

TEST(MemoryTest, SpacesOfGenericAddresses) {
  Machine machine(Kernel(R"(
  .shared .align 4 .b8 own[4];
  .reg .u64 %s;
  mov.u64 %s, own;
  cvta.shared.u64 %s, %s;
  isspacep.shared %p, %s;
  selp.u32 %v, 1, 0, %p;
  isspacep.global %p, %s;
  selp.u32 %w, 1, 0, %p;
  isspacep.global %p, %base;
  selp.u32 %x, 1, 0, %p;
  st.global.v2.u32 [%base], {%v, %w};
  st.global.u32 [%base+8], %x;)"));
  EXPECT_THAT(RunOn(machine, 1, Words(3)), ElementsAre(1, 0, 1));
}

TEST(MemoryTest, AtomicsOfEveryKind) {
  struct Case {
    std::string operation;
    std::uint32_t before, operand, after;
  };
  const std::vector<Case> cases = {{"add.u32", 5, 7, 12},
                                   {"min.s32", 5, 0xFFFFFFFF, 0xFFFFFFFF},
                                   {"min.u32", 5, 0xFFFFFFFF, 5},
                                   {"max.s32", 5, 0xFFFFFFFF, 5},
                                   {"max.u32", 5, 0xFFFFFFFF, 0xFFFFFFFF},
                                   {"and.b32", 0xFF, 0x0F0, 0xF0},
                                   {"or.b32", 0xF, 0xF0, 0xFF},
                                   {"xor.b32", 0xFF, 0xF0, 0x0F},
                                   {"exch.b32", 1, 2, 2},
                                   {"inc.u32", 4, 5, 5},
                                   {"inc.u32", 5, 5, 0},
                                   {"dec.u32", 0, 9, 9},
                                   {"dec.u32", 5, 9, 4},
                                   {"dec.u32", 10, 9, 9},
                                   {"add.f32", 0x3F800000, 0x40000000, 0x40400000}};
  for (const Case& one : cases) {
    const std::string type = one.operation.substr(one.operation.find('.') + 1);
    Machine machine(Kernel(
        fmt::format("ld.global.{} {}, [%base+4]; atom.global.{} {}, [%base], {}; st.global.{} [%base+8], {}; "
                    "red.relaxed.gpu.global.{} [%base+12], {};",
                    type, type == "f32" ? "%f" : "%v", one.operation, type == "f32" ? "%f" : "%w",
                    type == "f32" ? "%f" : "%v", type, type == "f32" ? "%f" : "%w",
                    one.operation.starts_with("exch") ? "add.u32" : one.operation, type == "f32" ? "%f" : "%v")));
    const Words found = RunOn(machine, 1, {one.before, one.operand, 0, 0});
    EXPECT_EQ(found[0], one.after) << one.operation;
    EXPECT_EQ(found[2], one.before) << one.operation;
  }
}

TEST(MemoryTest, AtomicsOfOneWordCountEveryLane) {
  Machine machine(Kernel(R"(
  .shared .align 8 .b8 sum[8];
  .reg .u64 %w64;
  atom.global.add.u32 %v, [%base], 1;
  st.shared.u64 [sum], 0;
  bar.sync 0;
  cvt.u64.u32 %w64, %t;
  red.shared.add.u64 [sum], %w64;
  atom.global.cas.b32 %v, [%base+4], 0, %t;
  bar.sync 0;
  ld.shared.u32 %w, [sum];
  st.global.u32 [%base+8], %w;
  atom.add.f64 %d, [%base+16], 0d3FF0000000000000;)"));
  const Words found = RunOn(machine, 100, Words(8));
  EXPECT_EQ(found[0], 100u);
  EXPECT_EQ(found[1], 1u);  // Lane 0 swaps 0 for 0.
  EXPECT_EQ(found[2], 4950u);
  EXPECT_EQ(std::bit_cast<double>(found[4] | (std::uint64_t{found[5]} << 32)), 100.0);
}

TEST(MemoryTest, AddressBeyondAnAllocationIsIllegal) {
  Machine machine(Kernel("ld.global.u32 %v, [%a]; st.global.u32 [%a], %v;"));
  const LaunchResult result = Start(machine, machine.Upload(Words(10)), 32);
  EXPECT_EQ(result.status, LaunchStatus::kIllegalAddress);
  EXPECT_THAT(result.detail, HasSubstr("thread (10, 0, 0): no access to address 0x7f0000000028"));
}

TEST(MemoryTest, EveryWayToMissIsAnError) {
  const std::vector<std::pair<std::string, LaunchStatus>> cases = {
      {"ld.global.u32 %v, [%base+-4];", LaunchStatus::kIllegalAddress},
      {"ld.global.u32 %v, [%base+40];", LaunchStatus::kIllegalAddress},
      {"ld.global.v2.u32 {%v, %w}, [%base+40];", LaunchStatus::kIllegalAddress},
      {"st.global.u8 [%base+40], %v;", LaunchStatus::kIllegalAddress},
      {"ld.global.u32 %v, [0];", LaunchStatus::kIllegalAddress},
      {"ld.u32 %v, [-4];", LaunchStatus::kIllegalAddress},
      {"ld.global.u32 %v, [%base+2];", LaunchStatus::kMisalignedAddress},
      {"ld.global.v4.u32 {%v, %w, %x, %y}, [%base+8];", LaunchStatus::kMisalignedAddress},
      {"atom.global.add.u32 %v, [%base+1], 1;", LaunchStatus::kMisalignedAddress},
      {"atom.global.add.u64 %b, [%base+40], 1;", LaunchStatus::kIllegalAddress},
      {".shared .b8 s[4]; ld.shared.u32 %v, [s+4];", LaunchStatus::kIllegalAddress},
      {".shared .b8 s[4]; ld.shared.u32 %v, [-4];", LaunchStatus::kIllegalAddress},
      {".local .b8 l[16]; st.local.u32 [l+16], %v;", LaunchStatus::kIllegalAddress},
      {".local .b8 l[16]; .reg .u64 %l; mov.u64 %l, l; ld.local.u32 %v, [%l+-4];", LaunchStatus::kIllegalAddress},
      {"ld.param.u32 %v, [number+4];", LaunchStatus::kIllegalAddress},
      {".reg .u64 %q; mov.u64 %q, number; cvta.param.u64 %q, %q; st.u32 [%q], %v;", LaunchStatus::kIllegalAddress},
  };
  for (const auto& [body, status] : cases) {
    Machine machine(Kernel(body));
    EXPECT_EQ(Start(machine, machine.Upload(Words(10)), 1).status, status) << body;
    EXPECT_EQ(Start(machine, machine.Upload(Words(10)), 32).status, status) << body;
  }
}

TEST(MemoryTest, ReadOnlyMemoryCannotBeWritten) {
  Machine machine(Kernel("ld.global.u32 %v, [%base]; st.global.u32 [%base], %v;"));
  EXPECT_EQ(Start(machine, machine.memory.Allocate(4, false)).status, LaunchStatus::kIllegalAddress);
}

TEST(MemoryTest, PackAndUnpack) {
  Machine machine(Kernel(R"(
  .reg .b16 %q0, %q1, %q2, %q3;
  mov.b64 {%v, %w}, 0x1122334455667788;
  mov.b64 %b, {%w, %v};
  mov.b64 {%q0, %q1, %q2, %q3}, %b;
  mov.b32 %x, {%q3, %q0};
  mov.b64 {_, %y}, %b;
  st.global.u64 [%base], %b;
  st.global.v2.u32 [%base+8], {%x, %y};)"));
  EXPECT_THAT(RunOn(machine, 1, Words(4)), ElementsAre(0x11223344, 0x55667788, 0x33445566, 0x55667788));
}

}  // namespace
}  // namespace softgpu::ptx
