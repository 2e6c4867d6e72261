#include "core/base/byte_rate.h"

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

TEST(ByteRateTest, ReadsWhatPeopleWrite) {
  const std::pair<const char*, std::uint64_t> cases[] = {
      {"64K", 65536},        {"100M", 104857600},    {"100MiB", 104857600}, {"2G", 2147483648},  {"100MB", 100000000},
      {"1.5GB", 1500000000}, {"800Mbit", 100000000}, {"1Gbit", 125000000},  {"2500Kbit", 312500}};
  for (const auto& [text, rate] : cases) EXPECT_EQ(*ParseByteRate(text), rate) << text;
}

TEST(ByteRateTest, RefusesWhatIsNoRate) {
  for (const char* text : {"", "M", "100", "100m", "100Mb", "100 M", "-1M", "0M", "1K", "63K", "1e3M", "nanM", "infM",
                           "9999999999999G", "100M/s"}) {
    EXPECT_THAT(ParseByteRate(text), FailsWith(ErrorCode::kInvalidArgument, "such as 100M or 800Mbit")) << text;
  }
}

}  // namespace
}  // namespace gpumig
