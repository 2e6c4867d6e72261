// DeviceSession: turns a backend's single steps into the all-or-none calls of DevicePort.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/session/device_port.h"
#include "device_state/device_backend.h"
#include "device_state/process_guard.h"

namespace gpumig {

// What it adds to the backend:
// - One order: processes are locked, captured and restored by ascending pid and unlocked by descending, whoever asks,
// since
//   processes that share GPU memory wait for each other. Source: cuda-checkpoint issue 30.
// - Rollback in reverse order where one fails; where even that fails, the message says which process is left in which
// state.
// - The state is asked for after each call; a call's own word is never believed.
// - No restore is tried without room for it: the driver loses a process whose restore once ran out of memory. Source:
//   cuda-checkpoint issue 44. How much room is known for processes that this object captured; for others, SolveMap()'s
//   `wanted` is where to say it.
// - A call under which the driver's process died (kUnavailable) may still go on in the workload: it is waited for, and
//   taken back as any other that failed.
// - After a restore onto other GPUs, their memory is asked for: a driver that ignores the map says nothing. Source:
//   gvisor issue 14817.
// - A pid that has come to mean another process is never acted on.
//
// Checkpoint() gives the growth of the processes' anonymous memory, as /proc says it: the driver tells no number.
// Memory that a process allocates meanwhile counts as well; with its other threads stopped there is none.
//
// Ownership: owns the backend. Thread safety: one thread at a time.
class DeviceSession : public DevicePort {
 public:
  explicit DeviceSession(std::unique_ptr<DeviceBackend> backend) : backend_(std::move(backend)) {}

  std::string Describe() override { return backend_->Describe(); }
  Result<std::vector<GpuFacts>> Gpus() override { return backend_->Devices(); }
  Result<GpuState> State(pid_t process) override;
  Result<std::vector<pid_t>> GpuProcesses(std::span<const pid_t> tree) override;
  std::optional<std::uint64_t> HeldBytes(std::span<const pid_t> processes) override;
  Result<void> Lock(std::span<const pid_t> processes, std::chrono::milliseconds limit) override;
  Result<std::vector<pid_t>> RestoreThreads(std::span<const pid_t> processes) override;
  Result<std::uint64_t> Checkpoint(std::span<const pid_t> processes) override;
  Result<void> Restore(std::span<const pid_t> processes, std::span<const GpuPair> map) override;
  Result<void> Unlock(std::span<const pid_t> processes) override;
  Result<std::vector<GpuPair>> SolveMap(std::span<const GpuFacts> wanted, std::span<const GpuPair> asked) override;

 private:
  struct Known {
    ProcessGuard guard;
    std::map<std::string, std::uint64_t> held_bytes;  // by GPU, what its capture gave back
    bool ran_out_of_memory = false;                   // in a restore
  };
  // One way from state to state, and the way back.
  struct Step {
    std::string_view verb;
    GpuState from;
    GpuState to;
    std::function<Result<void>(Known&)> run;
    std::function<Result<void>(Known&)> undo;
    // Where run() fails with kUnavailable: waits until the driver is done with that call, whatever comes of it. Empty:
    // run() itself, for a driver takes one call of a process after the other.
    std::function<Result<void>(Known&)> settle;
  };
  enum class Entry { kFirst, kLater };

  Result<Known*> Enter(pid_t process, Entry entry);
  Result<GpuState> GuardedState(const ProcessGuard& guard);
  // `order` must be in state step.from, all of it; then runs the step for each.
  Result<void> AllOrNone(const std::vector<pid_t>& order, Entry entry, const Step& step);
  // Runs one step and looks whether it did what it says. `changed`: the process is in step.to now, also where it
  // failed.
  Result<void> RunOne(Known& known, const Step& step, bool& changed);
  Error RolledBack(Error error, const std::vector<Known*>& done, const Step& step);

  Result<void> CheckpointOne(Known& known, std::uint64_t* bytes);
  Result<void> RestoreOne(Known& known, std::span<const GpuPair> map);
  Result<void> RestoreInPlace(Known& known);
  Result<void> CheckLanding(const Known& known, std::span<const GpuPair> map, std::span<const GpuFacts> before);
  Result<void> CheckRoom(const std::vector<Known*>& processes, std::span<const GpuPair> map,
                         std::span<const GpuFacts> gpus) const;

  const std::unique_ptr<DeviceBackend> backend_;
  std::map<pid_t, Known> known_;
};

}  // namespace gpumig
