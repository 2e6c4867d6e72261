// CUDA_VISIBLE_DEVICES: which devices a process sees, in which order.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "plugins/softgpu/wire/protocol.h"

namespace softgpu {

// Indices into `devices`. `value` is null (all), or a comma-separated list of ordinals and of UUIDs or their beginnings
// ("GPU-1a2b"; "MIG-1a2b" names partitions alone). As with NVIDIA's driver the list ends at the first entry that names
// no device, and a device named twice leaves none.
std::vector<std::size_t> VisibleDevices(const char* value, std::span<const DeviceDescription> devices);

}  // namespace softgpu
