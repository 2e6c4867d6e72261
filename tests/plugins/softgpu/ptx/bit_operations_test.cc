// Logic and bit fields, bit by bit.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>

#include "tests/plugins/softgpu/ptx/instruction.h"

namespace softgpu::ptx {
namespace {

using Rows = std::vector<std::vector<std::uint64_t>>;

TEST(BitOperationsTest, LogicOfEveryWidth) {
  for (const unsigned bits : {16u, 32u, 64u}) {
    const std::string type = fmt::format("b{}", bits);
    const std::uint64_t mask = bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1;
    const Rows rows = AllCombinations({EdgeIntegers(bits), EdgeIntegers(bits)});
    const auto conjunction = Evaluate("and." + type, type, {type, type}, rows);
    const auto disjunction = Evaluate("or." + type, type, {type, type}, rows);
    const auto difference = Evaluate("xor." + type, type, {type, type}, rows);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      ASSERT_EQ(conjunction[i], rows[i][0] & rows[i][1]);
      ASSERT_EQ(disjunction[i], rows[i][0] | rows[i][1]);
      ASSERT_EQ(difference[i], rows[i][0] ^ rows[i][1]);
    }
    const Rows single = AllCombinations({EdgeIntegers(bits)});
    const auto inverse = Evaluate("not." + type, type, {type}, single);
    const auto zero = Evaluate("cnot." + type, type, {type}, single);
    for (std::size_t i = 0; i < single.size(); ++i) {
      ASSERT_EQ(inverse[i], ~single[i][0] & mask);
      ASSERT_EQ(zero[i], single[i][0] == 0 ? 1u : 0u);
    }
  }
}

TEST(BitOperationsTest, CountsAndPositions) {
  for (const unsigned bits : {32u, 64u}) {
    const std::string type = fmt::format("b{}", bits);
    std::vector<std::uint64_t> values = EdgeIntegers(bits);
    for (unsigned i = 0; i < bits; ++i) values.push_back(std::uint64_t{1} << i);
    const Rows rows = AllCombinations({values});
    const auto population = Evaluate("popc." + type, "u32", {type}, rows);
    const auto zeroes = Evaluate("clz." + type, "u32", {type}, rows);
    const auto reversed = Evaluate("brev." + type, type, {type}, rows);
    const auto highest = Evaluate(fmt::format("bfind.u{}", bits), "u32", {type}, rows);
    const auto highest_signed = Evaluate(fmt::format("bfind.s{}", bits), "u32", {type}, rows);
    const auto shift = Evaluate(fmt::format("bfind.shiftamt.u{}", bits), "u32", {type}, rows);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::uint64_t value = rows[i][0];
      ASSERT_EQ(population[i], static_cast<unsigned>(std::popcount(value)));
      ASSERT_EQ(zeroes[i], static_cast<unsigned>(std::countl_zero(value)) - (64 - bits));
      std::uint64_t mirrored = 0;
      for (unsigned bit = 0; bit < bits; ++bit) mirrored |= ((value >> bit) & 1) << (bits - 1 - bit);
      ASSERT_EQ(reversed[i], mirrored);
      const auto position = [&](std::uint64_t of) {
        return of == 0 ? 0xFFFFFFFFu : 63u - static_cast<unsigned>(std::countl_zero(of));
      };
      ASSERT_EQ(highest[i], position(value));
      ASSERT_EQ(shift[i], value == 0 ? 0xFFFFFFFFu : bits - 1 - position(value));
      const bool negative = (value >> (bits - 1)) != 0;
      const std::uint64_t magnitude = negative ? ~value & (bits == 64 ? ~std::uint64_t{0} : 0xFFFFFFFF) : value;
      ASSERT_EQ(highest_signed[i], position(magnitude));
    }
  }
}

// Word for word the pseudocode of the PTX ISA.
std::uint64_t ReferenceExtract(std::uint64_t a, std::uint64_t b, std::uint64_t c, unsigned bits, bool is_signed) {
  const std::uint64_t msb = bits - 1, pos = b & 0xFF, len = c & 0xFF;
  const std::uint64_t sbit = !is_signed || len == 0 ? 0 : (a >> std::min(pos + len - 1, msb)) & 1;
  std::uint64_t d = 0;
  for (std::uint64_t i = 0; i <= msb; ++i) d |= ((i < len && pos + i <= msb) ? (a >> (pos + i)) & 1 : sbit) << i;
  return d;
}

std::uint64_t ReferenceInsert(std::uint64_t a, std::uint64_t b, std::uint64_t c, std::uint64_t d, unsigned bits) {
  const std::uint64_t msb = bits - 1, pos = c & 0xFF, len = d & 0xFF;
  std::uint64_t f = b;
  for (std::uint64_t i = 0; i < len && pos + i <= msb; ++i)
    f = (f & ~(std::uint64_t{1} << (pos + i))) | (((a >> i) & 1) << (pos + i));
  return f;
}

