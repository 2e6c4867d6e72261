// Runs the real gpumig program, as a user would, and looks at what it leaves behind.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "core/base/child_process.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/host/cgroup.h"
#include "core/host/criu.h"
#include "core/host/process.h"
#include "tests/support/matchers.h"
#include "tests/support/needs.h"

namespace gpumig {

struct CliAnswer {
  int code = -1;
  Json json;
  std::string output;
  std::string errors;

  std::string result() const { return json.value("result", ""); }
  std::string error() const { return json.contains("error") ? json["error"].value("message", "") : ""; }
  std::string next_step() const { return json.contains("error") ? json["error"].value("next_step", "") : ""; }
};

// Everything of gpumig's that outlives a command, where others can see it: in a cgroup and a staging directory that no
// other gpumig uses, so that nobody's workloads are taken for the test's.
inline std::set<std::string> TracesOfGpumig(const std::string& cgroup, const std::filesystem::path& staging) {
  std::set<std::string> traces;
  std::error_code ignored;
  const auto root = CgroupRoot();
  if (root) {
    for (std::filesystem::recursive_directory_iterator entry(*root / cgroup, ignored), end; entry != end;
         entry.increment(ignored)) {
      if (entry->is_directory(ignored)) traces.insert("cgroup " + entry->path().string());
    }
  }
  for (std::filesystem::directory_iterator entry(staging, ignored), end; entry != end; entry.increment(ignored))
    traces.insert("staging " + entry->path().string());
  const auto processes = ListProcesses();
  if (processes) {
    for (const ProcessStat& stat : *processes) {
      const auto path = CgroupPathOf(stat.pid);
      if (path && path->starts_with("/" + cgroup + "/")) traces.insert("process " + std::to_string(stat.pid));
    }
  }
  return traces;
}

// A test that runs gpumig with directories of its own, and in the end asks that nothing is left.
class GpumigCliTest : public testing::Test {
 protected:
  void SetUp() override {
    GPUMIG_NEEDS_ROOT();
    GPUMIG_NEEDS("criu", FindCriu().has_value(), "needs CRIU");
    auto directory = TemporaryDirectory::Create("/tmp", "gpumig-cli-test");
    ASSERT_THAT(directory, IsOk());
    directory_.emplace(std::move(*directory));
    auto staging = TemporaryDirectory::Create("/dev/shm", "gpumig-cli-test");
    ASSERT_THAT(staging, IsOk());
    staging_.emplace(std::move(*staging));
    cgroup_ = directory_->path().filename().string();
  }

  void TearDown() override {
    if (!staging_) return;
    for (const pid_t pid : started_) kill(pid, SIGKILL);
    for (const std::string& cgroup : ListOwnCgroups()) {
      auto open = Cgroup::Open(cgroup);
      if (open) {
        EXPECT_THAT(open->Kill(std::chrono::seconds(10)), IsOk());
        EXPECT_THAT(open->Remove(), IsOk());
      }
    }
    children_.clear();
    EXPECT_TRUE(NothingIsLeft());
    auto all = Cgroup::Open(*CgroupRoot() / cgroup_);
    if (all) {
      EXPECT_THAT(all->Remove(), IsOk());
    }
  }

  const std::filesystem::path& directory() const { return directory_->path(); }

  std::vector<std::pair<std::string, std::string>> Environment() const {
    return {{"GPUMIG_RUNTIME_DIR", directory() / "run"},
            {"GPUMIG_STATE_DIR", directory() / "state"},
            {"GPUMIG_STAGING_DIR", staging_->path()},
            {"GPUMIG_CGROUP", cgroup_}};
  }

  CliAnswer Gpumig(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {GPUMIG_PROGRAM, "--json"});
    return Ask(arguments);
  }

  CliAnswer Ask(std::vector<std::string> arguments) const {
    for (const auto& [name, value] : Environment()) setenv(name.c_str(), value.c_str(), 1);
    CliAnswer answer;
    const auto output = RunCommand(arguments, std::chrono::seconds(120));
    if (!output) {
      ADD_FAILURE() << output.error().message();
      return answer;
    }
    answer.code = output->status.code;
    answer.output = output->standard_output;
    answer.errors = output->standard_error;
    const auto json = ParseJson(output->standard_output);
    if (json) answer.json = *json;
    return answer;
  }

  // A process of ours in a session of its own, as a shell would start a daemon.
  pid_t StartPlain(const std::vector<std::string>& arguments, const std::filesystem::path& output = "/dev/null") {
    const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    const UniqueFd out(open(output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    ChildProcess::Options options;
    options.arguments = arguments;
    options.descriptors = {{null.get(), 0}, {out.get(), 1}, {out.get(), 2}};
    options.new_session = true;
    auto child = ChildProcess::Start(options);
    if (!child) {
      ADD_FAILURE() << child.error().message();
      return 0;
    }
    children_.push_back(std::move(*child));
    return children_.back().pid();
  }

  static std::uint64_t Lines(const std::filesystem::path& log) {
    const auto text = ReadTextFile(log, 1 << 30);
    return text ? static_cast<std::uint64_t>(std::count(text->begin(), text->end(), '\n')) : 0;
  }
  static testing::AssertionResult GrowsOn(const std::filesystem::path& log, std::uint64_t more = 5) {
    return Reaches(log, Lines(log) + more);
  }
  // However slow it is: what counts is that it goes on.
  static testing::AssertionResult Reaches(const std::filesystem::path& log, std::uint64_t lines) {
    std::uint64_t last = Lines(log);
    for (int idle = 0; idle < 15000; ++idle) {
      const std::uint64_t now = Lines(log);
      if (now >= lines) return testing::AssertionSuccess();
      if (now > last) idle = 0;
      last = now;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return testing::AssertionFailure() << log << " stands at " << last << " of " << lines << " lines";
  }
  // Every number once and in order: nothing lost, nothing twice.
  static testing::AssertionResult CountedByOne(const std::filesystem::path& log) {
    std::istringstream lines(*ReadTextFile(log, 1 << 30));
    std::uint64_t expected = 1;
    for (std::uint64_t number = 0; lines >> number; ++expected) {
      if (number != expected) return testing::AssertionFailure() << number << " follows " << expected - 1;
    }
    return testing::AssertionSuccess();
  }

  testing::AssertionResult NothingIsLeft() const {
    std::string left;
    for (int i = 0; i < 100; ++i) {
      left.clear();
      for (const std::string& trace : Traces()) left += "\n  " + trace;
      if (left.empty()) return testing::AssertionSuccess();
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return testing::AssertionFailure() << "left behind:" << left;
  }

  std::vector<std::string> ListOwnCgroups() const {
    std::vector<std::string> cgroups;
    for (const std::string& trace : Traces()) {
      if (!trace.starts_with("cgroup ")) continue;
      const std::filesystem::path path = trace.substr(7);
      if (path.parent_path().filename() == cgroup_) cgroups.push_back(path);
    }
    return cgroups;
  }

  std::set<std::string> Traces() const { return TracesOfGpumig(cgroup_, staging_->path()); }

  std::optional<TemporaryDirectory> directory_;
  std::optional<TemporaryDirectory> staging_;
  std::string cgroup_;
  std::vector<ChildProcess> children_;
  std::vector<pid_t> started_;
};

}  // namespace gpumig
