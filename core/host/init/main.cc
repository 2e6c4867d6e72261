// gpumig-init: process 1 of a workload's pid namespace.
//
// It mounts /proc, starts the workload or waits while CRIU restores one beside it, reaps what is orphaned, and ends
// when no process is left; the kernel then takes the namespace away. Until it is told that the gate is passed it is
// also the tripwire: when its starter or CRIU dies, it ends at once and the half-restored tree dies with it.
//
// usage: gpumig-init EXIT-FILE CGROUP [COMMAND...]     descriptor 3: control socket; 4: cgroup.procs of the workload's
// cgroup
//
// Small, static and free of the rest of gpumig, because it lives as long as the workload.
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <initializer_list>

#include "core/host/init/control.h"

namespace {

using gpumig::InitMessage;
using gpumig::InitMessageKind;

constexpr int kControlFd = 3;
constexpr int kCgroupFd = 4;

[[noreturn]] void Report(int error_number) {
  const InitMessage message{InitMessageKind::kFailed, error_number};
  [[maybe_unused]] const ssize_t ignored = write(kControlFd, &message, sizeof(message));
  _exit(127);
}

void MountProc() {
  // Mounts made later on the host still come in; ours do not go out.
  if (mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0) Report(errno);
  if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) Report(errno);
}

// A descriptor opened before we had a mount namespace of our own belongs to the old one, and CRIU could not say where.
// So files and the working directory are opened anew, by path; pipes and sockets have none and stay.
bool ReopenHere(int fd) {
  char link[64];
  char path[4096];
  snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, sizeof(path) - 1);
  if (length <= 0 || path[0] != '/') return true;
  path[length] = '\0';
  const int flags = fcntl(fd, F_GETFL);
  const off_t offset = lseek(fd, 0, SEEK_CUR);
  const int reopened = open(path, (flags & (O_ACCMODE | O_APPEND | O_NONBLOCK)) | O_NOCTTY | O_CLOEXEC);
  if (reopened < 0) return false;
  if (offset > 0) lseek(reopened, offset, SEEK_SET);
  return dup2(reopened, fd) == fd;
}

bool ReopenWorkingDirectory() {
  char path[4096];
  return getcwd(path, sizeof(path)) != nullptr && path[0] == '/' && chdir(path) == 0;
}

// In the child: becomes the workload.
[[noreturn]] void BecomeWorkload(char** command, int report_fd) {
  const auto fail = [&] {
    const int error_number = errno;
    [[maybe_unused]] const ssize_t ignored = write(report_fd, &error_number, sizeof(error_number));
    _exit(127);
  };
  if (write(kCgroupFd, "0", 1) != 1 || setsid() < 0) fail();
  if (!ReopenHere(0) || !ReopenHere(1) || !ReopenHere(2) || !ReopenWorkingDirectory()) fail();
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC);
  execvp(command[0], command);
  fail();
  _exit(127);
}

pid_t StartWorkload(char** command) {
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) Report(errno);
  const pid_t child = fork();
  if (child < 0) Report(errno);
  if (child == 0) BecomeWorkload(command, report[1]);
  close(report[1]);
  int error_number = 0;
  if (read(report[0], &error_number, sizeof(error_number)) > 0) Report(error_number);
  close(report[0]);
  return child;
}

void RecordExit(const char* exit_file, int status) {
  char temporary[4096];
  snprintf(temporary, sizeof(temporary), "%s.tmp", exit_file);
  const int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return;
  if (WIFSIGNALED(status)) {
    dprintf(fd, "signal %d\n", WTERMSIG(status));
  } else {
    dprintf(fd, "exit %d\n", WEXITSTATUS(status));
  }
  close(fd);
  rename(temporary, exit_file);
}

// Reaps all that ended. False: no child is left.
bool Reap(pid_t main_process, const char* exit_file) {
  while (true) {
    int status = 0;
    const pid_t ended = waitpid(-1, &status, WNOHANG);
    if (ended == 0) return true;
    if (ended < 0) return errno != ECHILD;
    if (ended == main_process) RecordExit(exit_file, status);
  }
}

// CGROUP is .../gpumig/NAME with the children init, where we are, criu and tree.
void RemoveCgroups(const char* cgroup) {
  char path[4096];
  snprintf(path, sizeof(path), "%s/../../cgroup.procs", cgroup);
  const int procs = open(path, O_WRONLY | O_CLOEXEC);
  if (procs < 0 || write(procs, "0", 1) != 1) return;
  for (const char* child : {"/tree", "/criu", "/init", ""}) {
    snprintf(path, sizeof(path), "%s%s", cgroup, child);
    rmdir(path);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "gpumig-init is started by gpumig\n");
    return 2;
  }
  const char* exit_file = argv[1];
  const char* cgroup = argv[2];
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
  MountProc();

  pid_t main_process = argc > 3 ? StartWorkload(argv + 3) : 0;
  bool gate_passed = main_process > 0;
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd <= 2; ++fd) dup2(null, fd);
  close(kCgroupFd);
  if (chdir("/") != 0) return 1;
  const InitMessage ready{InitMessageKind::kReady, main_process};
  if (write(kControlFd, &ready, sizeof(ready)) != sizeof(ready)) return 1;

  sigset_t child_ended;
  sigemptyset(&child_ended);
  sigaddset(&child_ended, SIGCHLD);
  pollfd sources[3] = {{kControlFd, POLLIN, 0}, {signalfd(-1, &child_ended, SFD_CLOEXEC), POLLIN, 0}, {-1, POLLIN, 0}};
  while (true) {
    // A restored tree is CRIU's child and becomes ours when CRIU ends.
    if (gate_passed && !Reap(main_process, exit_file) && sources[2].fd < 0) {
      RemoveCgroups(cgroup);
      return 0;
    }
    if (poll(sources, 3, -1) < 0) continue;
    if (sources[1].revents != 0) {
      signalfd_siginfo ignored_signal;
      [[maybe_unused]] const ssize_t ignored = read(sources[1].fd, &ignored_signal, sizeof(ignored_signal));
    }
    if (sources[2].revents != 0) {
      if (!gate_passed) return 1;  // CRIU died: what it restored must not run.
      sources[2].fd = -1;
    }
    if (sources[0].revents == 0) continue;
    InitMessage message{};
    if (read(kControlFd, &message, sizeof(message)) != sizeof(message)) {
      if (!gate_passed) return 1;
      sources[0].fd = -1;
      close(kControlFd);
      continue;
    }
    if (message.kind == InitMessageKind::kWatchCriu) {
      sources[2].fd = static_cast<int>(syscall(SYS_pidfd_open, message.value, 0));
      if (sources[2].fd < 0) return 1;
    } else if (message.kind == InitMessageKind::kGatePassed) {
      main_process = message.value;
      gate_passed = true;
    }
    const InitMessage done{InitMessageKind::kReady, 0};
    [[maybe_unused]] const ssize_t ignored = write(kControlFd, &done, sizeof(done));
  }
}
