// A checkpoint of a GPU job in which somebody is killed, at each step of it: a process of the job, the GPU helper, the
// GPUs themselves (the daemon), gpumig. Whatever comes of it, the word that gpumig gives must be true.
//
// How a step is hit and held: gpumig's log is a pipe that holds one packet. It says when a part of its work begins and
// ends, and waits until there is room to say so; so what it said and nobody read yet is as far as it can be.
#include <fcntl.h>
#include <poll.h>

#include <array>
#include <csignal>

#include "tests/plugins/softgpu/driver.h"
#include "tests/support/gpumig_cli.h"

namespace gpumig {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kPatience{120};

enum class Victim { kLeader, kChild, kHelper, kDaemon, kCommand };
enum class Moment {
  kWithin,  // in that part, or at its end
  kAfter,   // at its end
  kLock,    // in the first part: one process is locked, the other will not be
  kCopy,    // in the second part: one process is captured
};

struct Step {
  const char* name;
  bool leave_running;
  int part;  // see kParts
  Moment moment;
};

constexpr std::array kStopParts = {"quiesce", "device_capture", "freeze", "host_dump", "write_image"};
constexpr std::array kPauseParts = {"quiesce", "device_capture", "freeze", "host_dump", "copy_memory", "thaw"};

constexpr std::array kSteps = {
    Step{"InTheLock", false, 0, Moment::kLock},         Step{"AfterTheLock", false, 0, Moment::kAfter},
    Step{"InTheDeviceCopy", false, 1, Moment::kCopy},   Step{"BeforeTheFreeze", false, 1, Moment::kAfter},
    Step{"AfterTheFreeze", false, 2, Moment::kAfter},   Step{"InTheHostDump", false, 3, Moment::kWithin},
    Step{"AfterTheHostDump", false, 3, Moment::kAfter}, Step{"InTheImage", false, 4, Moment::kWithin},
    Step{"InTheCopy", true, 4, Moment::kWithin},        Step{"InTheThaw", true, 5, Moment::kWithin},
};

class GpuKillTest : public GpumigCliTest, public testing::WithParamInterface<std::tuple<Victim, Step>> {
 protected:
  void SetUp() override {
    GpumigCliTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    socket_ = directory() / "gpu" / "softgpud.sock";
    std::filesystem::create_directory(directory() / "gpu");
    setenv("SOFTGPU_SOCKET", socket_.c_str(), 1);
    log_ = directory() / "log";
    child_log_ = directory() / "log.child";
    image_ = directory() / "image";
    StartDaemon();
  }
  void TearDown() override {
    for (const pid_t pid : helpers_) kill(pid, SIGKILL);
    daemon_.reset();
    unsetenv("SOFTGPU_SOCKET");
    GpumigCliTest::TearDown();
  }

