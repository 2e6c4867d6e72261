#include "tests/plugins/softgpu/gpu_process.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

namespace softgpu_test {

void Link::Send(std::uint64_t value) {
  if (write(out_, &value, sizeof(value)) != sizeof(value)) _exit(80);
}

std::uint64_t Link::Receive() {
  std::uint64_t value = 0;
  if (read(in_, &value, sizeof(value)) != sizeof(value)) {
    std::fprintf(stderr, "the partner of this process has gone\n");
    _exit(80);
  }
  return value;
}

bool Link::HasArrived(int timeout_ms) const {
  pollfd wait{in_, POLLIN, 0};
  return poll(&wait, 1, timeout_ms) == 1;
}

GpuProcess::GpuProcess(const std::string& socket, Body body, std::string visible_devices) {
  if (pipe(to_child_) != 0 || pipe(from_child_) != 0) std::abort();
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(to_child_[1]);
    close(from_child_[0]);
    setenv("SOFTGPU_SOCKET", socket.c_str(), 1);
    if (!visible_devices.empty()) setenv("CUDA_VISIBLE_DEVICES", visible_devices.c_str(), 1);
    Driver driver = OpenSoftDriver();
    Link link(to_child_[0], from_child_[1]);
    body(driver, link);
    _exit(0);
  }
  close(to_child_[0]);
  close(from_child_[1]);
  link_ = Link(from_child_[0], to_child_[1]);
}

GpuProcess::~GpuProcess() {
  Kill();
  close(to_child_[1]);
  close(from_child_[0]);
}

void GpuProcess::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

int GpuProcess::Wait() {
  for (int i = 0; i < 6000; ++i) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return -1;
}

void FailInProcess(const char* what, const char* file, int line, long actual) {
  std::fprintf(stderr, "%s:%d: %s (%ld)\n", file, line, what, actual);
  _exit(81);
}

}  // namespace softgpu_test
