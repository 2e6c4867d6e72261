// Serves one connection until it ends: reads requests, has the session do them, answers.
#pragma once

#include "plugins/softgpu/daemon/server.h"

namespace softgpu {

// Returns when the client has gone, or has sent something that is no request.
// `peer` is the process at the other end; 0: not known.
void ServeConnection(Server& server, int socket, pid_t peer);

}  // namespace softgpu
