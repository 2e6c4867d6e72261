#include "device_state/no_device_port.h"

namespace gpumig {

Result<void> NoDevicePort::OnlyNone(std::span<const pid_t> processes) const {
  if (processes.empty()) return Ok();
  return MakeError(ErrorCode::kUnavailable, "process {} uses a GPU, and this host has no driver: {}", processes.front(),
                   why_none_);
}

Result<void> NoDevicePort::Lock(std::span<const pid_t> processes, std::chrono::milliseconds) {
  return OnlyNone(processes);
}

Result<std::vector<pid_t>> NoDevicePort::RestoreThreads(std::span<const pid_t> processes) {
  GPUMIG_TRY(OnlyNone(processes));
  return std::vector<pid_t>();
}

Result<std::uint64_t> NoDevicePort::Checkpoint(std::span<const pid_t> processes) {
  GPUMIG_TRY(OnlyNone(processes));
  return std::uint64_t{0};
}

Result<void> NoDevicePort::Restore(std::span<const pid_t> processes, std::span<const GpuPair>) {
  return OnlyNone(processes);
}

Result<void> NoDevicePort::Unlock(std::span<const pid_t> processes) { return OnlyNone(processes); }

Result<std::vector<GpuPair>> NoDevicePort::SolveMap(std::span<const GpuFacts> wanted, std::span<const GpuPair> asked) {
  if (wanted.empty() && asked.empty()) return std::vector<GpuPair>();
  return MakeError(ErrorCode::kUnavailable, "the job wants {} GPU(s), and this host has no driver: {}", wanted.size(),
                   why_none_);
}

}  // namespace gpumig