  // Slow enough that the second process is captured when the first has long been.
  void StartDaemon() {
    std::filesystem::remove(socket_);
    ChildProcess::Options options;
    options.arguments = {SOFTGPU_DAEMON, "--socket", socket_, "--device",
                         "memory=64MiB,copy=8MiB,uuid=GPU-00000000-0000-0000-0000-000000000001"};
    auto daemon = ChildProcess::Start(options);
    ASSERT_THAT(daemon, IsOk());
    daemon_.emplace(std::move(*daemon));
    ASSERT_TRUE(Until([&] { return std::filesystem::exists(socket_); })) << "softgpud does not come up";
  }
  void Ctl(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {SOFTGPU_DAEMON, "ctl", "--socket", socket_, "fault"});
    const auto output = RunCommand(arguments, kPatience);
    ASSERT_THAT(output, IsOk());
    ASSERT_TRUE(output->status.ok()) << output->standard_error;
  }
  template <typename Condition>
  static bool Until(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() >= deadline) return false;
      std::this_thread::sleep_for(milliseconds(1));
    }
    return true;
  }
  int StateOf(pid_t pid) {
    cuda_abi::CUprocessState state{};
    return cuda_.cuCheckpointProcessGetState(pid, &state) == cuda_abi::CUDA_SUCCESS ? static_cast<int>(state) : -1;
  }

  void StartJob() {
    const CliAnswer run = Gpumig({"run", "--name", "loners", "--gpu", "soft", "--", LONERS, log_, "1"});
    ASSERT_EQ(run.code, 0) << run.errors;
    leader_ = run.json["pid"];
    ASSERT_TRUE(GrowsOn(log_));
    ASSERT_TRUE(GrowsOn(child_log_));
    const auto tree = ProcessTree(leader_);
    ASSERT_THAT(tree, IsOk());
    ASSERT_EQ(tree->size(), 2u);
    child_ = tree->back();
    ASSERT_LT(leader_, child_);  // So it is locked and captured first.
  }

  // --- the command, part by part ---

  void StartCheckpoint(bool leave_running) {
    for (const auto& [name, value] : Environment()) setenv(name.c_str(), value.c_str(), 1);
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC | O_DIRECT), 0);
    said_ = UniqueFd(ends[0]);
    const UniqueFd says(ends[1]);
    ASSERT_EQ(fcntl(says.get(), F_SETPIPE_SZ, 4096), 4096) << "a page holds one packet";
    const UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
    const UniqueFd out(open(OutputFile().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    ChildProcess::Options options;
    options.arguments = {GPUMIG_PROGRAM,      "--json", "--log-level", "info", "checkpoint", "loners",
                         "--lock-timeout-ms", "5000",   "--image",     image_};
    if (leave_running) options.arguments.emplace_back("--leave-running");
    options.descriptors = {{null.get(), 0}, {out.get(), 1}, {says.get(), 2}};
    auto command = ChildProcess::Start(options);
    ASSERT_THAT(command, IsOk());
    command_.emplace(std::move(*command));
  }
  std::filesystem::path OutputFile() const { return directory() / "stdout"; }

  // Whether it has said something more, waiting for that.
  bool HasSaidMore() {
    pollfd more{said_.get(), POLLIN, 0};
    return poll(&more, 1, static_cast<int>(milliseconds(kPatience).count())) == 1 && (more.revents & POLLIN) != 0;
  }
  void Hear(const std::string& expected) {
    ASSERT_TRUE(HasSaidMore()) << "it never said: " << expected;
    std::array<char, 4096> packet{};
    const ssize_t bytes = read(said_.get(), packet.data(), packet.size());
    ASSERT_GT(bytes, 0);
    const std::string text(packet.data(), static_cast<std::size_t>(bytes));
    ASSERT_NE(text.find(expected), std::string::npos) << text;
  }
  template <typename Parts>
  void Reach(const Parts& parts, const Step& step) {
    for (int i = 0; i < step.part; ++i) {
      ASSERT_NO_FATAL_FAILURE(Hear(std::string(parts[static_cast<std::size_t>(i)]) + " began"));
      ASSERT_NO_FATAL_FAILURE(Hear(std::string(parts[static_cast<std::size_t>(i)]) + " took"));
    }
    if (step.moment == Moment::kAfter) {
      ASSERT_NO_FATAL_FAILURE(Hear(std::string(parts[static_cast<std::size_t>(step.part)]) + " began"));
    }
    ASSERT_TRUE(HasSaidMore());
    if (step.moment == Moment::kLock) {
      ASSERT_TRUE(Until([&] { return StateOf(leader_) == cuda_abi::CU_PROCESS_STATE_LOCKED; }));
    }
    if (step.moment == Moment::kCopy) {
      ASSERT_TRUE(Until([&] { return StateOf(leader_) == cuda_abi::CU_PROCESS_STATE_CHECKPOINTED; }));
    }
  }

  pid_t Helper() {
    const auto processes = ListProcesses();
    if (!processes) return -1;
    for (const ProcessStat& stat : *processes) {
      if (stat.parent == command_->pid() && stat.command == "gpumig-gpu-help") return stat.pid;
    }
    return -1;
  }
  void Kill(Victim victim) {
    switch (victim) {
      case Victim::kLeader:
        ASSERT_EQ(kill(leader_, SIGKILL), 0);
        return;
      case Victim::kChild:
        ASSERT_EQ(kill(child_, SIGKILL), 0);
        return;
      case Victim::kHelper: {
        const pid_t helper = Helper();
        ASSERT_GT(helper, 0);
        ASSERT_EQ(kill(helper, SIGKILL), 0);
        return;
      }
      case Victim::kDaemon:
        daemon_->Signal(SIGKILL);
        ASSERT_THAT(daemon_->Wait(kPatience), IsOk());
        daemon_.reset();
        return;
      case Victim::kCommand:
        command_->Signal(SIGKILL);
        return;
    }
  }
  // Lets it say whatever it has to say.
  CliAnswer FinishCheckpoint() {
    CliAnswer answer;
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    std::array<char, 4096> packet{};
    for (;;) {
      pollfd more{said_.get(), POLLIN, 0};
      if (poll(&more, 1, 5) == 1 && (more.revents & POLLIN) != 0) {
        const ssize_t bytes = read(said_.get(), packet.data(), packet.size());
        if (bytes > 0) answer.errors.append(packet.data(), static_cast<std::size_t>(bytes));
        continue;
      }
      const auto ended = command_->Wait(milliseconds(5));
      if (ended) {
        answer.code = ended->signal != 0 ? 128 + ended->signal : ended->code;
        break;
      }
      if (std::chrono::steady_clock::now() >= deadline) {
        ADD_FAILURE() << "gpumig does not end: " << answer.errors;
        break;
      }
    }
    command_.reset();
    const auto output = ReadTextFile(OutputFile());
    const auto json = output ? ParseJson(*output) : Result<Json>(output.error());
    if (json) answer.json = *json;
    return answer;
  }

  // --- what is so ---

  bool Lives() const {
    const auto stat = ReadProcessStat(leader_);
    return stat && stat->state != 'Z';
  }
  Json Listed() {
    const CliAnswer ps = Gpumig({"ps"});
    EXPECT_EQ(ps.code, 0) << ps.errors;
    for (const Json& row : ps.json["workloads"]) {
      if (row["name"] == "loners") return row;
    }
    return nullptr;
  }
  // Those of the job that were not killed count on, each number once.
  void ExpectRuns(Victim victim) {
    EXPECT_TRUE(GrowsOn(log_));
    EXPECT_TRUE(CountedByOne(log_));
    if (victim != Victim::kChild) {
      EXPECT_TRUE(GrowsOn(child_log_));
    }
    EXPECT_TRUE(CountedByOne(child_log_));
    const Json row = Listed();
    ASSERT_FALSE(row.is_null()) << "gpumig ps does not list it";
    EXPECT_TRUE(row["can_move"]) << row["why_not"];
    EXPECT_EQ(row["gpu_processes"].size(), victim == Victim::kChild ? 1u : 2u);
    EXPECT_EQ(Gpumig({"resume", "loners"}).code, 0);
  }
  void ExpectEnded() {
    EXPECT_TRUE(Until([&] { return !Lives(); }));
    EXPECT_TRUE(Listed().is_null());
    EXPECT_EQ(Gpumig({"resume", "loners"}).code, 3);
  }
  // It is gone, and all of it is in the image, whoever was killed once it was there.
  void ExpectImage() {
    ExpectEnded();
    EXPECT_EQ(Gpumig({"verify", "--full", image_}).code, 0);
    if (!daemon_) StartDaemon();
    const CliAnswer restored = Gpumig({"restore", image_});
    ASSERT_EQ(restored.code, 0) << restored.errors;
    leader_ = restored.json["pid"];
    ExpectRuns(Victim::kHelper);
  }
  // It stands still, and goes on once what was missing is there again.
  void ExpectResumes(Victim victim) {
    const Json row = Listed();
    ASSERT_FALSE(row.is_null()) << "gpumig ps does not list it";
    if (!row["can_move"]) {
      EXPECT_NE(row["why_not"].get<std::string>().find("gpumig resume loners"), std::string::npos) << row["why_not"];
    }
    if (!daemon_) {
      const CliAnswer without = Gpumig({"resume", "loners"});
      EXPECT_EQ(without.code, 5) << without.errors;
      EXPECT_NE(without.next_step().find("gpumig resume loners"), std::string::npos) << without.next_step();
      StartDaemon();
    }
    const CliAnswer resumed = Gpumig({"resume", "loners"});
    ASSERT_EQ(resumed.code, 0) << resumed.errors;
    ExpectRuns(victim);
  }
  // Where the driver lets it find out that its GPU is gone, it ends by itself, now or later.
  void ExpectLost() {
    const Json row = Listed();
    if (!row.is_null()) {
      EXPECT_FALSE(row["can_move"]);
      EXPECT_NE(row["why_not"].get<std::string>().find("failed"), std::string::npos) << row["why_not"];
    }
    const CliAnswer resumed = Gpumig({"resume", "loners"});
    if (row.is_null() || resumed.code != 6) {
      ExpectEnded();
    } else {
      EXPECT_EQ(resumed.result(), "lost");
    }
  }

  std::filesystem::path socket_;
  std::filesystem::path log_;
  std::filesystem::path child_log_;
  std::filesystem::path image_;
  std::optional<ChildProcess> daemon_;
  std::optional<ChildProcess> command_;
  UniqueFd said_;
  std::vector<pid_t> helpers_;
  pid_t leader_ = -1;
  pid_t child_ = -1;
  softgpu_test::Driver cuda_ = softgpu_test::OpenSoftDriver();
};

