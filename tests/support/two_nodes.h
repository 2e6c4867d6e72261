// Two real nodes on this machine, for tests: scripts/two-nodes, driven as a user would.
#pragma once

#include <fcntl.h>

#include <atomic>
#include <string>
#include <vector>

#include "tests/support/gpumig_cli.h"

namespace gpumig {

class TwoNodesTest : public GpumigCliTest {
 protected:
  void SetUp() override {
    GpumigCliTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    nodes_ = directory() / "nodes";
  }

  void TearDown() override {
    if (staging_ && std::filesystem::exists(nodes_)) {
      if (HasFailure()) {
        for (const char* node : {"node-a", "node-b"}) std::cerr << node << ":\n" << AgentLog(node);
      }
      EXPECT_EQ(TwoNodes({"down", nodes_}).code, 0);
    }
    GpumigCliTest::TearDown();
  }

  void Up(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"up", nodes_, "--build", GPUMIG_BUILD};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const CliAnswer up = TwoNodes(arguments);
    ASSERT_EQ(up.code, 0) << up.errors;
  }

  CliAnswer TwoNodes(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), TWO_NODES);
    return AskToFile(arguments);
  }

  CliAnswer On(const std::string& node, std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {TWO_NODES, "exec", nodes_, node});
    return AskToFile(arguments);
  }

  CliAnswer GpumigOn(const std::string& node, std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {GPUMIG_PROGRAM, "--json"});
    return On(node, arguments);
  }

  std::string AgentLog(const std::string& node) const {
    const auto log = ReadTextFile(nodes_ / node / "gpumigd.log");
    return log ? *log : log.error().message();
  }

  void StartCounter(const std::string& node, const std::string& mib = "8") {
    log_ = directory() / "count";
    const CliAnswer run = GpumigOn(node, {"run", "--name", "counter", "--", COUNTER, log_, "2", mib});
    ASSERT_EQ(run.code, 0) << run.errors;
    ASSERT_TRUE(GrowsOn(log_));
  }
  void ExpectCounterCountsOn() {
    EXPECT_TRUE(GrowsOn(log_));
    EXPECT_TRUE(CountedByOne(log_));
  }

  std::vector<std::string> TrainerCommand(const std::filesystem::path& log, int steps, int device_mib = 8) const {
    return {TRAINER, "--steps",      std::to_string(steps),      "--step-ms",  "5", "--seed",
            "11",    "--device-mib", std::to_string(device_mib), "--host-mib", "8", "--log",
            log};
  }
  void StartTrainer(const std::string& node, const std::string& name, const std::filesystem::path& log, int steps,
                    int device_mib = 8) {
    std::vector<std::string> arguments = {"run", "--name", name, "--gpu", "soft", "--"};
    const std::vector<std::string> command = TrainerCommand(log, steps, device_mib);
    arguments.insert(arguments.end(), command.begin(), command.end());
    const CliAnswer run = GpumigOn(node, arguments);
    ASSERT_EQ(run.code, 0) << run.errors;
  }
  CliAnswer Migrate(const std::string& from, const std::string& workload, const std::string& to,
                    std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = {"migrate", workload, "--to", to};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return GpumigOn(from, arguments);
  }

  std::filesystem::path nodes_;
  std::filesystem::path log_;

 private:
  // Through files: what two-nodes starts in the background would hold a pipe open.
  CliAnswer AskToFile(const std::vector<std::string>& arguments) const {
    // Several may be asked at once.
    const int number = ++asked_;
    const std::filesystem::path out = directory() / fmt::format("stdout-{}", number);
    const std::filesystem::path err = directory() / fmt::format("stderr-{}", number);
    const UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
    const UniqueFd out_fd(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    const UniqueFd err_fd(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    ChildProcess::Options options;
    options.arguments = arguments;
    options.descriptors = {{null.get(), 0}, {out_fd.get(), 1}, {err_fd.get(), 2}};
    // A node has the usual directories, in a mount namespace of its own.
    options.environment = {{"GPUMIG_RUNTIME_DIR", ""},
                           {"GPUMIG_STATE_DIR", ""},
                           {"GPUMIG_STAGING_DIR", staging_->path()},
                           {"GPUMIG_CGROUP", cgroup_}};
    CliAnswer answer;
    auto child = ChildProcess::Start(options);
    const auto status = child ? child->Wait(std::chrono::seconds(180)) : Result<ExitStatus>(child.error());
    if (!status) {
      ADD_FAILURE() << status.error().message();
      return answer;
    }
    answer.code = status->code;
    answer.output = *ReadTextFile(out);
    answer.errors = *ReadTextFile(err);
    const auto json = ParseJson(answer.output);
    if (json) answer.json = *json;
    return answer;
  }

  mutable std::atomic<int> asked_ = 0;
};

}  // namespace gpumig
