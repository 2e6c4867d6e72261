// The commands that ask the local agent, gpumigd, over its unix socket.
#pragma once

#include <cstdint>
#include <string>

#include "cli/command.h"
#include "core/session/host_rates.h"

namespace gpumig {

struct MigrateArguments {
  std::string workload;
  std::string to;
  std::uint32_t max_downtime_s = 60;
  std::uint32_t lock_timeout_ms = 10'000;
  std::string host_path = "direct";
  bool live = false;
  std::string compress;   // empty: as the agent is configured
  std::string bandwidth;  // likewise
  std::string socket;     // empty: gpumigd.sock in the runtime directory
};
// Killing this changes nothing: the agent goes on.
CommandOutcome Migrate(const MigrateArguments& arguments);

struct StatusArguments {
  std::string migration;  // empty: all
  std::string socket;
};
CommandOutcome Status(const StatusArguments& arguments);

// Has the agent send to `node` for about `span`. Errors: kUnavailable, no agent; those of reaching the node.
Result<LinkRate> AskForLinkRate(const std::string& socket, const std::string& node, std::chrono::milliseconds span);

// What moves from here have shown: how fast GPUs were read and filled, and what a pause takes without bytes. The last
// one that tells counts; what none tells stays as it is. Errors: kUnavailable, no agent.
Result<void> LearnFromMoves(const std::string& socket, HostRates& rates);

}  // namespace gpumig
