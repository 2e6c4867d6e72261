// cvt to and from floats, against conversions in more precision than any of the types has.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cfenv>
#include <cmath>
#include <limits>
#include <random>

#include "tests/plugins/softgpu/ptx/instruction.h"

namespace softgpu::ptx {
namespace {

using Rows = std::vector<std::vector<std::uint64_t>>;

struct Mode {
  std::string name;
  int direction;
};
const std::vector<Mode> kModes = {{"n", FE_TONEAREST}, {"z", FE_TOWARDZERO}, {"m", FE_DOWNWARD}, {"p", FE_UPWARD}};

float F(std::uint64_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits)); }

// The host's own conversion, in the direction set.
template <class To, class From>
To Rounded(From value, int direction) {
  const volatile From input = value;
  std::fesetround(direction);
  const volatile To output = static_cast<To>(input);
  std::fesetround(FE_TONEAREST);
  return output;
}

std::vector<std::uint64_t> Integers64() {
  std::vector<std::uint64_t> values = EdgeIntegers(64);
  std::mt19937_64 random(4);
  for (int i = 0; i < 300; ++i) values.push_back(random() >> (random() % 64));
  return values;
}

TEST(ConversionsTest, IntegersToFloatsInEveryDirection) {
  const std::vector<std::uint64_t> values = Integers64();
  const Rows rows = AllCombinations({values});
  for (const Mode& mode : kModes) {
    const auto s64 = Evaluate("cvt.r" + mode.name + ".f32.s64", "f32", {"s64"}, rows);
    const auto u64 = Evaluate("cvt.r" + mode.name + ".f32.u64", "f32", {"u64"}, rows);
    const auto wide = Evaluate("cvt.r" + mode.name + ".f64.s64", "f64", {"s64"}, rows);
    Rows narrow = rows;
    for (auto& row : narrow) row[0] &= 0xFFFFFFFF;
    const auto s32 = Evaluate("cvt.r" + mode.name + ".f32.s32", "f32", {"s32"}, narrow);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto number = static_cast<std::int64_t>(values[i]);
      ASSERT_EQ(F(s64[i]), Rounded<float>(number, mode.direction)) << mode.name << " " << number;
      ASSERT_EQ(F(u64[i]), Rounded<float>(static_cast<long double>(values[i]), mode.direction))
          << mode.name << " " << values[i];
      ASSERT_EQ(std::bit_cast<double>(wide[i]), Rounded<double>(number, mode.direction)) << mode.name << " " << number;
      ASSERT_EQ(F(s32[i]), Rounded<float>(static_cast<std::int32_t>(values[i]), mode.direction))
          << mode.name << " " << number;
    }
  }
}

template <class T>
void CompareToInteger(const std::string& type, std::uint64_t nan_of_single, std::uint64_t nan_of_double) {
  constexpr std::uint64_t kMask = sizeof(T) == 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * sizeof(T) % 64)) - 1;
  std::vector<std::uint64_t> doubles = EdgeDoubles();
  for (const double value : {0.5, 1.5, 2.5, -0.5, -1.5, 127.5, 128.0, 255.5, 256.0, 32767.5, 65535.5, 2147483647.5,
                             4294967295.5, 1e19, -1e19, -129.0}) {
    doubles.push_back(std::bit_cast<std::uint64_t>(value));
  }
  for (const Mode& mode : kModes) {
    const auto of_double =
        Evaluate("cvt.r" + mode.name + "i." + type + ".f64", type, {"f64"}, AllCombinations({doubles}));
    Rows singles;
    for (const std::uint64_t bits : doubles)
      singles.push_back({std::bit_cast<std::uint32_t>(static_cast<float>(std::bit_cast<double>(bits)))});
    const auto of_single = Evaluate("cvt.r" + mode.name + "i." + type + ".f32", type, {"f32"}, singles);
    const auto wanted = [&](double value, std::uint64_t nan) {
      if (std::isnan(value)) return nan;
      std::fesetround(mode.direction);
      const volatile double rounded = std::nearbyint(value);
      std::fesetround(FE_TONEAREST);
      const long double whole = rounded;
      if (whole < static_cast<long double>(std::numeric_limits<T>::min()))
        return static_cast<std::uint64_t>(std::numeric_limits<T>::min()) & kMask;
      if (whole > static_cast<long double>(std::numeric_limits<T>::max()))
        return static_cast<std::uint64_t>(std::numeric_limits<T>::max()) & kMask;
      return static_cast<std::uint64_t>(static_cast<T>(whole)) & kMask;
    };
    for (std::size_t i = 0; i < doubles.size(); ++i) {
      ASSERT_EQ(of_double[i], wanted(std::bit_cast<double>(doubles[i]), nan_of_double))
          << type << " " << mode.name << " " << std::bit_cast<double>(doubles[i]);
      ASSERT_EQ(of_single[i], wanted(static_cast<double>(F(singles[i][0])), nan_of_single))
          << type << " " << mode.name << " " << F(singles[i][0]);
    }
  }
}

TEST(ConversionsTest, FloatsToIntegersSaturateInEveryDirection) {
  CompareToInteger<std::int8_t>("s8", 0, 0x80);
  CompareToInteger<std::uint8_t>("u8", 0, 0x80);
  CompareToInteger<std::int16_t>("s16", 0, 0x8000);
  CompareToInteger<std::uint16_t>("u16", 0, 0x8000);
  CompareToInteger<std::int32_t>("s32", 0, 0x80000000);
  CompareToInteger<std::uint32_t>("u32", 0, 0x80000000);
  CompareToInteger<std::int64_t>("s64", 0x8000000000000000, 0x8000000000000000);
  CompareToInteger<std::uint64_t>("u64", 0x8000000000000000, 0x8000000000000000);
}

