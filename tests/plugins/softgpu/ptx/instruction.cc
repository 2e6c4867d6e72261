#include "tests/plugins/softgpu/ptx/instruction.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>

namespace softgpu::ptx {
namespace {

// "b32" of "s32"; predicates are stored as 0 and 1 in 32 bits.
std::string StoredType(const std::string& type) {
  if (type == "pred") return "u32";
  if (type == "bf16") return "b16";
  if (type.ends_with("x2")) return "b32";
  return "b" + type.substr(1);
}

}  // namespace

std::vector<std::uint64_t> Evaluate(std::string_view instruction, std::string_view result_type,
                                    const std::vector<std::string>& source_types,
                                    const std::vector<std::vector<std::uint64_t>>& operands) {
  const std::string result(result_type);
  std::string body;
  std::string operand_list;
  for (std::size_t k = 0; k < source_types.size(); ++k) {
    const std::string& type = source_types[k];
    const std::string stored = StoredType(type);
    body += fmt::format(".reg .{} %s{}; .reg .{} %l{};\n",
                        type == "pred"   ? "pred"
                        : stored == "b8" ? "b16"
                                         : stored,
                        k, stored == "b8" ? "b16" : stored, k);
    body += fmt::format("ld.global.{} %l{}, [%in+{}];\n", stored, k, 8 * k);
    body += type == "pred" ? fmt::format("setp.ne.u32 %s{}, %l{}, 0;\n", k, k)
                           : fmt::format("mov.{} %s{}, %l{};\n", stored == "b8" ? "b16" : stored, k, k);
    operand_list += fmt::format(", %s{}", k);
  }
  const std::string stored = StoredType(result);
  body += fmt::format(".reg .{} %d; .reg .u32 %flag;\n{} %d{};\n",
                      result == "pred" ? "pred"
                      : stored == "b8" ? "b16"
                                       : stored,
                      instruction, operand_list);
  body += result == "pred" ? "selp.u32 %flag, 1, 0, %d;\nst.global.u32 [%out], %flag;\n"
                           : fmt::format("st.global.{} [%out], %d;\n", stored);
  const std::string text = fmt::format(R"(.version 7.8
.target sm_80
.address_size 64
.visible .entry test(.param .u64 inputs, .param .u64 outputs, .param .u32 count) {{
  .reg .u32 %i, %n, %block, %t;
  .reg .u64 %in, %out;
  .reg .pred %beyond;
  mov.u32 %t, %tid.x;
  mov.u32 %block, %ctaid.x;
  mad.lo.u32 %i, %block, 128, %t;
  ld.param.u32 %n, [count];
  setp.ge.u32 %beyond, %i, %n;
  @%beyond ret;
  ld.param.u64 %in, [inputs];
  mad.wide.u32 %in, %i, 64, %in;
  ld.param.u64 %out, [outputs];
  mad.wide.u32 %out, %i, 8, %out;
  {}
  ret;
}}
)",
                                       body);
  Machine machine(text);
  const auto count = static_cast<std::uint32_t>(operands.size());
  std::vector<std::uint64_t> inputs(count * 8);
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t k = 0; k < operands[i].size(); ++k) inputs[i * 8 + k] = operands[i][k];
  }
  const std::uint64_t outputs = machine.Upload(std::vector<std::uint64_t>(count));
  const LaunchResult launched =
      machine.Run("test", {(count + 127) / 128, 1, 1}, {128, 1, 1}, Arguments(machine.Upload(inputs), outputs, count));
  if (launched.status != LaunchStatus::kDone) {
    ADD_FAILURE() << instruction << ": " << launched.detail;
  }
  return machine.Download<std::uint64_t>(outputs, count);
}

std::vector<std::vector<std::uint64_t>> AllCombinations(const std::vector<std::vector<std::uint64_t>>& lists) {
  std::vector<std::vector<std::uint64_t>> rows = {{}};
  for (const std::vector<std::uint64_t>& list : lists) {
    std::vector<std::vector<std::uint64_t>> longer;
    for (const std::vector<std::uint64_t>& row : rows) {
      for (const std::uint64_t value : list) {
        longer.push_back(row);
        longer.back().push_back(value);
      }
    }
    rows = std::move(longer);
  }
  return rows;
}

std::vector<std::uint64_t> EdgeIntegers(unsigned bits) {
  const std::uint64_t mask = bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1;
  const std::uint64_t top = std::uint64_t{1} << (bits - 1);
  std::vector<std::uint64_t> values = {
      0, 1, 2, 7, mask, mask - 1, top, top - 1, top + 1, 0x5A5A5A5A5A5A5A5A, 0x9E3779B97F4A7C15, 0x0123456789ABCDEF};
  for (std::uint64_t& value : values) value &= mask;
  return values;
}

std::vector<std::uint64_t> EdgeFloats() {
  std::vector<std::uint64_t> values = {0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000,
                                       0x3F800000, 0xBF800000, 0x3F7FFFFF, 0x3F800001, 0x7F7FFFFF, 0xFF7FFFFF,
                                       0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345, 0x4B000001, 0xCB7FFFFF,
                                       0x3F000000, 0x3FC00000, 0xC0490FDB, 0x4F000000};
  return values;
}

std::vector<std::uint64_t> EdgeDoubles() {
  return {0,
          0x8000000000000000,
          1,
          0x8000000000000001,
          0x000FFFFFFFFFFFFF,
          0x0010000000000000,
          0x3FF0000000000000,
          0xBFF0000000000000,
          0x3FEFFFFFFFFFFFFF,
          0x3FF0000000000001,
          0x7FEFFFFFFFFFFFFF,
          0x7FF0000000000000,
          0xFFF0000000000000,
          0x7FF8000000000000,
          0x4330000000000001,
          0xC1E0000000200000,
          0x41EFFFFFFFE00000,
          0x43E0000000000000,
          0xC3E0000000000000,
          0x3FE0000000000000,
          0x4004000000000000,
          0xC00921FB54442D18};
}

}  // namespace softgpu::ptx
