// gpumig run, ps, checkpoint, inspect, verify and restore, on real programs.
#include <fcntl.h>

#include "tests/support/gpumig_cli.h"

namespace gpumig {
namespace {

using CheckpointRestoreTest = GpumigCliTest;

TEST_F(CheckpointRestoreTest, AWorkloadGoesIntoAnImageAndComesBackAndCountsOn) {
  const auto log = directory() / "count";
  const CliAnswer run = Gpumig({"run", "--name", "counter", "--", COUNTER, log, "2", "16"});
  ASSERT_EQ(run.code, 0) << run.errors;
  EXPECT_EQ(run.json["name"], "counter");
  ASSERT_TRUE(GrowsOn(log));

  const CliAnswer listed = Gpumig({"ps"});
  ASSERT_EQ(listed.json["workloads"].size(), 1u);
  EXPECT_EQ(listed.json["workloads"][0]["name"], "counter");

  const auto image = directory() / "image";
  const CliAnswer checkpoint = Gpumig({"checkpoint", "counter", "--image", image});
  ASSERT_EQ(checkpoint.code, 0) << checkpoint.errors;
  EXPECT_GT(checkpoint.json["host_bytes"], 16 << 20);
  EXPECT_EQ(checkpoint.json["device_path"], "none");
  EXPECT_GT(checkpoint.json["downtime_parts_ms"]["host_dump"], 0.0);
  EXPECT_TRUE(Gpumig({"ps"}).json["workloads"].empty());
  EXPECT_TRUE(NothingIsLeft());
  const std::uint64_t at_checkpoint = Lines(log);

  const CliAnswer verified = Gpumig({"verify", "--full", image});
  EXPECT_EQ(verified.code, 0) << verified.errors;
  EXPECT_TRUE(verified.json["damaged"].empty());
  EXPECT_EQ(Gpumig({"inspect", image}).json["workload"]["name"], "counter");

  const CliAnswer restored = Gpumig({"restore", image});
  ASSERT_EQ(restored.code, 0) << restored.errors;
  EXPECT_EQ(restored.json["name"], "counter");
  ASSERT_TRUE(GrowsOn(log));
  EXPECT_GT(Lines(log), at_checkpoint);
  EXPECT_TRUE(CountedByOne(log));
}

TEST_F(CheckpointRestoreTest, ACheckpointThatLeavesItRunningCostsItNothing) {
  const auto log = directory() / "count";
  ASSERT_EQ(Gpumig({"run", "--name", "counter", "--", COUNTER, log}).code, 0);
  ASSERT_TRUE(GrowsOn(log));
  const CliAnswer checkpoint = Gpumig({"checkpoint", "counter", "--leave-running", "--image", directory() / "image"});
  ASSERT_EQ(checkpoint.code, 0) << checkpoint.errors;
  EXPECT_TRUE(GrowsOn(log));
  EXPECT_TRUE(CountedByOne(log));
  EXPECT_EQ(Gpumig({"ps"}).json["workloads"].size(), 1u);
}

TEST_F(CheckpointRestoreTest, AWorkloadCanBeMovedThroughImagesAgainAndAgain) {
  const auto log = directory() / "count";
  ASSERT_EQ(Gpumig({"run", "--name", "counter", "--", COUNTER, log}).code, 0);
  for (int round = 0; round < 3; ++round) {
    SCOPED_TRACE(round);
    ASSERT_TRUE(GrowsOn(log));
    const auto image = directory() / fmt::format("image-{}", round);
    const CliAnswer checkpoint = Gpumig({"checkpoint", "counter", "--image", image});
    ASSERT_EQ(checkpoint.code, 0) << checkpoint.errors;
    const CliAnswer restored = Gpumig({"restore", image});
    ASSERT_EQ(restored.code, 0) << restored.errors;
  }
  EXPECT_TRUE(GrowsOn(log));
  EXPECT_TRUE(CountedByOne(log));
}

TEST_F(CheckpointRestoreTest, ItsOutputTravelsWithIt) {
  const CliAnswer run =
      Gpumig({"run", "--name", "talker", "--", "sh", "-c", "while true; do echo word; sleep 0.01; done"});
  ASSERT_EQ(run.code, 0) << run.errors;
  const std::filesystem::path output = run.json["output_file"].get<std::string>();
  ASSERT_TRUE(GrowsOn(output));
  const CliAnswer checkpoint = Gpumig({"checkpoint", "talker", "--image", directory() / "image"});
  ASSERT_EQ(checkpoint.code, 0) << checkpoint.errors;
  std::filesystem::remove(output);
  const CliAnswer restored = Gpumig({"restore", directory() / "image"});
  ASSERT_EQ(restored.code, 0) << restored.errors;
  EXPECT_TRUE(GrowsOn(output));
}

TEST_F(CheckpointRestoreTest, APythonProgramThatGpumigDidNotStartKeepsAllItHad) {
  GPUMIG_NEEDS("python3", access("/usr/bin/python3", X_OK) == 0, "needs /usr/bin/python3");
  const auto log = directory() / "count";
  const pid_t pid =
      StartPlain({"/usr/bin/python3", "-c",
                  "import sys, threading, time\n"
                  "store = {i: str(i) * 20 for i in range(20000)}\n"
                  "threading.Thread(target=lambda: [time.sleep(0.01) for _ in range(10**6)], daemon=True).start()\n"
                  "out = open(sys.argv[1], 'a')\n"
                  "n = 0\n"
                  "while True:\n"
                  "    n += 1\n"
                  "    assert store[n % 20000] == str(n % 20000) * 20\n"
                  "    out.write(f'{n}\\n')\n"
                  "    out.flush()\n"
                  "    time.sleep(0.003)\n",
                  log});
  ASSERT_TRUE(GrowsOn(log));
  const CliAnswer checkpoint = Gpumig({"checkpoint", std::to_string(pid), "--image", directory() / "image"});
  ASSERT_EQ(checkpoint.code, 0) << checkpoint.errors;
  const CliAnswer restored = Gpumig({"restore", directory() / "image"});
  ASSERT_EQ(restored.code, 0) << restored.errors;
  EXPECT_TRUE(GrowsOn(log));
  EXPECT_TRUE(CountedByOne(log));
}

TEST_F(CheckpointRestoreTest, ARedisServerThatGpumigDidNotStartKeepsItsData) {
  GPUMIG_NEEDS("redis", access("/usr/bin/redis-server", X_OK) == 0, "needs redis-server");
  // On a unix socket: its name cannot clash with anything else that runs here.
  const std::string socket = directory() / "redis.sock";
  const auto redis = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"redis-cli", "-s", socket});
    const auto output = RunCommand(arguments, std::chrono::seconds(10));
    return output ? output->standard_output : output.error().message();
  };
  const pid_t pid =
      StartPlain({"redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", directory()});
  for (int i = 0; i < 500 && redis({"ping"}) != "PONG\n"; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  for (int i = 0; i < 50; ++i) ASSERT_EQ(redis({"set", fmt::format("key{}", i), fmt::format("value {}", i)}), "OK\n");

  const CliAnswer checkpoint = Gpumig({"checkpoint", std::to_string(pid), "--image", directory() / "image"});
  ASSERT_EQ(checkpoint.code, 0) << checkpoint.errors;
  EXPECT_NE(redis({"ping"}), "PONG\n");
  const CliAnswer restored = Gpumig({"restore", directory() / "image", "--name", "redis"});
  ASSERT_EQ(restored.code, 0) << restored.errors;
  for (int i = 0; i < 50; ++i) EXPECT_EQ(redis({"get", fmt::format("key{}", i)}), fmt::format("value {}\n", i));
  EXPECT_EQ(redis({"set", "after", "restore"}), "OK\n");
}

}  // namespace
}  // namespace gpumig
