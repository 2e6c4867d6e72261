// Integer instructions against arithmetic in 128 bits.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <functional>

#include "tests/plugins/softgpu/ptx/instruction.h"

namespace softgpu::ptx {
namespace {

__extension__ typedef __int128 Wide;
using Rows = std::vector<std::vector<std::uint64_t>>;

std::uint64_t Mask(unsigned bits) { return bits >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1; }

// The number that the low `bits` of `value` stand for.
Wide Number(std::uint64_t value, unsigned bits, bool is_signed) {
  value &= Mask(bits);
  if (is_signed && (value >> (bits - 1)) != 0) return static_cast<Wide>(value) - (static_cast<Wide>(1) << bits);
  return static_cast<Wide>(value);
}

struct Integer {
  unsigned bits;
  bool is_signed;
  std::string name() const { return fmt::format("{}{}", is_signed ? "s" : "u", bits); }
};

class IntegerOperationsTest : public testing::TestWithParam<Integer> {
 protected:
  using Function = std::function<Wide(const std::vector<Wide>&)>;

  // `sources` operands of the type, and a result of `result_bits`.
  void Compare(const std::string& opcode, std::size_t sources, unsigned result_bits, const Function& expected) {
    const Integer type = GetParam();
    const Rows rows = AllCombinations(std::vector<std::vector<std::uint64_t>>(sources, EdgeIntegers(type.bits)));
    const std::string result_type = fmt::format("{}{}", type.is_signed ? "s" : "u", result_bits);
    const auto results =
        Evaluate(opcode + "." + type.name(), result_type, std::vector<std::string>(sources, type.name()), rows);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::vector<Wide> numbers;
      for (const std::uint64_t bits : rows[i]) numbers.push_back(Number(bits, type.bits, type.is_signed));
      const std::uint64_t wanted = static_cast<std::uint64_t>(expected(numbers)) & Mask(result_bits);
      ASSERT_EQ(results[i], wanted) << opcode << "." << type.name() << " of " << testing::PrintToString(rows[i]);
    }
  }
};

// Of two numbers of at most 64 bits; the product of two unsigned ones may need all 128 bits, which wrap harmlessly
// here.
Wide Product(Wide a, Wide b) {
  __extension__ typedef unsigned __int128 Bits;
  return static_cast<Wide>(static_cast<Bits>(a) * static_cast<Bits>(b));
}

Wide High(Wide a, Wide b, Integer type) {
  __extension__ typedef unsigned __int128 Bits;
  const Wide product = Product(a, b);
  return type.is_signed ? product >> type.bits : static_cast<Wide>(static_cast<Bits>(product) >> type.bits);
}

TEST_P(IntegerOperationsTest, AddSubtractAndMultiplyWrapAround) {
  const unsigned bits = GetParam().bits;
  Compare("add", 2, bits, [](const auto& x) { return x[0] + x[1]; });
  Compare("sub", 2, bits, [](const auto& x) { return x[0] - x[1]; });
  Compare("mul.lo", 2, bits, [](const auto& x) { return Product(x[0], x[1]); });
  Compare("mad.lo", 3, bits, [](const auto& x) {
    return static_cast<Wide>(static_cast<std::uint64_t>(Product(x[0], x[1])) + static_cast<std::uint64_t>(x[2]));
  });
}

TEST_P(IntegerOperationsTest, HighAndWideProducts) {
  const Integer type = GetParam();
  Compare("mul.hi", 2, type.bits, [&](const auto& x) { return High(x[0], x[1], type); });
  Compare("mad.hi", 3, type.bits, [&](const auto& x) {
    return static_cast<Wide>(static_cast<std::uint64_t>(High(x[0], x[1], type)) + static_cast<std::uint64_t>(x[2]));
  });
  if (type.bits == 64) return;
  Compare("mul.wide", 2, 2 * type.bits, [](const auto& x) { return x[0] * x[1]; });
  const Rows rows = AllCombinations({EdgeIntegers(type.bits), EdgeIntegers(type.bits), EdgeIntegers(2 * type.bits)});
  const std::string wide = fmt::format("{}{}", type.is_signed ? "s" : "u", 2 * type.bits);
  const auto results = Evaluate("mad.wide." + type.name(), wide, {type.name(), type.name(), wide}, rows);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Wide product = Number(rows[i][0], type.bits, type.is_signed) * Number(rows[i][1], type.bits, type.is_signed);
    ASSERT_EQ(results[i], (static_cast<std::uint64_t>(product) + rows[i][2]) & Mask(2 * type.bits));
  }
}

TEST_P(IntegerOperationsTest, DivisionRoundsTowardsZero) {
  const unsigned bits = GetParam().bits;
  Compare("div", 2, bits, [](const auto& x) { return x[1] == 0 ? Wide{-1} : x[0] / x[1]; });
  Compare("rem", 2, bits, [](const auto& x) { return x[1] == 0 ? x[0] : x[0] % x[1]; });
}

