// What gpumig and gpumig-init say to each other over the control socket.
#pragma once

#include <cstdint>

namespace gpumig {

enum class InitMessageKind : std::int32_t {
  kReady = 1,       // from init: done; value: the workload's pid in its namespace, or 0
  kFailed = 2,      // from init: value is an errno
  kWatchCriu = 3,   // to init: value is CRIU's pid in the namespace; until the gate is passed, its death is ours
  kGatePassed = 4,  // to init: value is the workload's main process; from now on live as long as it has company
};

struct InitMessage {
  InitMessageKind kind;
  std::int32_t value;
};

}  // namespace gpumig
