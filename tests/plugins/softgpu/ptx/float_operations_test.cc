// Float instructions against the host's, which rounds as IEEE 754 says.

#include <gtest/gtest.h>

#include <bit>
#include <cfenv>
#include <cmath>
#include <functional>
#include <random>

#include "tests/plugins/softgpu/ptx/instruction.h"

namespace softgpu::ptx {
namespace {

using Rows = std::vector<std::vector<std::uint64_t>>;

constexpr std::uint32_t kNan = 0x7FFFFFFF;

float F(std::uint64_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits)); }
double D(std::uint64_t bits) { return std::bit_cast<double>(bits); }
std::uint64_t B(float value) { return std::isnan(value) ? kNan : std::bit_cast<std::uint32_t>(value); }

Rows WithRandom(Rows rows, unsigned seed, bool is_double) {
  std::mt19937_64 random(seed);
  const std::size_t width = rows[0].size();
  for (int i = 0; i < 2000; ++i) {
    std::vector<std::uint64_t>& row = rows.emplace_back();
    for (std::size_t k = 0; k < width; ++k) row.push_back(is_double ? random() : random() >> 32);
  }
  return rows;
}

void CompareFloat(const std::string& opcode, std::size_t sources,
                  const std::function<float(const std::vector<float>&)>& expected) {
  const Rows rows =
      WithRandom(AllCombinations(std::vector<std::vector<std::uint64_t>>(sources, EdgeFloats())), 1, false);
  const auto results = Evaluate(opcode, "f32", std::vector<std::string>(sources, "f32"), rows);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::vector<float> values;
    for (const std::uint64_t bits : rows[i]) values.push_back(F(bits));
    ASSERT_EQ(results[i], B(expected(values))) << opcode << " of " << testing::PrintToString(rows[i]);
  }
}

void CompareDouble(const std::string& opcode, std::size_t sources,
                   const std::function<double(const std::vector<double>&)>& expected) {
  const Rows rows =
      WithRandom(AllCombinations(std::vector<std::vector<std::uint64_t>>(sources, EdgeDoubles())), 2, true);
  const auto results = Evaluate(opcode, "f64", std::vector<std::string>(sources, "f64"), rows);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::vector<double> values;
    for (const std::uint64_t bits : rows[i]) values.push_back(D(bits));
    const double wanted = expected(values);
    if (std::isnan(wanted)) {
      ASSERT_TRUE(std::isnan(D(results[i]))) << opcode;
    } else {
      ASSERT_EQ(results[i], std::bit_cast<std::uint64_t>(wanted))
          << opcode << " of " << testing::PrintToString(rows[i]);
    }
  }
}

TEST(FloatOperationsTest, ArithmeticOfSinglesIsExact) {
  CompareFloat("add.f32", 2, [](const auto& x) { return x[0] + x[1]; });
  CompareFloat("add.rn.f32", 2, [](const auto& x) { return x[0] + x[1]; });
  CompareFloat("sub.f32", 2, [](const auto& x) { return x[0] - x[1]; });
  CompareFloat("mul.rn.f32", 2, [](const auto& x) { return x[0] * x[1]; });
  CompareFloat("div.rn.f32", 2, [](const auto& x) { return x[0] / x[1]; });
  CompareFloat("sqrt.rn.f32", 1, [](const auto& x) { return std::sqrt(x[0]); });
  CompareFloat("rcp.rn.f32", 1, [](const auto& x) { return 1.0f / x[0]; });
  CompareFloat("fma.rn.f32", 3, [](const auto& x) { return std::fma(x[0], x[1], x[2]); });
}

TEST(FloatOperationsTest, ArithmeticOfDoublesIsExact) {
  CompareDouble("add.f64", 2, [](const auto& x) { return x[0] + x[1]; });
  CompareDouble("sub.rn.f64", 2, [](const auto& x) { return x[0] - x[1]; });
  CompareDouble("mul.f64", 2, [](const auto& x) { return x[0] * x[1]; });
  CompareDouble("div.rn.f64", 2, [](const auto& x) { return x[0] / x[1]; });
  CompareDouble("sqrt.rn.f64", 1, [](const auto& x) { return std::sqrt(x[0]); });
  CompareDouble("fma.rn.f64", 3, [](const auto& x) { return std::fma(x[0], x[1], x[2]); });
}

TEST(FloatOperationsTest, EveryNanIsTheOneThatDevicesUse) {
  EXPECT_EQ(Evaluate("add.f32", "f32", {"f32", "f32"}, {{0xFFC12345, 0}, {0x7F800000, 0xFF800000}}),
            (std::vector<std::uint64_t>{kNan, kNan}));
  EXPECT_EQ(Evaluate("sqrt.rn.f32", "f32", {"f32"}, {{0xBF800000}})[0], kNan);
}

