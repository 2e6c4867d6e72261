// gpumig migrate: jobs moved between two agents, each with its own host name, network, agent and GPU.
#include <signal.h>
#include <sys/stat.h>

#include "tests/support/two_nodes.h"

namespace gpumig {
namespace {

using MigrateTest = TwoNodesTest;

TEST_F(MigrateTest, ACpuOnlyJobGoesOnAtTheTargetWithoutMissingACount) {
  Up();
  StartCounter("node-a", "16");
  const CliAnswer moved = Migrate("node-a", "counter", "node-b");
  ASSERT_EQ(moved.code, 0) << moved.errors;
  EXPECT_EQ(moved.result(), "ok");
  EXPECT_EQ(moved.json["target"], "node-b");
  EXPECT_EQ(moved.json["device_path"], "none");
  EXPECT_GT(moved.json["sent_bytes"], 16 << 20);
  for (const char* part : {"quiesce", "freeze", "host_dump", "send", "prepare", "commit", "thaw"}) {
    EXPECT_TRUE(moved.json["downtime_parts_ms"].contains(part)) << part;
  }
  ExpectCounterCountsOn();
  const CliAnswer here = GpumigOn("node-b", {"ps"});
  EXPECT_NE(here.output.find("\"counter\""), std::string::npos) << here.output;
  EXPECT_EQ(GpumigOn("node-a", {"ps"}).output.find("\"counter\""), std::string::npos);
}

TEST_F(MigrateTest, NodesThatShareTheHostsNetworkMoveAJobOverLoopback) {
  Up({"--network", "shared"});
  const std::vector<std::string> network = {"readlink", "/proc/self/ns/net"};
  EXPECT_EQ(On("node-a", network).output, On("node-b", network).output);
  StartCounter("node-a");
  const CliAnswer moved = Migrate("node-a", "counter", "node-b");
  ASSERT_EQ(moved.code, 0) << moved.errors;
  ExpectCounterCountsOn();
}

TEST_F(MigrateTest, ATrainingJobMovedTenTimesLeavesTheTraceOfAnUndisturbedRun) {
  Up();
  constexpr int kSteps = 500;
  const auto reference = directory() / "reference.log";
  const auto moved_log = directory() / "moved.log";
  StartTrainer("node-b", "reference", reference, kSteps);
  StartTrainer("node-a", "trainer", moved_log, kSteps);
  ASSERT_TRUE(Reaches(moved_log, 20));
  std::string from = "node-a";
  std::string to = "node-b";
  for (int move = 1; move <= 10; ++move) {
    SCOPED_TRACE(move);
    const CliAnswer moved = Migrate(from, "trainer", to);
    ASSERT_EQ(moved.code, 0) << moved.errors;
    EXPECT_EQ(moved.json["device_path"], "host");
    EXPECT_GT(moved.json["device_bytes"], 8 << 20);
    EXPECT_NE(moved.json["gpu_uuid_source"], moved.json["gpu_uuid_target"]);
    ASSERT_TRUE(GrowsOn(moved_log, 3));
    std::swap(from, to);
  }
  ASSERT_TRUE(Reaches(moved_log, kSteps));
  ASSERT_TRUE(Reaches(reference, kSteps));
  EXPECT_EQ(*ReadTextFile(moved_log), *ReadTextFile(reference));
}

TEST_F(MigrateTest, PsTellsWhatAGpuJobHoldsAndOfOthersNothing) {
  Up();
  StartCounter("node-a");
  const auto log = directory() / "trainer.log";
  StartTrainer("node-a", "trainer", log, /*steps=*/1'000'000, /*device_mib=*/24);
  ASSERT_TRUE(Reaches(log, 3));
  const CliAnswer ps = GpumigOn("node-a", {"ps"});
  ASSERT_EQ(ps.json["workloads"].size(), 2u) << ps.output;
  for (const Json& workload : ps.json["workloads"]) {
    if (workload["name"] == "counter") {
      EXPECT_FALSE(workload.contains("device_bytes")) << workload;
    } else {
      EXPECT_GE(workload.value("device_bytes", std::uint64_t{0}), 24u << 20) << workload;
      EXPECT_LT(workload.value("device_bytes", std::uint64_t{0}), 48u << 20) << workload;
    }
  }
}

TEST_F(MigrateTest, AJobThatWasStartedWithoutGpumigIsMovedByPid) {
  Up();
  log_ = directory() / "count";
  ASSERT_EQ(On("node-a", {"sh", "-c",
                          fmt::format("setsid {} {} 2 4 </dev/null >/dev/null 2>&1 & echo $! >{}/pid", COUNTER,
                                      log_.string(), directory().string())})
                .code,
            0);
  ASSERT_TRUE(GrowsOn(log_));
  const std::string pid = std::to_string(std::stoi(*ReadTextFile(directory() / "pid")));
  const CliAnswer moved = Migrate("node-a", pid, "node-b");
  ASSERT_EQ(moved.code, 0) << moved.errors;
  ExpectCounterCountsOn();
}

TEST_F(MigrateTest, KillingTheCommandMidWayChangesNothing) {
  Up();
  StartCounter("node-a", "64");
  ChildProcess::Options options;
  options.arguments = {TWO_NODES, "exec", nodes_, "node-a", GPUMIG_PROGRAM, "migrate", "counter", "--to", "node-b"};
  {
    auto command = ChildProcess::Start(options);
    ASSERT_THAT(command, IsOk());
    for (int i = 0; i < 5000 && AgentLog("node-a").find("sending") == std::string::npos; ++i) usleep(1000);
    command->Signal(SIGKILL);
  }
  for (int i = 0; i < 30000 && AgentLog("node-a").find(": moved") == std::string::npos; ++i) usleep(1000);
  EXPECT_NE(AgentLog("node-a").find(": moved"), std::string::npos);
  ExpectCounterCountsOn();
  const CliAnswer status = GpumigOn("node-a", {"status"});
  EXPECT_NE(status.output.find("S_DONE"), std::string::npos) << status.output;
}

TEST_F(MigrateTest, AFinishedMigrationIsKnownToTheNextAgent) {
  Up();
  StartCounter("node-a");
  const CliAnswer moved = Migrate("node-a", "counter", "node-b");
  ASSERT_EQ(moved.code, 0) << moved.errors;
  for (const char* node : {"node-a", "node-b"}) {
    ASSERT_EQ(TwoNodes({"agent", nodes_, node, "stop"}).code, 0);
    ASSERT_EQ(TwoNodes({"agent", nodes_, node, "start"}).code, 0);
  }
  const CliAnswer status = GpumigOn("node-a", {"status", moved.json.value("migration", "")});
  ASSERT_EQ(status.code, 0) << status.errors;
  const Json& told = status.json["migration"];
  EXPECT_EQ(told["state"], "S_DONE");
  EXPECT_EQ(told["report"]["downtime_ms"], moved.json["downtime_ms"]);
  const CliAnswer all = GpumigOn("node-a", {"status"});
  ASSERT_EQ(all.json["out"].size(), 1u) << all.output;
  EXPECT_EQ(all.json["out"][0], told);
  EXPECT_EQ(GpumigOn("node-b", {"status"}).json["in"][0]["state"], "T_CLOSED");
  ExpectCounterCountsOn();
}

// Also while the target's agent runs on: a deleted file that it holds open would take its room all the same.
TEST_F(MigrateTest, TheImageIsGoneFromTheTargetsDiskOnceTheJobRunsThere) {
  Up();
  StartCounter("node-a", "32");
  ASSERT_EQ(Migrate("node-a", "counter", "node-b").code, 0);
  const auto held = [&] {
    std::uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(nodes_ / "node-b" / "state" / "incoming")) {
      struct stat status{};
      if (stat(entry.path().c_str(), &status) == 0 && S_ISREG(status.st_mode)) bytes += status.st_blocks * 512ull;
    }
    const std::string agent = "gpumigd --config " + (nodes_ / "node-b" / "gpumigd.toml").string();
    const CliAnswer deleted =
        On("node-b", {"sh", "-c", "ls -l /proc/$(pgrep -of '" + agent + "$')/fd | grep -c 'chunks.*deleted'"});
    EXPECT_TRUE(deleted.output.starts_with("0")) << deleted.output;
    return bytes;
  };
  std::uint64_t last = held();
  for (int i = 0; i < 100 && last > 64 * 1024; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    last = held();
  }
  EXPECT_LE(last, 64u * 1024);
  ExpectCounterCountsOn();
}

TEST_F(MigrateTest, TheImageOfAMoveNeverTouchesTheSourcesDisk) {
  Up();
  StartCounter("node-a");
  ASSERT_EQ(Migrate("node-a", "counter", "node-b").code, 0);
  std::uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(nodes_ / "node-a" / "state")) {
    if (entry.is_regular_file()) bytes += entry.file_size();
  }
  EXPECT_LT(bytes, 1u << 20) << "more than a journal and logs";
  ExpectCounterCountsOn();
}

