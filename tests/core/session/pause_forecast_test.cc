#include "core/session/pause_forecast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/file.h"
#include "core/session/host_meter.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint64_t kGB = 1'000'000'000;

HostRates SomeRates() {
  HostRates rates;
  rates.measured_at = "2026-01-31T12:34:56Z";
  rates.thread_count = 2;
  rates.copy = 20 * kGB;
  rates.read = 10 * kGB;
  rates.digest = 10 * kGB;
  rates.encode = 10 * kGB;
  rates.state_disk = kGB / 2;
  rates.gpu_capture = 4 * kGB;
  rates.gpu_restore = 2 * kGB;
  rates.fixed = milliseconds(100);
  rates.links["node-b"] = {2 * kGB, 4, "2026-01-31T12:34:57Z"};
  return rates;
}

std::vector<std::string> NamesOf(const PauseForecast& forecast) {
  std::vector<std::string> names;
  for (const TimedPart& part : forecast.parts) names.push_back(part.name);
  return names;
}

TEST(PauseForecastTest, HashesThenSendsAtThePaceOfTheLink) {
  const auto forecast = PredictPause(SomeRates(), {.host_bytes = 10 * kGB, .node = "node-b"});
  ASSERT_THAT(forecast, IsOk());
  // 10 GB read and hashed in turn at 10 GB/s each, then 10 GB over 2 GB/s.
  EXPECT_THAT(forecast->parts, ElementsAre(TimedPart{"fixed", milliseconds(100)}, TimedPart{"hash", milliseconds(2000)},
                                           TimedPart{"send", milliseconds(5000)}));
  EXPECT_EQ(forecast->total, milliseconds(7100));
  EXPECT_EQ(forecast->bound_by, "link");
  EXPECT_THAT(forecast->left_out, IsEmpty());
}

TEST(PauseForecastTest, DeviceBytesAreCapturedHashedSentAndRestored) {
  const auto forecast = PredictPause(SomeRates(), {.host_bytes = 2 * kGB, .device_bytes = 8 * kGB, .node = "node-b"});
  ASSERT_THAT(forecast, IsOk());
  EXPECT_THAT(NamesOf(*forecast), ElementsAre("fixed", "device_capture", "hash", "send", "device_restore"));
  EXPECT_EQ(forecast->total, milliseconds(100 + 2000 + 2000 + 5000 + 4000));
}

TEST(PauseForecastTest, NamesWhateverIsSlowest) {
  const PauseQuestion question = {.host_bytes = 10 * kGB, .device_bytes = kGB, .node = "node-b"};
  HostRates rates = SomeRates();
  rates.links["node-b"].bytes_per_second = 100 * kGB;
  rates.encode = kGB;
  EXPECT_EQ(PredictPause(rates, question)->bound_by, "encode");
  rates = SomeRates();
  rates.digest = kGB / 2;
  EXPECT_EQ(PredictPause(rates, question)->bound_by, "digest");
  rates = SomeRates();
  rates.gpu_restore = kGB / 100;
  EXPECT_EQ(PredictPause(rates, question)->bound_by, "gpu");
  rates = SomeRates();
  rates.fixed = std::chrono::minutes(2);
  EXPECT_EQ(PredictPause(rates, question)->bound_by, "fixed");
}

TEST(PauseForecastTest, FewerConnectionsCarryLessAndMoreCarryNoMore) {
  const auto send = [](std::uint32_t connection_count) {
    const auto forecast =
        PredictPause(SomeRates(), {.host_bytes = 2 * kGB, .node = "node-b", .connection_count = connection_count});
    return forecast->parts.back().duration;
  };
  EXPECT_EQ(send(4), milliseconds(1000));
  EXPECT_EQ(send(8), milliseconds(1000));
  EXPECT_EQ(send(1), milliseconds(4000));
}

TEST(PauseForecastTest, SaysWhichPartsItLeavesOut) {
  HostRates rates = SomeRates();
  rates.fixed.reset();
  rates.gpu_capture = 0;
  const auto forecast = PredictPause(rates, {.host_bytes = kGB, .device_bytes = kGB, .node = "node-b"});
  ASSERT_THAT(forecast, IsOk());
  EXPECT_THAT(forecast->left_out, ElementsAre("fixed", "device_capture"));
  EXPECT_THAT(NamesOf(*forecast), ElementsAre("hash", "send", "device_restore"));
}

TEST(PauseForecastTest, WithoutALinkOrARateThereIsNoForecast) {
  EXPECT_THAT(PredictPause(SomeRates(), {.host_bytes = 1, .node = "node-c"}),
              FailsWith(ErrorCode::kFailedPrecondition, "node-c"));
  HostRates rates = SomeRates();
  rates.digest = 0;
  EXPECT_THAT(PredictPause(rates, {.host_bytes = 1, .node = "node-b"}),
              FailsWith(ErrorCode::kFailedPrecondition, "digest"));
}

TEST(HostRatesTest, ComeBackFromDiskAsTheyWere) {
  const auto directory = TemporaryDirectory::Create("/tmp", "rates-test");
  ASSERT_THAT(directory, IsOk());
  EXPECT_THAT(LoadHostRates(directory->path()), FailsWith(ErrorCode::kNotFound, "rates.json"));
  HostRates rates = SomeRates();
  ASSERT_THAT(SaveHostRates(directory->path(), rates), IsOk());
  EXPECT_EQ(*LoadHostRates(directory->path()), rates);
  rates.fixed.reset();
  rates.encode = 0;
  ASSERT_THAT(SaveHostRates(directory->path(), rates), IsOk());
  EXPECT_EQ(*LoadHostRates(directory->path()), rates);
}

TEST(HostRatesTest, RefusesALinkThatCarriesNothing) {
  Json json = ToJson(SomeRates());
  json["links"]["node-b"]["connections"] = 0u;
  EXPECT_THAT(HostRatesFromJson(json), FailsWith(ErrorCode::kDamaged, "node-b"));
  json = ToJson(SomeRates());
  json["bytes_per_second"]["digest"] = "fast";
  EXPECT_THAT(HostRatesFromJson(json), FailsWith(ErrorCode::kDamaged, "digest"));
}

TEST(HostMeterTest, EverythingThatAHostDoesHasARate) {
  const HostMeter meter(milliseconds(1), /*thread_count=*/2);
  EXPECT_GT(meter.Copy(), 0u);
  EXPECT_GT(meter.Digest(), 0u);
  EXPECT_GT(meter.Encode(CompressionChoice::Zstd()), 0u);
  const auto read = meter.ReadProcess();
  ASSERT_THAT(read, IsOk());
  EXPECT_GT(*read, 0u);
}

TEST(HostMeterTest, LeavesNothingInTheDirectoryThatItWroteTo) {
  const auto directory = TemporaryDirectory::Create("/tmp", "meter-test");
  ASSERT_THAT(directory, IsOk());
  const auto rate = HostMeter(milliseconds(1)).WriteAndSync(directory->path());
  ASSERT_THAT(rate, IsOk());
  EXPECT_GT(*rate, 0u);
  EXPECT_TRUE(std::filesystem::is_empty(directory->path()));
  EXPECT_THAT(HostMeter(milliseconds(1)).WriteAndSync(directory->path() / "missing"),
              FailsWith(ErrorCode::kNotFound, "missing"));
}

}  // namespace
}  // namespace gpumig
