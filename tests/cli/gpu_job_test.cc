// Jobs on several GPUs through the command line: captured here, restored onto other GPUs, and what preflight says
// first.
#include <fcntl.h>

#include <bit>
#include <csignal>

#include "tests/support/gpumig_cli.h"

namespace gpumig {
namespace {

std::string Uuid(int number) { return fmt::format("GPU-00000000-0000-0000-0000-0000000000{:02x}", number); }

class GpuJobTest : public GpumigCliTest {
 protected:
  void SetUp() override {
    GpumigCliTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    socket_ = directory() / "gpu" / "softgpud.sock";
    std::filesystem::create_directory(directory() / "gpu");
    setenv("SOFTGPU_SOCKET", socket_.c_str(), 1);
  }
  void TearDown() override {
    StopDaemon();
    if (started_daemon_ > 0) kill(started_daemon_, SIGTERM);
    unsetenv("SOFTGPU_SOCKET");
    unsetenv("GPUMIG_SOFTGPU_CONFIG");
    GpumigCliTest::TearDown();
  }

  // Four devices with these UUIDs, in this order, on these NUMA nodes.
  void StartDaemon(const std::vector<std::pair<int, int>>& devices) {
    ChildProcess::Options options;
    options.arguments = {SOFTGPU_DAEMON, "--socket", socket_};
    for (const auto& [uuid, numa] : devices) {
      options.arguments.insert(options.arguments.end(),
                               {"--device", fmt::format("memory=64MiB,uuid={},numa={}", Uuid(uuid), numa)});
    }
    auto daemon = ChildProcess::Start(options);
    ASSERT_THAT(daemon, IsOk());
    daemon_.emplace(std::move(*daemon));
    for (int i = 0; i < 6000 && !std::filesystem::exists(socket_); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  void StopDaemon() {
    if (!daemon_) return;
    daemon_->Signal(SIGTERM);
    EXPECT_THAT(daemon_->Wait(std::chrono::seconds(20)), IsOk());
    daemon_.reset();
  }
  std::vector<std::string> RanksCommand(const std::filesystem::path& log, int steps) const {
    return {RANKS, "--steps", std::to_string(steps), "--step-ms", "5", "--device-mib", "1", "--log", log};
  }
  CliAnswer RunRanks(const std::string& name, const std::filesystem::path& log, int steps) {
    std::vector<std::string> arguments = {"run", "--name", name, "--gpu", "soft", "--"};
    const std::vector<std::string> command = RanksCommand(log, steps);
    arguments.insert(arguments.end(), command.begin(), command.end());
    return Gpumig(arguments);
  }
  // The mean loss that the line of step `step` tells.
  static float LossOf(const std::filesystem::path& log, std::size_t step) {
    std::istringstream lines(*ReadTextFile(log));
    std::string number;
    std::string loss;
    std::string trace;
    for (std::size_t i = 0; i < step; ++i) lines >> number >> loss >> trace;
    EXPECT_EQ(number, std::to_string(step));
    return std::bit_cast<float>(static_cast<std::uint32_t>(std::stoul(loss, nullptr, 16)));
  }

  std::filesystem::path socket_;
  std::optional<ChildProcess> daemon_;
  pid_t started_daemon_ = -1;
};

constexpr int kSteps = 60;

TEST_F(GpuJobTest, AJobOnFourGpusInThreeProcessesGoesOnOnFourOthersInAnotherOrder) {
  StartDaemon({{1, 0}, {2, 0}, {3, 1}, {4, 1}});
  const auto undisturbed = directory() / "undisturbed";
  ASSERT_EQ(RunRanks("undisturbed", undisturbed, kSteps).code, 0);
  ASSERT_TRUE(Reaches(undisturbed, kSteps));
  EXPECT_LT(LossOf(undisturbed, kSteps), LossOf(undisturbed, 1) / 2);  // It learns.

  const auto log = directory() / "log";
  const CliAnswer run = RunRanks("ranks", log, kSteps);
  ASSERT_EQ(run.code, 0) << run.errors;
  ASSERT_TRUE(Reaches(log, 15));

  const CliAnswer preflight = Gpumig({"preflight", "ranks"});
  ASSERT_EQ(preflight.code, 0) << preflight.errors;
  EXPECT_TRUE(preflight.json["blockers"].empty());
  ASSERT_EQ(preflight.json["gpu_map"].size(), 4u);
  EXPECT_EQ(preflight.json["gpu_map"][0]["why"], "the same GPU");
  EXPECT_GE(preflight.json["predicted_bytes"]["device"], 4 << 20);

  const auto image = directory() / "image";
  const CliAnswer checkpoint = Gpumig({"checkpoint", "ranks", "--image", image});
  ASSERT_EQ(checkpoint.code, 0) << checkpoint.errors;
  EXPECT_EQ(checkpoint.json["device_path"], "host");
  EXPECT_GE(checkpoint.json["device_bytes"], 4 << 20);
  StopDaemon();
  // Other devices, and the NUMA nodes in another order.
  StartDaemon({{14, 1}, {13, 0}, {12, 1}, {11, 0}});
  const CliAnswer restored = Gpumig({"restore", image});
  ASSERT_EQ(restored.code, 0) << restored.errors;
  ASSERT_EQ(restored.json["gpu_map"].size(), 4u);
  // Who were neighbours are neighbours: 1 with 2, 3 with 4; 12 is next to 14, 11 to 13.
  const auto number = [&](std::size_t i) {
    const std::string uuid = restored.json["gpu_map"][i]["new"];
    return std::stoi(uuid.substr(uuid.size() - 2), nullptr, 16);
  };
  EXPECT_EQ(number(0) % 2, number(1) % 2);
  EXPECT_EQ(number(2) % 2, number(3) % 2);
  EXPECT_NE(restored.json["gpu_map"][0]["why"].get<std::string>().find("with its neighbour"), std::string::npos);
  ASSERT_TRUE(Reaches(log, kSteps));
  EXPECT_EQ(*ReadTextFile(log), *ReadTextFile(undisturbed));
}

TEST_F(GpuJobTest, AMapOfTheUsersOwnIsObeyedAndRefusedWhereItCannotBe) {
  StartDaemon({{1, 0}, {2, 0}, {3, 1}, {4, 1}});
  const auto log = directory() / "log";
  ASSERT_EQ(RunRanks("ranks", log, 1'000'000).code, 0);
  ASSERT_TRUE(Reaches(log, 5));
  const auto pair = [](int from, int to) { return Uuid(from) + "=" + Uuid(to); };
  const CliAnswer partial = Gpumig({"preflight", "ranks", "--gpu-map", pair(1, 2)});
  EXPECT_EQ(partial.code, 3);
  ASSERT_EQ(partial.json["blockers"].size(), 1u);
  EXPECT_NE(partial.json["blockers"][0]["what"].get<std::string>().find("every GPU the job saw"), std::string::npos);
  ASSERT_TRUE(GrowsOn(log));

  const auto image = directory() / "image";
  ASSERT_EQ(Gpumig({"checkpoint", "ranks", "--image", image}).code, 0);
  const CliAnswer refused = Gpumig({"restore", image, "--gpu-map", pair(1, 9)});
  EXPECT_EQ(refused.code, 3);
  EXPECT_NE(refused.error().find("which this host has not"), std::string::npos) << refused.error();
  const std::string map = pair(1, 4) + "," + pair(2, 3) + "," + pair(3, 2) + "," + pair(4, 1);
  const CliAnswer restored = Gpumig({"restore", image, "--gpu-map", map});
  ASSERT_EQ(restored.code, 0) << restored.errors;
  EXPECT_EQ(restored.json["gpu_map"][0]["new"], Uuid(4));
  EXPECT_TRUE(GrowsOn(log));
}

TEST_F(GpuJobTest, PreflightOfAJobWithoutGpuSaysSo) {
  const auto log = directory() / "count";
  ASSERT_EQ(Gpumig({"run", "--name", "counter", "--", COUNTER, log}).code, 0);
  ASSERT_TRUE(GrowsOn(log));
  const CliAnswer preflight = Gpumig({"preflight", "counter"});
  EXPECT_EQ(preflight.code, 0) << preflight.errors;
  EXPECT_EQ(preflight.result(), "ok");
  EXPECT_TRUE(preflight.json["gpu_map"].empty());
  EXPECT_TRUE(preflight.json["predicted_downtime_ms"].is_null());
  EXPECT_EQ(Gpumig({"preflight", "nobody"}).code, 3);
}

TEST_F(GpuJobTest, RunStartsTheSoftwareGpuWhereNoneRunsAndTheNextOneFindsIt) {
  const auto config = directory() / "devices";
  std::ofstream(config) << "memory=64MiB\nmemory=64MiB\nmemory=64MiB\nmemory=64MiB\n";
  setenv("GPUMIG_SOFTGPU_CONFIG", config.c_str(), 1);
  const auto log = directory() / "log";
  const CliAnswer run = RunRanks("ranks", log, 20);
  ASSERT_EQ(run.code, 0) << run.errors;
  started_daemon_ = run.json.value("started_softgpud", -1);
  ASSERT_GT(started_daemon_, 0);
  ASSERT_TRUE(Reaches(log, 20));
  const CliAnswer again = RunRanks("again", directory() / "log2", 20);
  ASSERT_EQ(again.code, 0) << again.errors;
  EXPECT_FALSE(again.json.contains("started_softgpud"));
  ASSERT_TRUE(Reaches(directory() / "log2", 20));
  EXPECT_EQ(*ReadTextFile(log), *ReadTextFile(directory() / "log2"));
}

TEST_F(GpuJobTest, ASoftwareGpuThatDoesNotComeUpIsRefusedWithItsOwnWords) {
  const auto config = directory() / "devices";
  std::ofstream(config) << "memory=nothing\n";
  setenv("GPUMIG_SOFTGPU_CONFIG", config.c_str(), 1);
  const CliAnswer run = RunRanks("ranks", directory() / "log", 20);
  EXPECT_EQ(run.code, 3);
  EXPECT_NE(run.error().find("memory must be"), std::string::npos) << run.error();
}

// Faults of the driver, as a user meets them: exit code 4, a clear message, and the job runs on.
TEST_F(GpuJobTest, ADriverThatCannotCaptureCostsTheJobNothing) {
  StartDaemon({{1, 0}, {2, 0}, {3, 1}, {4, 1}});
  const auto log = directory() / "log";
  ASSERT_EQ(RunRanks("ranks", log, 1'000'000).code, 0);
  ASSERT_TRUE(Reaches(log, 5));
  const auto fault = [&](const std::string& verb, const std::string& name) {
    const auto output =
        RunCommand({SOFTGPU_DAEMON, "ctl", "--socket", socket_, "fault", verb, name}, std::chrono::seconds(10));
    ASSERT_THAT(output, IsOk());
    ASSERT_TRUE(output->status.ok()) << output->standard_error;
  };
  const std::vector<std::pair<std::string, std::string>> faults = {
      {"F4", "did not come to rest"}, {"F11", "host memory"}, {"F13", "did not come to rest"}, {"F16", "cannot carry"}};
  for (const auto& [name, text] : faults) {
    SCOPED_TRACE(name);
    fault("set", name);
    const CliAnswer failed =
        Gpumig({"checkpoint", "ranks", "--lock-timeout-ms", "700", "--image", directory() / ("image-" + name)});
    EXPECT_EQ(failed.code, 4) << failed.errors;
    EXPECT_NE(failed.error().find(text), std::string::npos) << failed.error();
    fault("clear", name);
    EXPECT_TRUE(GrowsOn(log));
  }
  // And one that gives a process up.
  fault("set", "F2");
  const CliAnswer lost = Gpumig({"checkpoint", "ranks", "--image", directory() / "image-lost"});
  EXPECT_EQ(lost.code, 6) << lost.errors;
  EXPECT_EQ(lost.result(), "lost");
}

}  // namespace
}  // namespace gpumig
