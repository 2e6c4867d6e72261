// Operands that are the same for all threads go a way of their own: the result must not depend on where an operand is.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <vector>

#include "tests/plugins/softgpu/ptx/instruction.h"
#include "tests/plugins/softgpu/ptx/machine.h"

namespace softgpu::ptx {
namespace {

using Values = std::vector<std::uint64_t>;

constexpr std::uint32_t kLanes = 75;

struct Shape {
  std::string instruction;
  unsigned bits;          // Of the result and the first operand.
  unsigned operand_bits;  // Of the second.
};

// Of two f64 NaNs either may be the sum: x86 takes the one that the compiler named first.
std::uint64_t WithOneNan(const Shape& shape, std::uint64_t bits) {
  const double value = std::bit_cast<double>(bits);
  return shape.instruction.ends_with("f64") && value != value ? 0x7FF8000000000000 : bits;
}

// Thread t gets `first[t]` and a second operand, once from memory and once as `second` in the text, and leaves both
// results. The threads of a guard do so: all but the first, or all but every third.
std::pair<Values, Values> RunBoth(const Shape& shape, const std::string& second, const Values& first,
                                  std::uint64_t second_value, const std::string& guard) {
  Machine machine(fmt::format(R"(.version 7.8
.target sm_80
.address_size 64
.visible .entry test(.param .u64 from, .param .u64 to, .param .u64 second) {{
  .reg .u64 %from, %to; .reg .u32 %t, %r; .reg .pred %p;
  .reg .b{0} %a, %x, %y; .reg .b{1} %b; .reg .u64 %second;
  ld.param.u64 %from, [from];
  ld.param.u64 %to, [to];
  ld.param.u64 %second, [second];
  mov.u32 %t, %tid.x;
  mad.wide.u32 %from, %t, 8, %from;
  mad.wide.u32 %to, %t, 16, %to;
  ld.global.b{0} %a, [%from];
  ld.global.b{1} %b, [%second];
  mov.b{0} %x, 0;
  mov.b{0} %y, 0;
  rem.u32 %r, %t, 3;
  {2}
  @%p {3} %x, %a, %b;
  @%p {3} %y, %a, {4};
  st.global.b{0} [%to], %x;
  st.global.b{0} [%to+8], %y;
  ret;
}})",
                              shape.bits, shape.operand_bits, guard, shape.instruction, second));
  const std::uint64_t to = machine.Upload(Values(2 * first.size()));
  const LaunchResult result = machine.Run("test", {}, {static_cast<std::uint32_t>(first.size()), 1, 1},
                                          Arguments(machine.Upload(first), to, machine.Upload(Values{second_value})));
  EXPECT_EQ(result.status, LaunchStatus::kDone) << result.detail;
  const Values both = machine.Download<std::uint64_t>(to, 2 * first.size());
  std::pair<Values, Values> results;
  for (std::size_t i = 0; i < first.size(); ++i) {
    results.first.push_back(WithOneNan(shape, both[2 * i]));
    results.second.push_back(WithOneNan(shape, both[2 * i + 1]));
  }
  return results;
}

TEST(OperationTest, NumbersInTheProgramGiveWhatRegistersDo) {
  std::vector<Shape> shapes;
  for (const unsigned bits : {16u, 32u, 64u}) {
    for (const char* name : {"add.s", "sub.s", "mul.lo.s", "mul.hi.u", "mul.hi.s", "div.s", "rem.u", "min.s", "max.u",
                             "and.b", "or.b", "xor.b"})
      shapes.push_back({name + std::to_string(bits), bits, bits});
    for (const char* name : {"shl.b", "shr.u", "shr.s"}) shapes.push_back({name + std::to_string(bits), bits, 32});
  }
  for (const char* name : {"add.rn.f", "mul.rn.f", "div.rn.f", "min.f", "max.f"}) {
    shapes.push_back({std::string(name) + "32", 32, 32});
    shapes.push_back({std::string(name) + "64", 64, 64});
  }
  for (const Shape& shape : shapes) {
    Values first = shape.instruction.find(".f") != std::string::npos ? (shape.bits == 32 ? EdgeFloats() : EdgeDoubles())
                                                                     : EdgeIntegers(shape.bits);
    for (std::size_t i = 0; first.size() < kLanes; ++i) first.push_back(first[i] * 0x9E3779B97F4A7C15);
    const bool is_float = shape.instruction.find(".f") != std::string::npos;
    for (std::uint64_t second : {0x0ull, 0x1ull, 0x7ull, 0x1Full, 0x20ull, 0x3Full, 0x40ull, 0x3F800001ull, ~0ull}) {
      if (shape.operand_bits < 64) second &= (std::uint64_t{1} << shape.operand_bits) - 1;
      const std::string text = !is_float          ? fmt::format("{}", second)
                               : shape.bits == 32 ? fmt::format("0f{:08X}", second)
                                                  : fmt::format("0d{:016X}", second);
      for (const std::string guard : {"setp.ne.u32 %p, %t, 0;", "setp.ne.u32 %p, %r, 0;"}) {
        const auto [by_register, by_number] = RunBoth(shape, text, first, second, guard);
        ASSERT_EQ(by_register, by_number) << shape.instruction << " " << text;
      }
    }
  }
}

TEST(OperationTest, SpecialRegistersAreOfEachThreadOrOfAll) {
  const Values first(kLanes, 1000);
  const Shape add{"add.u32", 32, 32};
  for (const char* name : {"%tid.x", "%laneid", "%warpid", "%ntid.x", "%nctaid.x", "%ctaid.x", "%tid.y"}) {
    const Values found = RunBoth(add, name, first, 0, "setp.ge.u32 %p, %t, 0;").second;
    for (std::uint32_t t = 0; t < kLanes; ++t) {
      const std::string_view of = name;
      const std::uint32_t value = of == "%tid.x"      ? t
                                  : of == "%laneid"   ? t % 32
                                  : of == "%warpid"   ? t / 32
                                  : of == "%ntid.x"   ? kLanes
                                  : of == "%nctaid.x" ? 1
                                                      : 0;
      ASSERT_EQ(found[t], 1000 + value) << name << " " << t;
    }
  }
}

}  // namespace
}  // namespace softgpu::ptx
