// The controller's side of the checkpoint calls: finds the restore thread of another process and commands it.
//
// Needs no cuInit in the caller. Results are those of cuCheckpointProcess*: NOT_INITIALIZED for a process that has not
// initialised CUDA, NOT_PERMITTED if its /proc/<pid>/fd may not be read, OPERATING_SYSTEM if it is not there or goes.
#pragma once

#include <sys/types.h>

#include "plugins/softgpu/client/control_page.h"
#include "plugins/softgpu/wire/unique_fd.h"

namespace softgpu {

class Controller {
 public:
  // REQUIRES: pid > 0. A thread's id is as good as its process's.
  static cuda_abi::CUresult Open(pid_t pid, Controller& controller);
  Controller() = default;
  ~Controller();
  Controller(const Controller&) = delete;
  Controller& operator=(const Controller&) = delete;

  cuda_abi::CUprocessState state() const;
  // As the caller's /proc shows it, which may be another number than the process's own.
  cuda_abi::CUresult RestoreThreadId(int& tid) const;
  // One command at a time per process: waits for other controllers. Returns when the process has answered or gone.
  cuda_abi::CUresult Do(Command& command);
  const ControlPage& page() const { return *page_; }
  // A descriptor of the process, opened anew.
  UniqueFd OpenDescriptor(int fd, int flags) const;

 private:
  pid_t pid_ = 0;
  UniqueFd memory_;
  const ControlPage* page_ = nullptr;
};

}  // namespace softgpu