TEST_P(IntegerOperationsTest, OrderFollowsTheSign) {
  const unsigned bits = GetParam().bits;
  Compare("min", 2, bits, [](const auto& x) { return std::min(x[0], x[1]); });
  Compare("max", 2, bits, [](const auto& x) { return std::max(x[0], x[1]); });
  Compare("sad", 3, bits, [](const auto& x) { return x[2] + (x[0] < x[1] ? x[1] - x[0] : x[0] - x[1]); });
  if (!GetParam().is_signed) return;
  Compare("abs", 1, bits, [](const auto& x) { return x[0] < 0 ? -x[0] : x[0]; });
  Compare("neg", 1, bits, [](const auto& x) { return -x[0]; });
}

TEST_P(IntegerOperationsTest, ComparisonsFollowTheSign) {
  const Integer type = GetParam();
  const std::vector<std::pair<std::string, std::function<bool(Wide, Wide)>>> comparisons = {
      {"eq", [](Wide a, Wide b) { return a == b; }}, {"ne", [](Wide a, Wide b) { return a != b; }},
      {"lt", [](Wide a, Wide b) { return a < b; }},  {"le", [](Wide a, Wide b) { return a <= b; }},
      {"gt", [](Wide a, Wide b) { return a > b; }},  {"ge", [](Wide a, Wide b) { return a >= b; }}};
  const std::vector<std::pair<std::string, std::string>> unsigned_names = {
      {"lo", "lt"}, {"ls", "le"}, {"hi", "gt"}, {"hs", "ge"}};
  const Rows rows = AllCombinations({EdgeIntegers(type.bits), EdgeIntegers(type.bits)});
  for (const auto& [name, holds] : comparisons) {
    std::vector<std::string> names = {name};
    for (const auto& [alias, of] : unsigned_names) {
      if (of == name && !type.is_signed) names.push_back(alias);
    }
    for (const std::string& spelling : names) {
      const auto results = Evaluate("setp." + spelling + "." + type.name(), "pred", {type.name(), type.name()}, rows);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        ASSERT_EQ(results[i] != 0,
                  holds(Number(rows[i][0], type.bits, type.is_signed), Number(rows[i][1], type.bits, type.is_signed)))
            << spelling << " " << testing::PrintToString(rows[i]);
      }
    }
  }
}

TEST_P(IntegerOperationsTest, ShiftsBeyondTheWidthLeaveZeroesOrSigns) {
  const Integer type = GetParam();
  const std::vector<std::uint64_t> amounts = {0, 1, 3, 15, 16, 31, 32, 33, 63, 64, 65, 0x80000001, 0xFFFFFFFF};
  const Rows rows = AllCombinations({EdgeIntegers(type.bits), amounts});
  const std::string bits_name = fmt::format("b{}", type.bits);
  const auto left = Evaluate("shl." + bits_name, bits_name, {bits_name, "u32"}, rows);
  const auto right = Evaluate("shr." + type.name(), bits_name, {bits_name, "u32"}, rows);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::uint64_t amount = std::min<std::uint64_t>(rows[i][1], 64);
    const std::uint64_t wanted_left = amount == 64 ? 0 : (rows[i][0] << amount) & Mask(type.bits);
    ASSERT_EQ(left[i], wanted_left) << testing::PrintToString(rows[i]);
    const Wide number = Number(rows[i][0], type.bits, type.is_signed);
    ASSERT_EQ(right[i], static_cast<std::uint64_t>(number >> amount) & Mask(type.bits))
        << testing::PrintToString(rows[i]);
  }
}

TEST_P(IntegerOperationsTest, ConversionsTruncateExtendAndSaturate) {
  const Integer from = GetParam();
  for (const Integer to : {Integer{8, false}, Integer{8, true}, Integer{16, false}, Integer{16, true},
                           Integer{32, false}, Integer{32, true}, Integer{64, false}, Integer{64, true}}) {
    const Rows rows = AllCombinations({EdgeIntegers(from.bits)});
    const auto plain = Evaluate("cvt." + to.name() + "." + from.name(), to.name(), {from.name()}, rows);
    const auto clamped = Evaluate("cvt.sat." + to.name() + "." + from.name(), to.name(), {from.name()}, rows);
    const Wide low = to.is_signed ? -(static_cast<Wide>(1) << (to.bits - 1)) : 0;
    const Wide high = (static_cast<Wide>(1) << (to.bits - (to.is_signed ? 1 : 0))) - 1;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const Wide number = Number(rows[i][0], from.bits, from.is_signed);
      ASSERT_EQ(plain[i], static_cast<std::uint64_t>(number) & Mask(to.bits)) << to.name() << " " << rows[i][0];
      ASSERT_EQ(clamped[i], static_cast<std::uint64_t>(std::clamp(number, low, high)) & Mask(to.bits))
          << to.name() << " " << rows[i][0];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, IntegerOperationsTest,
                         testing::Values(Integer{16, false}, Integer{16, true}, Integer{32, false}, Integer{32, true},
                                         Integer{64, false}, Integer{64, true}),
                         [](const auto& of) { return of.param.name(); });

TEST(SmallIntegerOperationsTest, SaturatingArithmeticStopsAtTheEnds) {
  const Rows rows = AllCombinations({EdgeIntegers(32), EdgeIntegers(32)});
  const auto sums = Evaluate("add.sat.s32", "s32", {"s32", "s32"}, rows);
  const auto differences = Evaluate("sub.sat.s32", "s32", {"s32", "s32"}, rows);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto clamp = [](Wide value) {
      return static_cast<std::uint32_t>(std::clamp<Wide>(value, INT32_MIN, INT32_MAX));
    };
    const Wide a = Number(rows[i][0], 32, true), b = Number(rows[i][1], 32, true);
    ASSERT_EQ(sums[i], clamp(a + b));
    ASSERT_EQ(differences[i], clamp(a - b));
  }
}

