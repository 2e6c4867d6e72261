#include "tests/plugins/softgpu/soft_node.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <thread>

#include "plugins/softgpu/wire/packet.h"

namespace softgpu_test {

namespace {

using softgpu::ConnectTo;

// Adds up the numbers behind `key` in the JSON that --status prints.
std::int64_t SumOf(const std::string& json, const std::string& key) {
  if (json.empty()) return -1;
  std::int64_t sum = 0;
  const std::string quoted = "\"" + key + "\": ";
  for (std::size_t at = json.find(quoted); at != std::string::npos; at = json.find(quoted, at + 1)) {
    sum += std::stoll(json.substr(at + quoted.size()));
  }
  return sum;
}

}  // namespace

SoftNode::SoftNode(std::vector<std::string> devices, std::vector<std::string> more) {
  std::string pattern = (std::filesystem::temp_directory_path() / "softgpu-test-XXXXXX").string();
  directory_ = mkdtemp(pattern.data());
  socket_ = directory_ + "/softgpud.sock";
  std::vector<std::string> arguments = {SOFTGPU_DAEMON, "--socket", socket_};
  for (const std::string& device : devices) {
    arguments.push_back("--device");
    arguments.push_back(device);
  }
  arguments.insert(arguments.end(), more.begin(), more.end());
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execv(argv[0], argv.data());
    _exit(127);
  }
  for (int i = 0; i < 6000; ++i) {
    const int fd = ConnectTo(socket_.c_str());
    if (fd >= 0) {
      close(fd);
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ADD_FAILURE() << "softgpud did not come up";
  Kill();
}

SoftNode::~SoftNode() {
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    int status = -1;
    pid_t ended = 0;
    for (int i = 0; i < 6000 && ended == 0; ++i) {
      ended = waitpid(pid_, &status, WNOHANG);
      if (ended == 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_EQ(ended, pid_) << "softgpud does not end when told to";
    EXPECT_EQ(status, 0) << "softgpud ended badly";
    if (ended == 0) Kill();
  }
  std::filesystem::remove_all(directory_);
}

void SoftNode::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

bool SoftNode::IsAlive() const { return pid_ > 0 && waitpid(pid_, nullptr, WNOHANG) == 0; }

std::string SoftNode::Status() const {
  int ignored = 0;
  return RunShell(std::string(SOFTGPU_DAEMON) + " --status --socket " + socket_, ignored);
}

std::string SoftNode::Ctl(const std::string& arguments) const {
  int status = 0;
  const std::string text = RunShell(std::string(SOFTGPU_DAEMON) + " ctl --socket " + socket_ + " " + arguments, status);
  EXPECT_EQ(status, 0) << "softgpud ctl " << arguments;
  return text;
}

std::string SoftNode::RunShell(const std::string& command, int& status) {
  FILE* pipe = popen(command.c_str(), "re");
  std::string text;
  std::array<char, 4096> buffer{};
  while (pipe != nullptr && std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) text += buffer.data();
  status = pipe == nullptr ? -1 : pclose(pipe);
  return text;
}

std::int64_t SoftNode::used_bytes() const { return SumOf(Status(), "used_bytes"); }
std::int64_t SoftNode::session_count() const { return SumOf(Status(), "sessions"); }

bool SoftNode::WaitUntilUnused() const {
  for (int i = 0; i < 1200; ++i) {
    const std::string status = Status();
    if (SumOf(status, "used_bytes") == 0 && SumOf(status, "sessions") == 0) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return false;
}

std::string TestUuid(int number) {
  char text[64];
  std::snprintf(text, sizeof(text), "GPU-00000000-0000-0000-0000-0000000000%02x", number);
  return text;
}

}  // namespace softgpu_test
