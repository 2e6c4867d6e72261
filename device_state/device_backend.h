// DeviceBackend: what one vendor's driver does with one process. The smallest thing a new vendor has to write.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/session/device_port.h"

namespace gpumig {

// A call that fails leaves the process in the state it was in, or in kFailed; callers ask State() rather than trust
// that. Order, rollback and the identity of processes are DeviceSession's.
//
// Thread safety: one thread at a time.
// Errors: kFailedPrecondition, the process is in another state than the call wants; kUnsupported, it holds what the
// driver
//     cannot carry; kPermissionDenied, we may not trace it; kIo, the operating system refused the driver something,
//     which is also how a process that ends meanwhile looks; kResourceExhausted, out of device memory.
class DeviceBackend {
 public:
  virtual ~DeviceBackend() = default;

  // One line: which driver library, which version.
  virtual std::string Describe() = 0;
  virtual Result<std::vector<GpuFacts>> Devices() = 0;

  // kNone for a process that uses no GPU, and for one that is gone.
  virtual Result<GpuState> State(pid_t process) = 0;
  // Device memory that it holds. Empty: the driver does not tell.
  virtual std::optional<std::uint64_t> HeldBytes(pid_t process) = 0;
  // kRunning -> kLocked; kDeadlineExceeded: its work did not end, and it stays kRunning. REQUIRES: limit > 0
  virtual Result<void> Lock(pid_t process, std::chrono::milliseconds limit) = 0;
  // kLocked -> kCheckpointed
  virtual Result<void> Checkpoint(pid_t process) = 0;
  // kCheckpointed -> kLocked. kInvalidArgument: `map` lacks a GPU that the process saw.
  virtual Result<void> Restore(pid_t process, std::span<const GpuPair> map) = 0;
  // kLocked -> kRunning
  virtual Result<void> Unlock(pid_t process) = 0;
  // As the driver numbers it, which may be in the pid namespace of the process or in ours.
  virtual Result<pid_t> RestoreThread(pid_t process) = 0;
};

}  // namespace gpumig
