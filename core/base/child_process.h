// ChildProcess: a program started by us, from an argument vector, that does not outlive its owner.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/result.h"
#include "core/base/unique_fd.h"

namespace gpumig {

// How a process ended.
struct ExitStatus {
  int code = 0;    // exit code; meaningless where signal != 0
  int signal = 0;  // that killed it, or 0

  bool ok() const { return code == 0 && signal == 0; }
  std::string ToString() const;  // "exit code 3", "killed by signal 9 (Killed)"
};

// Owner destroyed before Wait(): the child is killed and reaped, unless Detach()ed.
//
// Thread safety: one thread at a time.
class ChildProcess {
 public:
  struct Options {
    std::vector<std::string> arguments;                            // arguments[0] is the program, looked up in PATH
    std::vector<std::pair<std::string, std::string>> environment;  // added to ours
    std::vector<std::pair<int, int>> descriptors;  // {ours, theirs}: theirs is a duplicate of ours in the child;
                                                   // beside these it has 0, 1 and 2, and nothing else
    std::string working_directory;                 // empty: ours
    bool new_session = false;
    // Runs in the child between fork and exec; async-signal-safe calls only. Non-zero (an errno) fails the start.
    std::function<int()> before_exec;
  };

  // The error of a failed exec is reported here, not by an exit code of the child.
  static Result<ChildProcess> Start(const Options& options);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  // Becomes readable when the child ends.
  int pidfd() const { return pidfd_.get(); }

  // kDeadlineExceeded: it still runs when `limit` is over, and goes on.
  Result<ExitStatus> Wait(std::optional<std::chrono::milliseconds> limit = std::nullopt);
  void Signal(int signal_number);
  // It may outlive us; the caller, or init, reaps it.
  pid_t Detach();

 private:
  ChildProcess(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  void KillAndReap();

  pid_t pid_ = -1;
  UniqueFd pidfd_;
};

// Runs a program to its end and gives what it printed. Errors: those of Start(), kDeadlineExceeded (it is killed).
struct CommandOutput {
  ExitStatus status;
  std::string standard_output;
  std::string standard_error;
};
Result<CommandOutput> RunCommand(const std::vector<std::string>& arguments, std::chrono::milliseconds limit);

// close-on-exec. Errors: kNotFound, the process is gone.
Result<UniqueFd> OpenPidfd(pid_t pid);

}  // namespace gpumig