// Both agents killed at random moments: the job ends up running on one side, once, with nothing lost.
TEST_F(MigrateTest, AgentsKilledMidWayNeverCostTheJob) {
  Up();
  StartCounter("node-a", "16");
  std::string here = "node-a";
  std::string there = "node-b";
  for (int round = 0; round < 6; ++round) {
    SCOPED_TRACE(round);
    const std::string victim = round % 2 == 0 ? here : there;
    ChildProcess::Options options;
    options.arguments = {TWO_NODES, "exec", nodes_, here, GPUMIG_PROGRAM, "migrate", "counter", "--to", there};
    auto command = ChildProcess::Start(options);
    ASSERT_THAT(command, IsOk());
    usleep(static_cast<useconds_t>(50'000 + 130'000 * round));
    const auto pid = ReadTextFile(nodes_ / victim / "gpumigd.pid");
    ASSERT_THAT(pid, IsOk());
    kill(std::stoi(*pid), SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    ASSERT_EQ(TwoNodes({"agent", nodes_, victim, "start"}).code, 0);
    ASSERT_TRUE(GrowsOn(log_, 20)) << AgentLog(here) << AgentLog(there);
    EXPECT_TRUE(CountedByOne(log_));
    command->Signal(SIGKILL);
    // Where it runs now; the command may have been cut off before it could tell.
    const bool at_target = GpumigOn(there, {"ps"}).output.find("\"counter\"") != std::string::npos;
    if (at_target) std::swap(here, there);
    EXPECT_EQ(GpumigOn(there, {"ps"}).output.find("\"counter\""), std::string::npos) << "it is listed on both nodes";
  }
}

}  // namespace
}  // namespace gpumig
