// Holder: the pid and mount namespace of a workload, kept by a gpumig-init.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/result.h"
#include "core/base/unique_fd.h"
#include "core/host/cgroup.h"

namespace gpumig {

// The workload starts, or is restored by CRIU, in namespaces of its own, so that its pids never clash with anybody's.
//
// Ownership: the namespace lives on when this goes, if the gate was passed or a command was started; else it dies with
// all that is in it.
// Thread safety: one thread at a time.
class Holder {
 public:
  struct Command {
    std::vector<std::string> arguments;
    std::vector<std::pair<std::string, std::string>> environment;  // added to ours
    int input_fd = -1;
    int output_fd = -1;
    int error_fd = -1;
  };

  // gpumig-init is looked up beside our program, then in libexec; $GPUMIG_INIT overrides. `init_cgroup` takes init,
  // `tree_cgroup` the command; both are children of one cgroup, which init removes with them when it ends by itself.
  // `exit_file` gets "exit N" or "signal N" when the main process ends. Errors: kPermissionDenied, not root; of the
  // exec of the command, as errno says.
  static Result<Holder> Start(const Cgroup& init_cgroup, const Cgroup& tree_cgroup,
                              const std::filesystem::path& exit_file, const std::optional<Command>& command);

  pid_t init_pid() const { return init_pid_; }
  // Of the command, as its namespace numbers it.
  pid_t inner_pid() const { return inner_pid_; }

  Result<void> WatchCriu(pid_t inner_pid);
  Result<void> PassGate(pid_t inner_main_process);

 private:
  Holder(UniqueFd control, pid_t init_pid) : control_(std::move(control)), init_pid_(init_pid) {}
  Result<std::int32_t> AwaitAnswer();

  UniqueFd control_;
  pid_t init_pid_ = 0;
  pid_t inner_pid_ = 0;
};

}  // namespace gpumig
