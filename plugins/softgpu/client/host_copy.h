// Moves bytes between the program's memory and device memory, while the stream stands still for it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "plugins/softgpu/client/client.h"

namespace softgpu {

struct HostCopy {
  std::uint64_t device = 0;
  std::byte* host = nullptr;
  std::uint64_t bytes = 0;
  bool to_device = false;
};

// Where the device's bytes are the arena's one by one. REQUIRES of both: inside the gate, with the turn
void CopyLinear(const Client& client, const HostCopy& copy);
// Asks the daemon over `socket` where they lie: through the windows, or, what other processes have too, by its hands.
cuda_abi::CUresult CopyPlaced(const Client& client, int socket, const HostCopy& copy);

}  // namespace softgpu