TEST(FloatOperationsTest, DirectedRounding) {
  const std::vector<std::pair<std::string, int>> modes = {
      {"rz", FE_TOWARDZERO}, {"rm", FE_DOWNWARD}, {"rp", FE_UPWARD}};
  const Rows rows = WithRandom(AllCombinations({EdgeFloats(), EdgeFloats()}), 3, false);
  for (const auto& [name, mode] : modes) {
    const auto sums = Evaluate("add." + name + ".f32", "f32", {"f32", "f32"}, rows);
    const auto products = Evaluate("mul." + name + ".f32", "f32", {"f32", "f32"}, rows);
    const auto quotients = Evaluate("div." + name + ".f32", "f32", {"f32", "f32"}, rows);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const volatile float a = F(rows[i][0]), b = F(rows[i][1]);
      std::fesetround(mode);
      const volatile float sum = a + b, product = a * b, quotient = a / b;
      std::fesetround(FE_TONEAREST);
      ASSERT_EQ(sums[i], B(sum)) << name << testing::PrintToString(rows[i]);
      ASSERT_EQ(products[i], B(product)) << name << testing::PrintToString(rows[i]);
      ASSERT_EQ(quotients[i], B(quotient)) << name << testing::PrintToString(rows[i]);
    }
  }
}

TEST(FloatOperationsTest, ExtremesPreferNumbersAndOrderZeroes) {
  const auto pick = [](bool maximum) {
    return [maximum](const std::vector<float>& x) {
      if (std::isnan(x[0])) return x[1];
      if (std::isnan(x[1])) return x[0];
      if (x[0] == 0 && x[1] == 0) return std::signbit(x[0]) != std::signbit(x[1]) ? (maximum ? 0.0f : -0.0f) : x[0];
      return maximum ? std::max(x[0], x[1]) : std::min(x[0], x[1]);
    };
  };
  CompareFloat("min.f32", 2, pick(false));
  CompareFloat("max.f32", 2, pick(true));
  EXPECT_EQ(Evaluate("max.NaN.f32", "f32", {"f32", "f32"}, {{0x7FC00000, 0x3F800000}, {0x3F800000, 0}}),
            (std::vector<std::uint64_t>{kNan, 0x3F800000}));
}

TEST(FloatOperationsTest, SignsAreBits) {
  for (const std::uint64_t bits : EdgeFloats()) {
    EXPECT_EQ(Evaluate("neg.f32", "f32", {"f32"}, {{bits}})[0], bits ^ 0x80000000);
    EXPECT_EQ(Evaluate("abs.f32", "f32", {"f32"}, {{bits}})[0], bits & 0x7FFFFFFF);
    EXPECT_EQ(Evaluate("copysign.f32", "f32", {"f32", "f32"}, {{bits, 0x3F800000}})[0],
              (bits & 0x80000000) | 0x3F800000);
  }
}

TEST(FloatOperationsTest, FlushAndSaturate) {
  const Rows rows = AllCombinations({EdgeFloats(), EdgeFloats()});
  const auto flush = [](float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; };
  const auto flushed = Evaluate("mul.ftz.f32", "f32", {"f32", "f32"}, rows);
  const auto saturated = Evaluate("add.sat.f32", "f32", {"f32", "f32"}, rows);
  const auto both = Evaluate("add.ftz.sat.f32", "f32", {"f32", "f32"}, rows);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const float a = F(rows[i][0]), b = F(rows[i][1]);
    ASSERT_EQ(flushed[i], B(flush(flush(a) * flush(b)))) << testing::PrintToString(rows[i]);
    const float sum = a + b, flushed_sum = flush(flush(a) + flush(b));
    ASSERT_EQ(saturated[i], B(std::isnan(sum) || sum <= 0 ? 0.0f : std::min(sum, 1.0f)))
        << testing::PrintToString(rows[i]);
    ASSERT_EQ(both[i], B(std::isnan(flushed_sum) || flushed_sum <= 0 ? 0.0f : std::min(flushed_sum, 1.0f)));
  }
  EXPECT_EQ(Evaluate("setp.gt.ftz.f32", "pred", {"f32", "f32"}, {{1, 0}})[0], 0u);
  EXPECT_EQ(Evaluate("setp.gt.f32", "pred", {"f32", "f32"}, {{1, 0}})[0], 1u);
}