TEST(BitOperationsTest, FieldsFollowThePseudocodeOfTheSpecification) {
  const std::vector<std::uint64_t> places = {0, 1, 5, 16, 31, 32, 33, 63, 64, 100, 255, 256, 257};
  for (const unsigned bits : {32u, 64u}) {
    const Rows rows = AllCombinations({EdgeIntegers(bits), places, places});
    for (const bool is_signed : {false, true}) {
      const std::string type = fmt::format("{}{}", is_signed ? "s" : "u", bits);
      const auto fields = Evaluate("bfe." + type, type, {type, "u32", "u32"}, rows);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        ASSERT_EQ(fields[i], ReferenceExtract(rows[i][0], rows[i][1], rows[i][2], bits, is_signed))
            << type << testing::PrintToString(rows[i]);
      }
    }
    const std::string type = fmt::format("b{}", bits);
    const Rows insertions = AllCombinations(
        {{0, 0x123456789ABCDEF, 0xFFFFFFFF}, {0, ~std::uint64_t{0} >> (64 - bits), 0x5A5A5A5A}, places, places});
    Rows masked = insertions;
    for (auto& row : masked) row[0] &= ~std::uint64_t{0} >> (64 - bits);
    const auto inserted = Evaluate("bfi." + type, type, {type, type, "u32", "u32"}, masked);
    for (std::size_t i = 0; i < masked.size(); ++i) {
      ASSERT_EQ(inserted[i], ReferenceInsert(masked[i][0], masked[i][1], masked[i][2], masked[i][3], bits))
          << testing::PrintToString(masked[i]);
    }
  }
}

TEST(BitOperationsTest, Lop3LooksUpEachBit) {
  std::vector<std::uint64_t> tables;
  for (std::uint64_t table = 0; table < 256; table += 5) tables.push_back(table);
  const Rows rows = AllCombinations({{0xF0F0A5C3}, {0xCCCC5A3C, 0xFF00FF00}, {0xAAAA0FF0}, tables});
  const auto results = Evaluate("lop3.b32", "b32", {"b32", "b32", "b32", "b32"}, rows);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::uint64_t wanted = 0;
    for (unsigned bit = 0; bit < 32; ++bit) {
      const std::uint64_t index =
          ((rows[i][0] >> bit) & 1) * 4 + ((rows[i][1] >> bit) & 1) * 2 + ((rows[i][2] >> bit) & 1);
      wanted |= ((rows[i][3] >> index) & 1) << bit;
    }
    ASSERT_EQ(results[i], wanted) << testing::PrintToString(rows[i]);
  }
}

TEST(BitOperationsTest, PermuteSelectsBytesAndSigns) {
  const std::vector<std::string> types = {"b32", "b32", "b32"};
  const std::uint64_t a = 0x83020100, b = 0x07968504;
  EXPECT_EQ(Evaluate("prmt.b32", "b32", types, {{a, b, 0x3210}})[0], a);
  EXPECT_EQ(Evaluate("prmt.b32", "b32", types, {{a, b, 0x7654}})[0], b);
  EXPECT_EQ(Evaluate("prmt.b32", "b32", types, {{a, b, 0x0527}})[0], 0x00850207u);
  EXPECT_EQ(Evaluate("prmt.b32", "b32", types, {{a, b, 0xB8DF}})[0], 0xFF00FF00u);
  EXPECT_EQ(Evaluate("prmt.b32.f4e", "b32", types, {{a, b, 1}})[0], 0x04830201u);
  EXPECT_EQ(Evaluate("prmt.b32.b4e", "b32", types, {{a, b, 1}})[0], 0x96070001u);
  EXPECT_EQ(Evaluate("prmt.b32.rc8", "b32", types, {{a, b, 2}})[0], 0x02020202u);
  EXPECT_EQ(Evaluate("prmt.b32.ecl", "b32", types, {{a, b, 2}})[0], 0x83020202u);
  EXPECT_EQ(Evaluate("prmt.b32.ecr", "b32", types, {{a, b, 1}})[0], 0x01010100u);
  EXPECT_EQ(Evaluate("prmt.b32.rc16", "b32", types, {{a, b, 1}})[0], 0x83028302u);
}

