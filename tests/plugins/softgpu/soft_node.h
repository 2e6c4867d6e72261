// A softgpud process with a directory of its own, for one test.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace softgpu_test {

// Ends the daemon and removes its directory when it goes.
class SoftNode {
 public:
  // Each of `devices` is a --device SPEC; `more` are further arguments. Fails the test and has no pid() if the daemon
  // does not come up.
  explicit SoftNode(std::vector<std::string> devices, std::vector<std::string> more = {});
  ~SoftNode();
  SoftNode(const SoftNode&) = delete;
  SoftNode& operator=(const SoftNode&) = delete;

  const std::string& socket() const { return socket_; }
  pid_t pid() const { return pid_; }
  void Kill();
  // softgpud ctl; what it prints. Fails the test where it does not end with 0.
  std::string Ctl(const std::string& arguments) const;
  bool IsAlive() const;

  // As softgpud --status says. -1: the daemon does not answer.
  std::int64_t used_bytes() const;
  std::int64_t session_count() const;
  // False: it was not so within a minute.
  bool WaitUntilUnused() const;

 private:
  std::string Status() const;
  static std::string RunShell(const std::string& command, int& status);

  std::string directory_;
  std::string socket_;
  pid_t pid_ = -1;
};

// "GPU-00000000-0000-0000-0000-0000000000NN"
std::string TestUuid(int number);

}  // namespace softgpu_test