TEST(FloatOperationsTest, ComparisonsKnowNans) {
  const Rows rows = AllCombinations({EdgeFloats(), EdgeFloats()});
  const std::vector<std::pair<std::string, std::function<bool(float, float)>>> ordered = {
      {"eq", [](float a, float b) { return a == b; }}, {"ne", [](float a, float b) { return a < b || a > b; }},
      {"lt", [](float a, float b) { return a < b; }},  {"le", [](float a, float b) { return a <= b; }},
      {"gt", [](float a, float b) { return a > b; }},  {"ge", [](float a, float b) { return a >= b; }}};
  for (const auto& [name, holds] : ordered) {
    const auto plain = Evaluate("setp." + name + ".f32", "pred", {"f32", "f32"}, rows);
    const auto unordered = Evaluate("setp." + name + "u.f32", "pred", {"f32", "f32"}, rows);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const float a = F(rows[i][0]), b = F(rows[i][1]);
      const bool has_nan = std::isnan(a) || std::isnan(b);
      ASSERT_EQ(plain[i] != 0, !has_nan && holds(a, b)) << name;
      ASSERT_EQ(unordered[i] != 0, has_nan || holds(a, b)) << name;
    }
  }
  EXPECT_EQ(Evaluate("setp.num.f32", "pred", {"f32", "f32"}, {{0, 0}, {0, 0x7FC00000}}),
            (std::vector<std::uint64_t>{1, 0}));
  EXPECT_EQ(Evaluate("setp.nan.f64", "pred", {"f64", "f64"}, {{0, 0}, {0, 0x7FF8000000000000}}),
            (std::vector<std::uint64_t>{0, 1}));
  EXPECT_EQ(Evaluate("testp.subnormal.f32", "pred", {"f32"}, {{1}, {0}, {0x3F800000}}),
            (std::vector<std::uint64_t>{1, 0, 0}));
  EXPECT_EQ(Evaluate("testp.infinite.f64", "pred", {"f64"}, {{0x7FF0000000000000}, {0}}),
            (std::vector<std::uint64_t>{1, 0}));
}

TEST(FloatOperationsTest, ApproximationsAreClose) {
  const std::vector<std::pair<std::string, std::function<double(double)>>> functions = {
      {"ex2.approx.f32", [](double x) { return std::exp2(x); }},
      {"lg2.approx.f32", [](double x) { return std::log2(x); }},
      {"sin.approx.f32", [](double x) { return std::sin(x); }},
      {"cos.approx.f32", [](double x) { return std::cos(x); }},
      {"tanh.approx.f32", [](double x) { return std::tanh(x); }},
      {"rsqrt.approx.f32", [](double x) { return 1 / std::sqrt(x); }},
      {"rcp.approx.f32", [](double x) { return 1 / x; }},
      {"sqrt.approx.f32", [](double x) { return std::sqrt(x); }}};
  for (const auto& [name, function] : functions) {
    for (const float x : {0.1f, 0.5f, 1.0f, 1.7f, 3.0f}) {
      EXPECT_NEAR(F(Evaluate(name, "f32", {"f32"}, {{B(x)}})[0]), function(static_cast<double>(x)), 1e-5) << name << x;
    }
  }
}

TEST(FloatOperationsTest, HalvesAreRoundedOnce) {
  // 1 + 2^-11 lies half way; what is added beyond decides.
  const std::uint64_t one = 0x3C00, half_ulp = 0x1000, tiny = 0x0001;
  EXPECT_EQ(Evaluate("add.f16", "f16", {"f16", "f16"}, {{one, half_ulp}})[0], 0x3C00u);
  EXPECT_EQ(Evaluate("fma.rn.f16", "f16", {"f16", "f16", "f16"}, {{0x3C01, 0x3C01, tiny}})[0], 0x3C02u);
  EXPECT_EQ(Evaluate("mul.f16", "f16", {"f16", "f16"}, {{0x7BFF, 0x4000}})[0], 0x7C00u);
  EXPECT_EQ(Evaluate("add.f16x2", "f16x2", {"f16x2", "f16x2"}, {{0x3C004000, 0x3C003C00}})[0], 0x40004200u);
  EXPECT_EQ(Evaluate("fma.rn.bf16", "bf16", {"bf16", "bf16", "bf16"}, {{0x3F80, 0x4000, 0x3F80}})[0], 0x4040u);
  EXPECT_EQ(Evaluate("min.f16", "f16", {"f16", "f16"}, {{0x8000, 0x0000}, {0x7E00, 0x3C00}}),
            (std::vector<std::uint64_t>{0x8000, 0x3C00}));
}

}  // namespace
}  // namespace softgpu::ptx
