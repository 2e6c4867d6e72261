#include "plugins/softgpu/client/controller.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace softgpu {

using cuda_abi::CUresult;

namespace {

// How long past its own deadline a process may take to say that it has missed it.
constexpr std::int64_t kGraceMs = 5000;
constexpr long kLockRetryNs = 5000000;

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDirectory>;

std::string ProcPath(pid_t pid, const std::string& rest) { return "/proc/" + std::to_string(pid) + "/" + rest; }

std::int64_t Now(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return std::int64_t{now.tv_sec} * 1000000000 + now.tv_nsec;
}

// What a process or thread calls itself: the last number of NSpid, of its innermost pid namespace. -1: it has gone.
pid_t InnermostId(const std::string& status_path) {
  std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(status_path.c_str(), "re"), &std::fclose);
  if (file == nullptr) return -1;
  char line[512];
  while (std::fgets(line, sizeof(line), file.get()) != nullptr) {
    if (std::strncmp(line, "NSpid:", 6) != 0) continue;
    pid_t last = -1;
    char* rest = line + 6;
    for (char* end = rest;; rest = end) {
      const long number = std::strtol(rest, &end, 10);
      if (end == rest) return last;
      last = static_cast<pid_t>(number);
    }
  }
  return -1;
}

// The process that a thread is of; of a process, itself.
pid_t LeaderOf(pid_t pid) {
  std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(ProcPath(pid, "status").c_str(), "re"), &std::fclose);
  if (file == nullptr) return pid;
  char line[512];
  while (std::fgets(line, sizeof(line), file.get()) != nullptr) {
    if (std::strncmp(line, "Tgid:", 5) == 0) return static_cast<pid_t>(std::strtol(line + 5, nullptr, 10));
  }
  return pid;
}

// Writes without being killed if nobody reads any more.
bool WriteQuietly(int fd, const void* data, std::size_t bytes) {
  sigset_t pipe_signal;
  sigset_t before;
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  sigset_t pending;
  sigpending(&pending);
  const bool was_pending = sigismember(&pending, SIGPIPE) == 1;
  pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
  ssize_t written = 0;
  do {
    written = write(fd, data, bytes);
  } while (written < 0 && errno == EINTR);
  if (written < 0 && errno == EPIPE && !was_pending) {
    const timespec now{};
    sigtimedwait(&pipe_signal, nullptr, &now);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return written == static_cast<ssize_t>(bytes);
}

}  // namespace

Controller::~Controller() {
  if (page_ != nullptr) munmap(const_cast<ControlPage*>(page_), sizeof(ControlPage));
}

CUresult Controller::Open(pid_t pid, Controller& controller) {
  controller.pid_ = LeaderOf(pid);
  const Directory directory(opendir(ProcPath(pid, "fd").c_str()));
  if (directory == nullptr) {
    return errno == EACCES ? cuda_abi::CUDA_ERROR_NOT_PERMITTED : cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  }
  const std::string wanted = std::string("/memfd:") + kControlName;
  errno = 0;
  while (const dirent* entry = readdir(directory.get())) {
    const std::string path = ProcPath(pid, std::string("fd/") + entry->d_name);
    char target[64] = {};
    if (readlink(path.c_str(), target, sizeof(target) - 1) < 0) {
      if (errno == EACCES || errno == EPERM) return cuda_abi::CUDA_ERROR_NOT_PERMITTED;
      continue;
    }
    if (std::strncmp(target, wanted.c_str(), wanted.size()) != 0) continue;
    UniqueFd memory(open(path.c_str(), O_RDWR | O_CLOEXEC));
    struct stat status{};
    if (!memory.valid() || fstat(memory.get(), &status) != 0) continue;
    if (status.st_size < static_cast<off_t>(sizeof(ControlPage))) continue;
    void* page = mmap(nullptr, sizeof(ControlPage), PROT_READ, MAP_SHARED, memory.get(), 0);
    if (page == MAP_FAILED) continue;
    const auto* control = static_cast<const ControlPage*>(page);
    const bool is_ours =
        __atomic_load_n(&control->magic, __ATOMIC_ACQUIRE) == kControlMagic && control->version == kControlVersion;
    // A child that did not let go of its parent's descriptors is not the process that the page is about.
    if (is_ours && InnermostId(ProcPath(controller.pid_, "status")) == control->pid) {
      controller.memory_ = std::move(memory);
      controller.page_ = control;
      return cuda_abi::CUDA_SUCCESS;
    }
    munmap(page, sizeof(ControlPage));
  }
  return cuda_abi::CUDA_ERROR_NOT_INITIALIZED;
}

