// FakeBackend: a driver that behaves, over real processes, with one fault at a chosen call.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "device_state/device_backend.h"

namespace gpumig {

// What goes wrong in a call that would change a state.
enum class Fault {
  kRefuses,          // an error, and nothing was done
  kDoesYetFails,     // an error, although it was done
  kLiesAboutDoing,   // no error, although nothing was done
  kGivesUp,          // the process is in state kFailed
  kRunsOutOfMemory,  // kResourceExhausted, and nothing was done
};

class FakeBackend : public DeviceBackend {
 public:
  struct Process {
    GpuState state = GpuState::kRunning;
    std::uint64_t device_bytes = 0;
    std::string gpu;
  };

  std::map<pid_t, Process> processes;
  std::vector<GpuFacts> gpus;
  std::vector<std::string> calls;          // that would change a state: "lock 17"
  std::map<std::string, Fault> faults;     // by call
  std::function<void(pid_t)> during_call;  // in the middle of each of these
  std::chrono::milliseconds lock_takes{0};
  std::vector<std::chrono::milliseconds> limits;  // given to Lock()
  std::map<pid_t, pid_t> restore_threads;

  std::string Describe() override { return "fake"; }
  Result<std::vector<GpuFacts>> Devices() override { return gpus; }
  Result<GpuState> State(pid_t process) override {
    const auto found = processes.find(process);
    return found == processes.end() ? GpuState::kNone : found->second.state;
  }
  std::optional<std::uint64_t> HeldBytes(pid_t process) override {
    const auto found = processes.find(process);
    if (found == processes.end()) return std::nullopt;
    return found->second.device_bytes;
  }
  Result<void> Lock(pid_t process, std::chrono::milliseconds limit) override {
    limits.push_back(limit);
    std::this_thread::sleep_for(std::min(limit, lock_takes));
    if (limit < lock_takes) {
      calls.push_back(fmt::format("lock {}", process));
      return MakeError(ErrorCode::kDeadlineExceeded, "did not come to rest");
    }
    return Change("lock", process, GpuState::kRunning, GpuState::kLocked);
  }
  Result<void> Checkpoint(pid_t process) override {
    return Change("checkpoint", process, GpuState::kLocked, GpuState::kCheckpointed);
  }
  Result<void> Restore(pid_t process, std::span<const GpuPair> map) override {
    Process& one = processes[process];
    const std::string old_gpu = one.gpu;
    if (Gpu(old_gpu) != nullptr) {
      const auto pair = std::ranges::find(map, old_gpu, &GpuPair::old_uuid);
      if (pair == map.end()) return MakeError(ErrorCode::kInvalidArgument, "map lacks {}", old_gpu);
      one.gpu = pair->new_uuid;
    }
    Result<void> restored = Change("restore", process, GpuState::kCheckpointed, GpuState::kLocked);
    if (one.state == GpuState::kCheckpointed) one.gpu = old_gpu;  // It was not done.
    return restored;
  }
  Result<void> Unlock(pid_t process) override {
    return Change("unlock", process, GpuState::kLocked, GpuState::kRunning);
  }
  Result<pid_t> RestoreThread(pid_t process) override { return restore_threads.at(process); }

  GpuFacts* Gpu(const std::string& uuid) {
    const auto found = std::ranges::find(gpus, uuid, &GpuFacts::uuid);
    return found == gpus.end() ? nullptr : &*found;
  }

 private:
  Result<void> Change(const std::string& verb, pid_t pid, GpuState from, GpuState to) {
    const std::string call = fmt::format("{} {}", verb, pid);
    calls.push_back(call);
    if (during_call) during_call(pid);
    Process& process = processes.at(pid);
    if (process.state != from) return MakeError(ErrorCode::kFailedPrecondition, "illegal state");
    const auto fault = faults.find(call);
    if (fault == faults.end()) return Enter(process, to);
    switch (fault->second) {
      case Fault::kRefuses:
        return MakeError(ErrorCode::kIo, "injected");
      case Fault::kDoesYetFails:
        static_cast<void>(Enter(process, to));
        return MakeError(ErrorCode::kIo, "injected");
      case Fault::kLiesAboutDoing:
        return Ok();
      case Fault::kGivesUp:
        process.state = GpuState::kFailed;
        return MakeError(ErrorCode::kUnsupported, "injected");
      case Fault::kRunsOutOfMemory:
        return MakeError(ErrorCode::kResourceExhausted, "injected");
    }
    return Ok();
  }
  Result<void> Enter(Process& process, GpuState to) {
    GpuFacts* gpu = Gpu(process.gpu);
    if (gpu != nullptr && to == GpuState::kCheckpointed) gpu->free_bytes += process.device_bytes;
    if (gpu != nullptr && process.state == GpuState::kCheckpointed) gpu->free_bytes -= process.device_bytes;
    process.state = to;
    return Ok();
  }
};

}  // namespace gpumig
