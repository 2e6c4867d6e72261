// A process that uses the software GPU and takes its steps when the test says so.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>

#include "tests/plugins/softgpu/driver.h"

namespace softgpu_test {

// The two ends of a conversation in 64-bit numbers. A partner who has gone ends the process (exit code 80).
class Link {
 public:
  Link(int in, int out) : in_(in), out_(out) {}
  void Send(std::uint64_t value);
  std::uint64_t Receive();
  bool HasArrived(int timeout_ms) const;

 private:
  int in_;
  int out_;
};

// Killed when it goes, if it still runs.
class GpuProcess {
 public:
  using Body = std::function<void(Driver&, Link&)>;

  // Forks; the child opens the driver with SOFTGPU_SOCKET=socket, runs `body`, and exits with 0 if nothing in it
  // failed.
  GpuProcess(const std::string& socket, Body body, std::string visible_devices = "");
  ~GpuProcess();
  GpuProcess(const GpuProcess&) = delete;
  GpuProcess& operator=(const GpuProcess&) = delete;

  pid_t pid() const { return pid_; }
  Link& link() { return link_; }
  void Kill();
  // The exit code; 128 + the signal that ended it; -1: it still runs after 60 s.
  int Wait();

 private:
  pid_t pid_ = -1;
  int to_child_[2] = {-1, -1};
  int from_child_[2] = {-1, -1};
  Link link_{-1, -1};
};

// For the body of a GpuProcess: prints what was not as expected, and exits.
[[noreturn]] void FailInProcess(const char* what, const char* file, int line, long actual);

}  // namespace softgpu_test

#define CHECK_THAT(condition) ((condition) ? void() : ::softgpu_test::FailInProcess(#condition, __FILE__, __LINE__, 0))
#define CHECK_RESULT(call, expected)                                                               \
  do {                                                                                             \
    const long check_result = static_cast<long>(call);                                             \
    if (check_result != static_cast<long>(expected))                                               \
      ::softgpu_test::FailInProcess(#call " is not " #expected, __FILE__, __LINE__, check_result); \
  } while (false)
#define CHECK_OK(call) CHECK_RESULT(call, ::cuda_abi::CUDA_SUCCESS)
