// How long a job will stand still while it is moved by stop-and-copy, from what was measured of this host and the link.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/session/handoff_types.h"
#include "core/session/host_rates.h"

namespace gpumig {

struct PauseQuestion {
  std::uint64_t host_bytes = 0;
  std::uint64_t device_bytes = 0;
  std::string node;  // where to; one of the links of the rates
  std::uint32_t connection_count = 4;
};

struct PauseForecast {
  std::chrono::microseconds total{0};
  std::vector<TimedPart>
      parts;             // in their order: fixed, device_capture, hash, send, device_restore; their sum is total
  std::string bound_by;  // what would have to be faster: "link", "encode", "digest", "read", "gpu"; or "fixed"
  std::vector<std::string>
      left_out;  // parts that are in every move, and were never measured: the pause is longer by them
};

// A pure function: nothing is measured or read. Device bytes travel through host memory, so that they are hashed and
// sent too. What works side by side (reading and encoding, the link) counts with its slowest; bytes count as they are,
// for how much smaller they become is their affair. Fewer connections than were measured are taken to carry as much
// less, more to carry no more.
//
// Errors: kFailedPrecondition, a rate is missing without which there is nothing to say; the message names it and how to
//     get it. REQUIRES: connection_count > 0
Result<PauseForecast> PredictPause(const HostRates& rates, const PauseQuestion& question);

}  // namespace gpumig
