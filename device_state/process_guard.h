// ProcessGuard: tells whether a pid still means the process it meant when we first looked.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "core/base/result.h"
#include "core/base/unique_fd.h"

namespace gpumig {

// Drivers take raw pids, and the kernel hands a pid out again once its process is reaped: so Check() before each such
// call, and after it, before its answer is believed.
class ProcessGuard {
 public:
  // Errors: kNotFound, there is no such process, or it has ended.
  static Result<ProcessGuard> Open(pid_t pid);

  pid_t pid() const { return pid_; }
  // kNotFound: it has ended, whether or not the number means another process now.
  Result<void> Check() const;

 private:
  ProcessGuard(pid_t pid, UniqueFd pidfd, std::uint64_t start_ticks)
      : pid_(pid), pidfd_(std::move(pidfd)), start_ticks_(start_ticks) {}

  pid_t pid_;
  UniqueFd pidfd_;
  std::uint64_t start_ticks_;
};

}  // namespace gpumig
