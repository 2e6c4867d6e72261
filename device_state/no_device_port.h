// NoDevicePort: the DevicePort of a host without any GPU driver. No process there can use a GPU.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/session/device_port.h"

namespace gpumig {

// Calls with processes, or with GPUs to map, fail with kUnavailable and `why_none`; without any they do nothing, as
// every job without a GPU needs.
class NoDevicePort : public DevicePort {
 public:
  explicit NoDevicePort(std::string why_none) : why_none_(std::move(why_none)) {}

  std::string Describe() override { return ""; }
  Result<std::vector<GpuFacts>> Gpus() override { return std::vector<GpuFacts>(); }
  Result<GpuState> State(pid_t) override { return GpuState::kNone; }
  Result<std::vector<pid_t>> GpuProcesses(std::span<const pid_t>) override { return std::vector<pid_t>(); }
  std::optional<std::uint64_t> HeldBytes(std::span<const pid_t>) override { return std::nullopt; }
  Result<void> Lock(std::span<const pid_t> processes, std::chrono::milliseconds limit) override;
  Result<std::vector<pid_t>> RestoreThreads(std::span<const pid_t> processes) override;
  Result<std::uint64_t> Checkpoint(std::span<const pid_t> processes) override;
  Result<void> Restore(std::span<const pid_t> processes, std::span<const GpuPair> map) override;
  Result<void> Unlock(std::span<const pid_t> processes) override;
  Result<std::vector<GpuPair>> SolveMap(std::span<const GpuFacts> wanted, std::span<const GpuPair> asked) override;

 private:
  Result<void> OnlyNone(std::span<const pid_t> processes) const;

  std::string why_none_;
};

}  // namespace gpumig
