// HelperBackend: a DeviceBackend in a process of its own, gpumig-gpu-helper, which holds the driver open.
//
// A driver library is somebody else's code: it takes seconds to come up, and may crash or hang in any call. Here it
// comes up once, and what becomes of it costs us an error.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/child_process.h"
#include "core/base/json.h"
#include "core/base/unique_fd.h"
#include "device_state/device_backend.h"

namespace gpumig {

// A call during which the helper dies, or does not answer within its limit, fails with kUnavailable: whether the driver
// has done what was asked is then unknown. The next call starts a new helper. So does one that finds the driver's
// devices gone (a daemon that was started again, a GPU that was reset), once.
//
// A helper that somebody else has, and offers (an agent's), is taken before one of our own: then even the first call
// costs nothing.
//
// Ownership: the helper ends with this object, save where it is another's. Thread safety: one thread at a time.
class HelperBackend : public DeviceBackend {
 public:
  // Waits until the driver has come up. `arguments` are the helper's, see gpu_helper.cc. Errors: those of its driver;
  // kUnavailable, it died meanwhile; kNotFound, there is no such program.
  struct Offer {
    std::string socket{};    // empty: there is none
    std::string identity{};  // that it must have, see HelperIdentity()
  };
  static Result<std::unique_ptr<HelperBackend>> Start(const std::filesystem::path& program,
                                                      std::vector<std::string> arguments, Offer offer);
  static Result<std::unique_ptr<HelperBackend>> Start(const std::filesystem::path& program,
                                                      std::vector<std::string> arguments) {
    return Start(program, std::move(arguments), Offer());
  }

  std::string Describe() override;
  Result<std::vector<GpuFacts>> Devices() override;
  // kNone also for the helper itself: it uses GPUs, but is nobody's workload.
  Result<GpuState> State(pid_t process) override;
  std::optional<std::uint64_t> HeldBytes(pid_t process) override;
  Result<void> Lock(pid_t process, std::chrono::milliseconds limit) override;
  Result<void> Checkpoint(pid_t process) override;
  Result<void> Restore(pid_t process, std::span<const GpuPair> map) override;
  Result<void> Unlock(pid_t process) override;
  Result<pid_t> RestoreThread(pid_t process) override;

  // -1: none runs now.
  pid_t helper_pid() const { return running_ ? running_->pid : -1; }
  bool is_another_ones() const { return running_ && !running_->child; }

 private:
  struct Running {
    pid_t pid = -1;
    std::optional<ChildProcess> child;  // none: it is another's
    UniqueFd socket;
  };
  HelperBackend(std::filesystem::path program, std::vector<std::string> arguments, Offer offer)
      : program_(std::move(program)), arguments_(std::move(arguments)), offer_(std::move(offer)) {}
  Result<void> EnsureRunning();
  bool TakeOffer();
  Result<Json> Call(const Json& request, std::string_view what, std::chrono::milliseconds limit);
  Result<Json> CallFor(const char* call, pid_t process, std::chrono::milliseconds limit);
  Result<std::vector<GpuFacts>> AskDevices();

  const std::filesystem::path program_;
  const std::vector<std::string> arguments_;
  const Offer offer_;
  bool offer_is_stale_ = false;  // that helper has lost its devices, and its owner has not noticed yet
  std::optional<Running> running_;
  std::string description_;  // as the last helper gave it
};

}  // namespace gpumig
