// The software GPU for `gpumig run --gpu soft`: its driver library, and a daemon that is started where none runs.
#pragma once

#include <sys/types.h>

#include <filesystem>

#include "core/base/result.h"

namespace gpumig {

struct SoftGpu {
  std::filesystem::path library_directory;  // for LD_LIBRARY_PATH
  std::filesystem::path socket;
  pid_t started_daemon = -1;  // -1: one ran already
};

// The daemon at $SOFTGPU_SOCKET, else at /run/softgpu/softgpud.sock. One that has to be started gets the devices that
// the file $GPUMIG_SOFTGPU_CONFIG names (softgpud --config), else a single one; it goes on when we end, and writes to
// softgpud.log beside the socket. Errors: kNotFound, the software GPU is not installed; kUnavailable, the daemon does
// not come up: the message has its last words.
Result<SoftGpu> EnsureSoftGpu();

}  // namespace gpumig