cuda_abi::CUprocessState Controller::state() const {
  return static_cast<cuda_abi::CUprocessState>(page_->state.load());
}

CUresult Controller::RestoreThreadId(int& tid) const {
  const Directory directory(opendir(ProcPath(pid_, "task").c_str()));
  if (directory == nullptr) return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  while (const dirent* entry = readdir(directory.get())) {
    const std::string name = entry->d_name;
    if (InnermostId(ProcPath(pid_, "task/" + name + "/status")) != page_->restore_tid) continue;
    tid = std::atoi(name.c_str());
    return cuda_abi::CUDA_SUCCESS;
  }
  return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
}

UniqueFd Controller::OpenDescriptor(int fd, int flags) const {
  return UniqueFd(open(ProcPath(pid_, "fd/" + std::to_string(fd)).c_str(), flags | O_CLOEXEC));
}

CUresult Controller::Do(Command& command) {
  // Taken before the lock is waited for: the time limit counts from the call.
  const std::int64_t begin_ns = Now(CLOCK_MONOTONIC);
  if (command.timeout_ms != 0) {
    command.expires_at_ns = Now(CLOCK_REALTIME) + static_cast<std::int64_t>(command.timeout_ms) * 1000000;
  }
  const std::int64_t limit_ns = begin_ns + static_cast<std::int64_t>(command.timeout_ms) * 1000000;
  while (flock(memory_.get(), command.timeout_ms == 0 ? LOCK_EX : LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
    // Another controller is at it. flock() itself takes no time limit.
    if (Now(CLOCK_MONOTONIC) >= limit_ns) return cuda_abi::CUDA_ERROR_NOT_READY;
    const timespec pause{0, kLockRetryNs};
    nanosleep(&pause, nullptr);
  }

  const UniqueFd alive(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
  const UniqueFd commands = OpenDescriptor(page_->command_fd, O_WRONLY);
  const UniqueFd answers = OpenDescriptor(page_->answer_fd, O_RDONLY | O_NONBLOCK);
  if (!commands.valid() || !answers.valid()) return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  if (getrandom(&command.sequence, sizeof(command.sequence), 0) != sizeof(command.sequence) ||
      !WriteQuietly(commands.get(), &command, sizeof(command))) {
    return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  }
  for (;;) {
    int wait_ms = -1;
    if (command.timeout_ms != 0) {
      const std::int64_t passed_ms = (Now(CLOCK_MONOTONIC) - begin_ns) / 1000000;
      const std::int64_t left_ms = static_cast<std::int64_t>(command.timeout_ms) + kGraceMs - passed_ms;
      // It does not even run its restore thread (frozen, stopped). When it does, it will find the command expired.
      if (left_ms <= 0) return cuda_abi::CUDA_ERROR_NOT_READY;
      wait_ms = static_cast<int>(std::min<std::int64_t>(left_ms, 3600000));
    }
    pollfd waits[] = {{answers.get(), POLLIN, 0}, {alive.get(), POLLIN, 0}};
    if (poll(waits, 2, wait_ms) < 0 && errno != EINTR) return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
    Answer answer;
    while (read(answers.get(), &answer, sizeof(answer)) == static_cast<ssize_t>(sizeof(answer))) {
      if (answer.sequence == command.sequence) return static_cast<CUresult>(answer.result);
    }
    if (waits[1].revents != 0 || (waits[0].revents & (POLLHUP | POLLERR)) != 0) {
      return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
    }
  }
}

}  // namespace softgpu
