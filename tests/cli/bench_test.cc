// gpumig bench: what it measures of a host and a link is what a forecast is made of.
#include "tests/support/two_nodes.h"

namespace gpumig {
namespace {

using BenchTest = TwoNodesTest;

TEST_F(BenchTest, WhatItMeasuresOfHostAndLinkLetsPreflightForecastAMove) {
  Up({"--gpus", "0"});
  StartCounter("node-a");
  const CliAnswer before = GpumigOn("node-a", {"preflight", "counter"});
  ASSERT_EQ(before.code, 0) << before.errors;
  EXPECT_TRUE(before.json["predicted_downtime_ms"].is_null()) << before.output;

  const CliAnswer bench = GpumigOn("node-a", {"bench", "--to", "node-b", "--seconds", "1", "--gib", "3"});
  ASSERT_EQ(bench.code, 0) << bench.errors;
  for (const char* rate : {"copy", "read", "digest", "encode", "state_disk", "staging"}) {
    EXPECT_GT(bench.json["bytes_per_second"].value(rate, std::uint64_t{0}), 0u) << rate << bench.output;
  }
  EXPECT_GT(bench.json["links"]["node-b"].value("bytes_per_second", std::uint64_t{0}), 0u) << bench.output;
  const Json forecast = bench.json["forecast"]["to"]["node-b"];
  EXPECT_GT(forecast.value("downtime_ms", 0.0), 0.0) << bench.output;
  EXPECT_FALSE(forecast.value("bound_by", "").empty()) << bench.output;

  const CliAnswer after = GpumigOn("node-a", {"preflight", "counter"});
  EXPECT_GT(after.json.value("predicted_downtime_ms", 0.0), 0.0) << after.output;
  EXPECT_EQ(after.json["forecast"]["to"], "node-b");
  EXPECT_EQ(after.json["forecast"]["measured_at"], bench.json["links"]["node-b"]["measured_at"]);
}

TEST_F(BenchTest, ALinkToANodeThatIsNoPeerIsRefused) {
  Up({"--gpus", "0"});
  const CliAnswer bench = GpumigOn("node-a", {"bench", "--to", "node-z", "--seconds", "1"});
  EXPECT_EQ(bench.code, 3) << bench.output;
  EXPECT_NE(bench.error().find("node-z"), std::string::npos) << bench.output;
}

TEST_F(BenchTest, WithoutAnAgentTheHostIsMeasuredAll) {
  const CliAnswer bench = Gpumig({"bench", "--seconds", "1"});
  ASSERT_EQ(bench.code, 0) << bench.errors;
  EXPECT_GT(bench.json["bytes_per_second"].value("digest", std::uint64_t{0}), 0u) << bench.output;
  EXPECT_TRUE(bench.json["skipped"].contains("gpu")) << bench.output;
  EXPECT_TRUE(bench.json["forecast"]["to"].empty()) << bench.output;
}

}  // namespace
}  // namespace gpumig
