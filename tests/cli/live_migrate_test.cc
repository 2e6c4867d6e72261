// gpumig migrate --live: memory is copied while the job runs, and every byte is that of the stop all the same.
#include <signal.h>

#include <functional>
#include <future>
#include <thread>

#include "tests/support/two_nodes.h"

namespace gpumig {
namespace {

class LiveMigrateTest : public TwoNodesTest {
 protected:
  // Whether this kernel can tell what was written. Where it cannot, all processes are left alone and named.
  static bool CopiedAhead(const Json& report) { return report["live"]["left_alone"].empty(); }

  static bool Eventually(const std::function<bool()>& condition) {
    for (const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
         std::chrono::steady_clock::now() < until; std::this_thread::sleep_for(std::chrono::milliseconds(10))) {
      if (condition()) return true;
    }
    return false;
  }

  void StartScribbler(const std::string& node, const std::string& mib) {
    log_ = directory() / "rounds";
    const CliAnswer run = GpumigOn(node, {"run", "--name", "scribbler", "--", SCRIBBLER, log_, mib});
    ASSERT_EQ(run.code, 0) << run.errors;
    ASSERT_TRUE(GrowsOn(log_));
  }
};

TEST_F(LiveMigrateTest, AJobThatWritesAllTheTimeArrivesWithEveryByteOfItsStop) {
  Up();
  StartScribbler("node-a", "64");
  for (const auto& [from, to] : {std::pair("node-a", "node-b"), std::pair("node-b", "node-a")}) {
    const CliAnswer moved = Migrate(from, "scribbler", to, {"--live"});
    ASSERT_EQ(moved.code, 0) << moved.errors;
    ASSERT_TRUE(moved.json.contains("live")) << moved.output;
    if (CopiedAhead(moved.json)) {
      ASSERT_FALSE(moved.json["live"]["rounds"].empty());
      EXPECT_GE(moved.json["live"]["rounds"][0]["bytes"], 48u << 20) << moved.output;
      EXPECT_LT(moved.json["live"]["bytes_left"], 48u << 20) << moved.output;
    }
    EXPECT_TRUE(GrowsOn(log_, 60));  // so that it has looked at all of its pages
  }
  EXPECT_TRUE(CountedByOne(log_));
}

TEST_F(LiveMigrateTest, MemoryOfEveryKindIsCarried) {
  Up();
  log_ = directory() / "checks";
  ASSERT_EQ(GpumigOn("node-a", {"run", "--name", "memories", "--", MEMORIES, log_}).code, 0);
  ASSERT_TRUE(GrowsOn(log_));
  const CliAnswer moved = Migrate("node-a", "memories", "node-b", {"--live"});
  ASSERT_EQ(moved.code, 0) << moved.errors;
  EXPECT_TRUE(GrowsOn(log_, 3));
  EXPECT_TRUE(CountedByOne(log_));
}

TEST_F(LiveMigrateTest, ATrainingJobOnAGpuLeavesTheTraceOfAnUndisturbedRun) {
  Up();
  constexpr int kSteps = 200;
  const auto reference = directory() / "reference.log";
  const auto moved_log = directory() / "moved.log";
  StartTrainer("node-b", "reference", reference, kSteps);
  StartTrainer("node-a", "trainer", moved_log, kSteps);
  ASSERT_TRUE(Reaches(moved_log, 20));
  const CliAnswer moved = Migrate("node-a", "trainer", "node-b", {"--live"});
  ASSERT_EQ(moved.code, 0) << moved.errors;
  ASSERT_TRUE(Reaches(moved_log, kSteps));
  ASSERT_TRUE(Reaches(reference, kSteps));
  EXPECT_EQ(*ReadTextFile(moved_log), *ReadTextFile(reference));
}

// Whatever of the copying it falls into: the job's end is no reason to keep what came of it.
TEST_F(LiveMigrateTest, WhatCameAheadIsGoneAtTheTargetWhereTheJobEndsMeanwhile) {
  Up();
  StartScribbler("node-a", "64");
  const auto incoming = [&](const char* what) {
    return On("node-b", {"sh", "-c", fmt::format("ls -d /var/lib/gpumig/incoming/{} 2>/dev/null", what)}).output;
  };
  const auto root = GpumigOn("node-a", {"ps"}).json["workloads"][0]["pid"].get<pid_t>();
  auto moved = std::async(std::launch::async, [&] { return Migrate("node-a", "scribbler", "node-b", {"--live"}); });
  ASSERT_TRUE(Eventually([&] { return !incoming("*/chunks").empty(); }));
  kill(root, SIGKILL);
  const CliAnswer answer = moved.get();
  if (answer.code == 0) GTEST_SKIP() << "it had moved before it could be killed";
  EXPECT_TRUE(Eventually([&] { return incoming("*").empty(); })) << incoming("*");
}

}  // namespace
}  // namespace gpumig
