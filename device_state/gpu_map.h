// Which GPU of this host takes the place of which GPU that a job was captured on.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/session/device_port.h"

namespace gpumig {

// A pair for each of `wanted`, in its order; no GPU of `have` twice; chips equal; and `have` has free what was in use
// on `wanted`, which is its total_bytes - free_bytes: a caller that knows how much of that was the job's sets
// free_bytes so.
//
// Where `asked` names pairs, those are taken or refused, never changed. Else a GPU that is still the same one (equal
// UUID) comes first, where that leaves room for all; then those that need most get those with most free; then GPUs are
// exchanged while that keeps more of them beside the neighbours that they had (those next to the same NUMA node). It
// finds a map whenever there is one, and the same one each time. Each pair says why.
//
// Errors: as DevicePort::SolveMap() says; also kInvalidArgument where `wanted` names a GPU twice.
Result<std::vector<GpuPair>> SolveGpuMap(std::span<const GpuFacts> wanted, std::span<const GpuFacts> have,
                                         std::span<const GpuPair> asked);

// kInvalidArgument: `map` is empty, names a GPU twice on one side, or sends state to a GPU that is not in `have`.
Result<void> CheckGpuMap(std::span<const GpuPair> map, std::span<const GpuFacts> have);

// "64.00 GiB", for messages.
std::string Gibibytes(std::uint64_t bytes);

}  // namespace gpumig
