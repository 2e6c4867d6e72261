#include "core/base/child_process.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "core/base/exec_strings.h"

namespace gpumig {
namespace {

constexpr std::size_t kOutputLimitBytes = 4 << 20;

// In the child, after fork in a program that may have threads: nothing here allocates.
[[noreturn]] void ExecInChild(const ChildProcess::Options& options, char* const* argv, char* const* envp,
                              int report_fd) {
  const auto fail = [&](int error_number) {
    [[maybe_unused]] const ssize_t ignored = write(report_fd, &error_number, sizeof(error_number));
    _exit(127);
  };
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  if (options.new_session && setsid() < 0) fail(errno);
  // First out of the way of all wanted numbers, then onto them, so that {3,4},{4,3} works too.
  std::array<int, 16> parked;
  if (options.descriptors.size() > parked.size()) fail(E2BIG);
  for (std::size_t i = 0; i < options.descriptors.size(); ++i) {
    parked[i] = fcntl(options.descriptors[i].first, F_DUPFD_CLOEXEC, 100);
    if (parked[i] < 0) fail(errno);
  }
  for (std::size_t i = 0; i < options.descriptors.size(); ++i) {
    if (dup2(parked[i], options.descriptors[i].second) < 0) fail(errno);
  }
  // Nothing but what was asked for is inherited, whoever opened it and forgot to say so.
  syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC);
  for (const auto& [ours, theirs] : options.descriptors) fcntl(theirs, F_SETFD, 0);
  if (!options.working_directory.empty() && chdir(options.working_directory.c_str()) != 0) fail(errno);
  if (options.before_exec) {
    if (const int error_number = options.before_exec(); error_number != 0) fail(error_number);
  }
  execvpe(argv[0], argv, envp);
  fail(errno);
  _exit(127);
}

}  // namespace

std::string ExitStatus::ToString() const {
  if (signal != 0) return fmt::format("killed by signal {} ({})", signal, strsignal(signal));
  return fmt::format("exit code {}", code);
}

Result<UniqueFd> OpenPidfd(pid_t pid) {
  const auto fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0) return Error::FromErrno(errno, fmt::format("pidfd_open {}", pid));
  return UniqueFd(fd);
}

Result<ChildProcess> ChildProcess::Start(const Options& options) {
  Pipe report = GPUMIG_TRY(MakePipe());
  std::vector<std::string> arguments = options.arguments;
  std::vector<std::string> environment = EnvironmentWith(options.environment);
  const std::vector<char*> argv = PointersInto(arguments);
  const std::vector<char*> envp = PointersInto(environment);

  const pid_t pid = fork();
  if (pid < 0) return Error::FromErrno(errno, fmt::format("start {}: fork", options.arguments.front()));
  if (pid == 0) ExecInChild(options, argv.data(), envp.data(), report.write_end.get());

  report.write_end.Reset();
  int error_number = 0;
  ssize_t count = 0;
  do {
    count = read(report.read_end.get(), &error_number, sizeof(error_number));
  } while (count < 0 && errno == EINTR);
  if (count > 0) {
    waitpid(pid, nullptr, 0);
    return Error::FromErrno(error_number, fmt::format("start {}", options.arguments.front()));
  }
  Result<UniqueFd> pidfd = OpenPidfd(pid);
  ChildProcess child(pid, pidfd ? std::move(*pidfd) : UniqueFd());
  if (!pidfd) return pidfd.error();
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidfd_(std::move(other.pidfd_)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    KillAndReap();
    pid_ = std::exchange(other.pid_, -1);
    pidfd_ = std::move(other.pidfd_);
  }
  return *this;
}

ChildProcess::~ChildProcess() { KillAndReap(); }

Result<ExitStatus> ChildProcess::Wait(std::optional<std::chrono::milliseconds> limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit.value_or(std::chrono::milliseconds(0));
  while (true) {
    int timeout_ms = -1;
    if (limit) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      timeout_ms = static_cast<int>(std::max<std::chrono::milliseconds::rep>(0, left.count()));
    }
    pollfd ended{pidfd_.get(), POLLIN, 0};
    const int ready = poll(&ended, 1, timeout_ms);
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return Error::FromErrno(errno, fmt::format("wait for pid {}: poll", pid_));
    if (ready == 0) return MakeError(ErrorCode::kDeadlineExceeded, "wait for pid {}: it still runs", pid_);
    int status = 0;
    if (waitpid(pid_, &status, 0) < 0) return Error::FromErrno(errno, fmt::format("waitpid {}", pid_));
    pid_ = -1;
    if (WIFSIGNALED(status)) return ExitStatus{0, WTERMSIG(status)};
    return ExitStatus{WEXITSTATUS(status), 0};
  }
}

void ChildProcess::Signal(int signal_number) {
  if (pid_ > 0) syscall(SYS_pidfd_send_signal, pidfd_.get(), signal_number, nullptr, 0);
}

pid_t ChildProcess::Detach() { return std::exchange(pid_, -1); }

void ChildProcess::KillAndReap() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

Result<CommandOutput> RunCommand(const std::vector<std::string>& arguments, std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  Pipe out = GPUMIG_TRY(MakePipe());
  Pipe err = GPUMIG_TRY(MakePipe());
  const UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  ChildProcess::Options options;
  options.arguments = arguments;
  options.descriptors = {{null.get(), 0}, {out.write_end.get(), 1}, {err.write_end.get(), 2}};
  ChildProcess child = GPUMIG_TRY(ChildProcess::Start(options));
  out.write_end.Reset();
  err.write_end.Reset();

  CommandOutput output;
  std::array<pollfd, 2> sources = {pollfd{out.read_end.get(), POLLIN, 0}, pollfd{err.read_end.get(), POLLIN, 0}};
  std::array<std::string*, 2> sinks = {&output.standard_output, &output.standard_error};
  while (sources[0].fd >= 0 || sources[1].fd >= 0) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    if (left <= 0)
      return MakeError(ErrorCode::kDeadlineExceeded, "{} did not end in {} ms", arguments[0], limit.count());
    if (poll(sources.data(), sources.size(), static_cast<int>(left)) < 0 && errno != EINTR) {
      return Error::FromErrno(errno, "poll");
    }
    for (std::size_t i = 0; i < sources.size(); ++i) {
      if (sources[i].fd < 0 || sources[i].revents == 0) continue;
      std::array<char, 16384> buffer;
      const ssize_t count = read(sources[i].fd, buffer.data(), buffer.size());
      if (count <= 0) {
        sources[i].fd = -1;
      } else if (sinks[i]->size() < kOutputLimitBytes) {
        sinks[i]->append(buffer.data(), static_cast<std::size_t>(count));
      }
    }
  }
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  output.status = GPUMIG_TRY(child.Wait(std::max(left, std::chrono::milliseconds(1))));
  return output;
}

}  // namespace gpumig
