// A whole migration in one thread, from one seed: both cores, their disks, their process trees, a network that loses,
// doubles and reorders, agents that are killed, nodes that reboot. The properties of the model are checked after every
// step.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "core/session/handoff_source.h"
#include "core/session/handoff_target.h"

namespace gpumig {

// A bug put in on purpose, as in the model (MUT): the checks must find each. M10 needs an arbiter, which there is not
// yet.
enum class Mutant {
  kNone,
  kSourceResumesAfterRelease,  // M1
  kTargetStartsUnreleased,     // M2
  kTargetDiscardsSilently,     // M3
  kReleaseBeforeJournal,       // M4
  kUnknownTakenForRefused,     // M5, with a target that loses its journal
  kStartBeforeJournal,         // M6
  kDestroyAtRelease,           // M7
  kReleaseOfAnyAttempt,        // M8
  kSealedUnlooked,             // M9
  kImageDroppedAfterFailure,   // M11
  kDiskForgets,                // ours: an acknowledged record is not on the disk
};
std::string_view Name(Mutant mutant);

// What goes wrong for good.
enum class Death { kNone, kLink, kTarget, kSource };

struct SimulationOptions {
  std::uint64_t seed = 0;
  Mutant mutant = Mutant::kNone;
  Death death = Death::kNone;
  bool target_loses_journal = false;
  bool trace = false;
};

struct SimulationResult {
  std::string broken;  // the property that did not hold; empty where all did
  std::string trace;
  bool moved = false;
  bool runs_at_source = false;
  bool in_doubt = false;
  int steps = 0;
  int faults = 0;
};

SimulationResult Simulate(const SimulationOptions& options);

}  // namespace gpumig