TEST(SmallIntegerOperationsTest, Multiply24UsesTheLow24Bits) {
  const Rows rows = AllCombinations({EdgeIntegers(32), EdgeIntegers(32)});
  for (const bool is_signed : {false, true}) {
    const std::string type = is_signed ? "s32" : "u32";
    const auto low = Evaluate("mul24.lo." + type, type, {type, type}, rows);
    const auto high = Evaluate("mul24.hi." + type, type, {type, type}, rows);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const Wide product = Number(rows[i][0], 24, is_signed) * Number(rows[i][1], 24, is_signed);
      ASSERT_EQ(low[i], static_cast<std::uint32_t>(product));
      ASSERT_EQ(high[i], static_cast<std::uint32_t>(product >> 16));
    }
  }
}

TEST(SmallIntegerOperationsTest, DotProductOfBytes) {
  EXPECT_EQ(Evaluate("dp4a.u32.u32", "u32", {"u32", "u32", "u32"}, {{0xFF020304, 0xFF0A0B0C, 5}})[0],
            255u * 255 + 20 + 33 + 48 + 5);
  EXPECT_EQ(Evaluate("dp4a.s32.s32", "s32", {"s32", "s32", "s32"}, {{0xFF020304, 0xFF0A0B0C, 5}})[0],
            1u + 20 + 33 + 48 + 5);
  EXPECT_EQ(Evaluate("dp4a.s32.u32", "s32", {"s32", "u32", "s32"}, {{0xFF000000, 0xFF000000, 0}})[0],
            static_cast<std::uint32_t>(-255));
}

TEST(SmallIntegerOperationsTest, CarriesPassFromWordToWord) {
  constexpr char kText[] = R"(.version 7.8
.target sm_80
.address_size 64
.visible .entry test(.param .u64 data) {
  .reg .u64 %p; .reg .u32 %a<4>, %b<4>, %c<4>; .reg .u32 %m;
  ld.param.u64 %p, [data];
  ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%p];
  ld.global.v4.u32 {%b0, %b1, %b2, %b3}, [%p+16];
  add.cc.u32 %c0, %a0, %b0;
  addc.cc.u32 %c1, %a1, %b1;
  addc.cc.u32 %c2, %a2, %b2;
  addc.u32 %c3, %a3, %b3;
  st.global.v4.u32 [%p+32], {%c0, %c1, %c2, %c3};
  sub.cc.u32 %c0, %a0, %b0;
  subc.cc.u32 %c1, %a1, %b1;
  subc.cc.u32 %c2, %a2, %b2;
  subc.u32 %c3, %a3, %b3;
  st.global.v4.u32 [%p+48], {%c0, %c1, %c2, %c3};
  mad.lo.cc.u32 %c0, %a0, %b0, %a1;
  madc.hi.u32 %c1, %a0, %b0, 7;
  st.global.v2.u32 [%p+64], {%c0, %c1};
  ret;
})";
  __extension__ typedef unsigned __int128 Bits;
  Machine machine(kText);
  const std::vector<std::uint32_t> a = {0xFFFFFFFF, 0xFFFFFFFF, 0, 0x80000000}, b = {1, 0, 0xFFFFFFFF, 0x12345678};
  std::vector<std::uint32_t> data = a;
  data.insert(data.end(), b.begin(), b.end());
  data.resize(18);
  const std::uint64_t address = machine.Upload(data);
  ASSERT_EQ(machine.Run("test", {}, {}, Arguments(address)).status, LaunchStatus::kDone);
  const auto number = [](const std::uint32_t* words) {
    Bits value = 0;
    for (int i = 3; i >= 0; --i) value = (value << 32) | words[i];
    return value;
  };
  const auto found = machine.Download<std::uint32_t>(address, 18);
  EXPECT_TRUE(number(&found[8]) == number(a.data()) + number(b.data()));
  EXPECT_TRUE(number(&found[12]) == number(a.data()) - number(b.data()));
  const std::uint64_t product = std::uint64_t{a[0]} * b[0] + a[1] + (std::uint64_t{7} << 32);
  EXPECT_EQ(found[16] | (std::uint64_t{found[17]} << 32), product);
}

}  // namespace
}  // namespace softgpu::ptx