TEST(BitOperationsTest, FunnelShiftsWrapOrClamp) {
  const std::vector<std::string> types = {"b32", "b32", "u32"};
  const Rows rows = AllCombinations({{0x89ABCDEF}, {0x01234567}, {0, 1, 8, 31, 32, 33, 64, 0xFFFFFFFF}});
  const std::uint64_t both = 0x0123456789ABCDEF;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::uint64_t wrap = rows[i][2] & 31, clamp = std::min<std::uint64_t>(rows[i][2], 32);
    EXPECT_EQ(Evaluate("shf.l.wrap.b32", "b32", types, {rows[i]})[0], (both << wrap) >> 32);
    EXPECT_EQ(Evaluate("shf.r.wrap.b32", "b32", types, {rows[i]})[0], (both >> wrap) & 0xFFFFFFFF);
    EXPECT_EQ(Evaluate("shf.l.clamp.b32", "b32", types, {rows[i]})[0], (both << clamp) >> 32);
    EXPECT_EQ(Evaluate("shf.r.clamp.b32", "b32", types, {rows[i]})[0], (both >> clamp) & 0xFFFFFFFF);
  }
}

TEST(BitOperationsTest, SelectionsAndPredicates) {
  EXPECT_EQ(Evaluate("selp.b64", "b64", {"b64", "b64", "pred"}, {{1, 2, 1}})[0], 1u);
  EXPECT_EQ(Evaluate("selp.f32", "f32", {"f32", "f32", "pred"}, {{1, 2, 0}})[0], 2u);
  EXPECT_EQ(Evaluate("selp.s16", "s16", {"s16", "s16", "pred"}, {{0xFFFF, 2, 1}})[0], 0xFFFFu);
  EXPECT_EQ(Evaluate("slct.u32.s32", "u32", {"u32", "u32", "s32"}, {{1, 2, 0}, {1, 2, 0x80000000}, {1, 2, 5}}),
            (std::vector<std::uint64_t>{1, 2, 1}));
  EXPECT_EQ(Evaluate("slct.u64.f32", "u64", {"u64", "u64", "f32"},
                     {{1, 2, 0x80000000}, {1, 2, 0xBF800000}, {1, 2, 0x7FC00000}}),
            (std::vector<std::uint64_t>{1, 2, 2}));
  const Rows truth = AllCombinations({{0, 1}, {0, 1}});
  EXPECT_EQ(Evaluate("and.pred", "pred", {"pred", "pred"}, truth), (std::vector<std::uint64_t>{0, 0, 0, 1}));
  EXPECT_EQ(Evaluate("or.pred", "pred", {"pred", "pred"}, truth), (std::vector<std::uint64_t>{0, 1, 1, 1}));
  EXPECT_EQ(Evaluate("xor.pred", "pred", {"pred", "pred"}, truth), (std::vector<std::uint64_t>{0, 1, 1, 0}));
  EXPECT_EQ(Evaluate("not.pred", "pred", {"pred"}, {{0}, {1}}), (std::vector<std::uint64_t>{1, 0}));
  const Rows with_logic = AllCombinations({{1, 2}, {2}, {0, 1}});
  EXPECT_EQ(Evaluate("setp.lt.and.u32", "pred", {"u32", "u32", "pred"}, with_logic),
            (std::vector<std::uint64_t>{0, 1, 0, 0}));
  EXPECT_EQ(Evaluate("setp.lt.or.u32", "pred", {"u32", "u32", "pred"}, with_logic),
            (std::vector<std::uint64_t>{1, 1, 0, 1}));
  EXPECT_EQ(Evaluate("setp.lt.xor.u32", "pred", {"u32", "u32", "pred"}, with_logic),
            (std::vector<std::uint64_t>{1, 0, 0, 1}));
  EXPECT_EQ(Evaluate("set.lt.u32.u32", "u32", {"u32", "u32"}, {{1, 2}, {2, 1}}),
            (std::vector<std::uint64_t>{0xFFFFFFFF, 0}));
  EXPECT_EQ(Evaluate("set.lt.f32.s32", "f32", {"s32", "s32"}, {{1, 2}, {2, 1}}),
            (std::vector<std::uint64_t>{0x3F800000, 0}));
}

// The guard of an instruction may be what it writes.
TEST(BitOperationsTest, BothResultsOfAComparisonObeyTheGuardAsItWas) {
  Machine machine(R"(.version 7.8
.target sm_80
.address_size 64
.visible .entry test(.param .u64 data) {
  .reg .u64 %a; .reg .u32 %r, %s; .reg .pred %p, %q;
  ld.param.u64 %a, [data];
  setp.eq.u32 %p, 0, 0;
  setp.ne.u32 %q, 0, 0;
  @%p setp.eq.u32 %p|%q, 1, 2;
  selp.u32 %r, 1, 0, %p;
  selp.u32 %s, 1, 0, %q;
  st.global.v2.u32 [%a], {%r, %s};
  ret;
})");
  const std::uint64_t data = machine.Upload(std::vector<std::uint32_t>{7, 7});
  ASSERT_EQ(machine.Run("test", {}, {}, Arguments(data)).status, LaunchStatus::kDone);
  EXPECT_EQ(machine.Download<std::uint32_t>(data, 2), (std::vector<std::uint32_t>{0, 1}));
}

}  // namespace
}  // namespace softgpu::ptx
