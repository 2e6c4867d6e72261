// What the daemon at this process's socket says of the driver that it stands for: its version, and the faults it shows.
#pragma once

#include "plugins/softgpu/wire/protocol.h"

namespace softgpu {

struct DriverFacts {
  bool reached = false;  // Without a daemon there are the defaults.
  std::uint32_t version = kDefaultDriverVersion;
  FaultValues faults{};
};

// $SOFTGPU_SOCKET, or the default. Null: it is too long for a socket's name.
const char* SocketPath();

// Asks anew each time, over a connection of its own.
DriverFacts AskDriverFacts();

}  // namespace softgpu
