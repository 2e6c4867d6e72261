#include "device_state/process_guard.h"

#include <poll.h>

#include "core/base/child_process.h"
#include "core/host/process.h"

namespace gpumig {

Result<ProcessGuard> ProcessGuard::Open(pid_t pid) {
  UniqueFd pidfd = GPUMIG_TRY(OpenPidfd(pid), "process {}", pid);
  const ProcessStat stat = GPUMIG_TRY(ReadProcessStat(pid));
  ProcessGuard guard(pid, std::move(pidfd), stat.start_ticks);
  // The number may have changed hands between the two looks; then the first process has ended by now.
  GPUMIG_TRY(guard.Check());
  return guard;
}

Result<void> ProcessGuard::Check() const {
  pollfd ended{pidfd_.get(), POLLIN, 0};
  if (poll(&ended, 1, 0) != 0) return MakeError(ErrorCode::kNotFound, "process {} has ended", pid_);
  const Result<ProcessStat> stat = ReadProcessStat(pid_);
  if (!stat || stat->start_ticks != start_ticks_) {
    return MakeError(ErrorCode::kNotFound, "process {} has ended, and its number may mean another now", pid_);
  }
  return Ok();
}

}  // namespace gpumig