TEST_P(GpuKillTest, GpumigsWordIsTrue) {
  const auto& [victim, step] = GetParam();
  ASSERT_NO_FATAL_FAILURE(StartJob());
  if (step.moment == Moment::kLock) {
    ASSERT_NO_FATAL_FAILURE(Ctl({"set", fmt::format("F13@{}", child_)}));
  }
  ASSERT_NO_FATAL_FAILURE(StartCheckpoint(step.leave_running));
  if (step.leave_running) {
    ASSERT_NO_FATAL_FAILURE(Reach(kPauseParts, step));
  } else {
    ASSERT_NO_FATAL_FAILURE(Reach(kStopParts, step));
  }
  ASSERT_NO_FATAL_FAILURE(Kill(victim));
  if (step.moment == Moment::kLock && victim != Victim::kDaemon) Ctl({"clear-all"});
  const CliAnswer answer = FinishCheckpoint();
  SCOPED_TRACE(fmt::format("exit code {}, {}\n{}", answer.code, answer.json.dump(), answer.errors));

  if (victim == Victim::kCommand) {
    EXPECT_EQ(answer.code, 128 + SIGKILL);
    ExpectResumes(victim);
    return;
  }
  switch (answer.code) {
    case 0:
      EXPECT_EQ(answer.result(), "ok");
      if (!step.leave_running) {
        ExpectImage();
      } else if (victim == Victim::kLeader) {
        ExpectEnded();
      } else if (victim == Victim::kDaemon) {
        EXPECT_NE(answer.code, 0) << "it cannot run on without its GPU";
      } else {
        ExpectRuns(victim);
      }
      return;
    case 4:
      EXPECT_EQ(answer.result(), "failed");
      if (victim == Victim::kLeader) {
        EXPECT_NE(answer.errors.find("ended by itself meanwhile"), std::string::npos);
        ExpectEnded();
        return;
      }
      if (victim == Victim::kDaemon) {  // It was let go, and found out.
        EXPECT_NE(answer.errors.find("ended by itself meanwhile"), std::string::npos);
        ExpectEnded();
        return;
      }
      EXPECT_EQ(answer.errors.find("the rest of the workload runs on") != std::string::npos, victim == Victim::kChild);
      ExpectRuns(victim);
      return;
    case 5:
      EXPECT_EQ(answer.result(), "in_doubt");
      ASSERT_EQ(victim, Victim::kDaemon);
      EXPECT_NE(answer.next_step().find("gpumig resume loners"), std::string::npos) << answer.next_step();
      ExpectResumes(victim);
      return;
    case 6:
      EXPECT_EQ(answer.result(), "lost");
      ASSERT_EQ(victim, Victim::kDaemon);
      ExpectLost();
      return;
    default:
      FAIL() << "no exit code of a checkpoint that was begun";
  }
}

std::string NameOf(const testing::TestParamInfo<std::tuple<Victim, Step>>& info) {
  constexpr std::array kNames = {"TheLeader", "AChild", "TheHelper", "TheDaemon", "TheCommand"};
  const auto& [victim, step] = info.param;
  return std::string(kNames[static_cast<std::size_t>(victim)]) + step.name;
}

INSTANTIATE_TEST_SUITE_P(Of, GpuKillTest,
                         testing::Combine(testing::Values(Victim::kLeader, Victim::kChild, Victim::kHelper,
                                                          Victim::kDaemon, Victim::kCommand),
                                          testing::ValuesIn(kSteps)),
                         NameOf);

}  // namespace
}  // namespace gpumig