TEST(ConversionsTest, DoublesToSinglesInEveryDirection) {
  std::vector<std::uint64_t> values = EdgeDoubles();
  for (const double value : {1e300, -1e300, 1e-300, -1e-300, 0.1, -0.1, 1e-40, 3.4028235677973366e38})
    values.push_back(std::bit_cast<std::uint64_t>(value));
  for (const Mode& mode : kModes) {
    const auto results = Evaluate("cvt.r" + mode.name + ".f32.f64", "f32", {"f64"}, AllCombinations({values}));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float wanted = Rounded<float>(std::bit_cast<double>(values[i]), mode.direction);
      const std::uint32_t bits = std::isnan(wanted) ? 0x7FFFFFFFu : std::bit_cast<std::uint32_t>(wanted);
      ASSERT_EQ(results[i], bits) << mode.name << " " << std::bit_cast<double>(values[i]);
    }
  }
  EXPECT_EQ(Evaluate("cvt.f64.f32", "f64", {"f32"}, {{0x3F800001}})[0], 0x3FF0000020000000u);
}

TEST(ConversionsTest, ToWholeFloats) {
  const std::vector<float> values = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 1e20f, -0.0f, 0.49999997f};
  for (const Mode& mode : kModes) {
    for (const float value : values) {
      std::fesetround(mode.direction);
      const volatile float wanted = std::nearbyint(value);
      std::fesetround(FE_TONEAREST);
      EXPECT_EQ(Evaluate("cvt.r" + mode.name + "i.f32.f32", "f32", {"f32"}, {{std::bit_cast<std::uint32_t>(value)}})[0],
                std::bit_cast<std::uint32_t>(static_cast<float>(wanted)))
          << mode.name << value;
    }
  }
}

// All 65536, there and back.
TEST(ConversionsTest, EveryHalfSurvivesTheWayThroughASingle) {
  Rows rows;
  for (std::uint64_t bits = 0; bits < 65536; ++bits) rows.push_back({bits});
  for (const auto& [type, exponent, fraction] :
       {std::tuple{"f16", 0x7C00u, 0x3FFu}, std::tuple{"bf16", 0x7F80u, 0x7Fu}}) {
    const auto wide = Evaluate(fmt::format("cvt.f32.{}", type), "f32", {type}, rows);
    Rows back;
    for (const std::uint64_t bits : wide) back.push_back({bits});
    const auto narrow = Evaluate(fmt::format("cvt.rn.{}.f32", type), type, {"f32"}, back);
    for (std::uint64_t bits = 0; bits < 65536; ++bits) {
      const bool is_nan = (bits & exponent) == exponent && (bits & fraction) != 0;
      ASSERT_EQ(narrow[bits], is_nan ? 0x7FFFu : bits) << type;
    }
  }
}

TEST(ConversionsTest, HalvesRoundInEveryDirection) {
  const auto half = [](const std::string& mode, float value) {
    return Evaluate("cvt.r" + mode + ".f16.f32", "f16", {"f32"}, {{std::bit_cast<std::uint32_t>(value)}})[0];
  };
  EXPECT_EQ(half("n", 1.00048828125f), 0x3C00u);  // 1 + 2^-11: a tie, to even.
  EXPECT_EQ(half("p", 1.00048828125f), 0x3C01u);
  EXPECT_EQ(half("n", 65519.0f), 0x7BFFu);
  EXPECT_EQ(half("n", 65520.0f), 0x7C00u);
  EXPECT_EQ(half("z", 1e6f), 0x7BFFu);
  EXPECT_EQ(half("m", -1e6f), 0xFC00u);
  EXPECT_EQ(half("p", 1e-10f), 0x0001u);
  EXPECT_EQ(half("m", -1e-10f), 0x8001u);
  EXPECT_EQ(Evaluate("cvt.rn.bf16.f32", "bf16", {"f32"}, {{0x3F808000}, {0x3F818000}, {0x3F808001}}),
            (std::vector<std::uint64_t>{0x3F80, 0x3F82, 0x3F81}));
  EXPECT_EQ(Evaluate("cvt.rz.bf16.f32", "bf16", {"f32"}, {{0x3F80FFFF}})[0], 0x3F80u);
  EXPECT_EQ(Evaluate("cvt.rn.bf16x2.f32", "bf16x2", {"f32", "f32"}, {{0x3F800000, 0x40000000}})[0], 0x3F804000u);
  EXPECT_EQ(Evaluate("cvt.rn.f16x2.f32", "f16x2", {"f32", "f32"}, {{0x3F800000, 0x40000000}})[0], 0x3C004000u);
}

TEST(ConversionsTest, SaturateAndFlush) {
  EXPECT_EQ(Evaluate("cvt.sat.f32.f32", "f32", {"f32"}, {{0x40000000}, {0xBF800000}, {0x7FC00000}}),
            (std::vector<std::uint64_t>{0x3F800000, 0, 0}));
  EXPECT_EQ(Evaluate("cvt.ftz.f32.f32", "f32", {"f32"}, {{1}, {0x80000001}}),
            (std::vector<std::uint64_t>{0, 0x80000000}));
  EXPECT_EQ(Evaluate("cvt.rn.sat.f32.s32", "f32", {"s32"}, {{5}, {0xFFFFFFFF}}),
            (std::vector<std::uint64_t>{0x3F800000, 0}));
}

}  // namespace
}  // namespace softgpu::ptx
