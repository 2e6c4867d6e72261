// SerialisedDevicePort: a DevicePort that any number of threads may call; they take turns.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/session/device_port.h"

namespace gpumig {

// A call waits for the one under way, however long that takes: the driver works on one process at a time anyway.
//
// Thread safety: any thread.
class SerialisedDevicePort : public DevicePort {
 private:
  template <typename Call>
  auto Locked(Call call) {
    const std::lock_guard lock(mutex_);
    return call();
  }

 public:
  explicit SerialisedDevicePort(std::unique_ptr<DevicePort> port) : port_(std::move(port)) {}

  std::string Describe() override {
    return Locked([&] { return port_->Describe(); });
  }
  Result<std::vector<GpuFacts>> Gpus() override {
    return Locked([&] { return port_->Gpus(); });
  }
  Result<GpuState> State(pid_t process) override {
    return Locked([&] { return port_->State(process); });
  }
  Result<std::vector<pid_t>> GpuProcesses(std::span<const pid_t> tree) override {
    return Locked([&] { return port_->GpuProcesses(tree); });
  }
  std::optional<std::uint64_t> HeldBytes(std::span<const pid_t> processes) override {
    return Locked([&] { return port_->HeldBytes(processes); });
  }
  Result<void> Lock(std::span<const pid_t> processes, std::chrono::milliseconds limit) override {
    return Locked([&] { return port_->Lock(processes, limit); });
  }
  Result<std::vector<pid_t>> RestoreThreads(std::span<const pid_t> processes) override {
    return Locked([&] { return port_->RestoreThreads(processes); });
  }
  Result<std::uint64_t> Checkpoint(std::span<const pid_t> processes) override {
    return Locked([&] { return port_->Checkpoint(processes); });
  }
  Result<void> Restore(std::span<const pid_t> processes, std::span<const GpuPair> map) override {
    return Locked([&] { return port_->Restore(processes, map); });
  }
  Result<void> Unlock(std::span<const pid_t> processes) override {
    return Locked([&] { return port_->Unlock(processes); });
  }
  Result<std::vector<GpuPair>> SolveMap(std::span<const GpuFacts> wanted, std::span<const GpuPair> asked) override {
    return Locked([&] { return port_->SolveMap(wanted, asked); });
  }

 private:
  std::mutex mutex_;
  const std::unique_ptr<DevicePort> port_;
};

}  // namespace gpumig
