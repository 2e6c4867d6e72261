// DevicePort: what a session asks of the GPUs of one host. It names no vendor and knows no process tree.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"

namespace gpumig {

// What a host knows of one of its GPUs.
struct GpuFacts {
  std::string uuid;        // "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
  std::string chip;        // the driver's name for the model; state moves between equal chips only
  std::string pci_bus_id;  // "0000:65:00.0"
  std::uint64_t total_bytes = 0;
  std::uint64_t free_bytes = 0;
  int numa_node = -1;  // of the host memory next to it; -1: not known
};

// State captured on `old_uuid` goes to `new_uuid`; `why` is one line for a person.
struct GpuPair {
  std::string old_uuid;
  std::string new_uuid;
  std::string why;
};

// Where a process stands with its GPUs.
enum class GpuState {
  kNone,          // it uses none
  kRunning,       // GPU work may run
  kLocked,        // no GPU work runs and none can start
  kCheckpointed,  // its device memory is in its host memory, and it holds no GPU
  kFailed,        // the driver gave it up: it can neither run on nor be captured
};
std::string_view GpuStateName(GpuState state);

// All calls that take several processes are all or none: where one fails, those done are taken back, save where the
// error is kLost. Each process goes kRunning -Lock-> kLocked -Checkpoint-> kCheckpointed -Restore-> kLocked -Unlock->
// kRunning.
//
// Thread safety: one thread at a time.
// Errors: kUnavailable, no driver could be opened (the message says what was tried); kNotFound, a process is gone;
//     kFailedPrecondition, one is in the wrong state; kUnsupported, one holds what the driver cannot carry; kLost, the
//     driver gave one up.
class DevicePort {
 public:
  virtual ~DevicePort() = default;

  // One line: which driver library, which version. Empty where there is none.
  virtual std::string Describe() = 0;
  virtual Result<std::vector<GpuFacts>> Gpus() = 0;

  virtual Result<GpuState> State(pid_t process) = 0;
  // Those of `tree` whose state is not kNone, in its order. Empty where this host has no driver: then no process can
  // use one.
  virtual Result<std::vector<pid_t>> GpuProcesses(std::span<const pid_t> tree) = 0;

  // How much device memory `processes` hold, all together. Empty: the driver does not tell, which is not zero.
  virtual std::optional<std::uint64_t> HeldBytes(std::span<const pid_t> processes) = 0;

  // Waits until no GPU work of any runs, and lets none start. kDeadlineExceeded: they did not come to rest within
  // `limit` and run on, unlocked. REQUIRES: limit > 0
  virtual Result<void> Lock(std::span<const pid_t> processes, std::chrono::milliseconds limit) = 0;

  // The thread of each process that must be able to run during Checkpoint(), Restore() and Unlock(), as our pid
  // namespace numbers it. All others may be stopped, and should be.
  virtual Result<std::vector<pid_t>> RestoreThreads(std::span<const pid_t> processes) = 0;

  // Brings device memory into the processes' host memory and gives their GPUs back. Gives the bytes brought.
  virtual Result<std::uint64_t> Checkpoint(std::span<const pid_t> processes) = 0;

  // Onto the GPUs that `map` names; every GPU that a process saw when it was captured must be in it. Leaves them
  // kLocked. kResourceExhausted: a GPU has too little free memory; nothing was tried.
  virtual Result<void> Restore(std::span<const pid_t> processes, std::span<const GpuPair> map) = 0;
  virtual Result<void> Unlock(std::span<const pid_t> processes) = 0;

  // A GPU of this host for each of `wanted`: as `asked` says, else by chip, then free memory, equal UUIDs first.
  // Errors: kUnsupported, none of that chip; kResourceExhausted, none with as much memory; kInvalidArgument, `asked`
  // names
  //     an unknown or doubled GPU, or leaves one out.
  virtual Result<std::vector<GpuPair>> SolveMap(std::span<const GpuFacts> wanted, std::span<const GpuPair> asked) = 0;
};

}  // namespace gpumig
