// Both cores together, under thousands of seeded runs of loss, doubling, reordering, kills, reboots and failing disks.
// GPUMIG_SIMULATION_SEEDS=n runs more of them; a failure prints its seed and its trace.
#include <cstdlib>

#include "tests/core/session/handoff_simulator.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

std::uint64_t SeedCount() {
  const char* asked = std::getenv("GPUMIG_SIMULATION_SEEDS");
  return asked == nullptr ? 20000 : std::strtoull(asked, nullptr, 10);
}

struct Tally {
  std::uint64_t runs = 0;
  std::uint64_t moved = 0;
  std::uint64_t moved_despite_faults = 0;
  std::uint64_t at_source = 0;
  std::uint64_t in_doubt = 0;
};

// Stops at the first broken property.
Tally RunSeeds(SimulationOptions options, std::uint64_t count) {
  Tally tally;
  for (std::uint64_t seed = 1; seed <= count; ++seed) {
    options.seed = seed;
    const SimulationResult result = Simulate(options);
    ++tally.runs;
    tally.moved += result.moved ? 1 : 0;
    tally.moved_despite_faults += result.moved && result.faults >= 3 ? 1 : 0;
    tally.at_source += result.runs_at_source ? 1 : 0;
    tally.in_doubt += result.in_doubt ? 1 : 0;
    if (result.broken.empty()) continue;
    options.trace = true;
    ADD_FAILURE() << "seed " << seed << ": " << result.broken << "\n" << Simulate(options).trace;
    break;
  }
  return tally;
}

std::string Text(const Tally& tally) {
  return std::to_string(tally.runs) + " runs, " + std::to_string(tally.moved) + " moved (" +
         std::to_string(tally.moved_despite_faults) + " through three faults or more), " +
         std::to_string(tally.at_source) + " at the source, " + std::to_string(tally.in_doubt) + " in doubt";
}

TEST(HandoffSimulationTest, WhateverFailsItRunsOnExactlyOneSideAndTheOtherIsClean) {
  const Tally tally = RunSeeds({}, SeedCount());
  RecordProperty("tally", Text(tally));
  EXPECT_EQ(tally.moved + tally.at_source, tally.runs) << Text(tally);
  EXPECT_EQ(tally.in_doubt, 0u) << Text(tally);
  // The runs mean something only when both ends come often.
  EXPECT_GT(tally.moved, tally.runs / 10) << Text(tally);
  EXPECT_GT(tally.at_source, tally.runs / 10) << Text(tally);
  EXPECT_GT(tally.moved_despite_faults, tally.runs / 50) << Text(tally);
}

TEST(HandoffSimulationTest, ALinkOrNodeGoneForGoodLeavesItRunningOrFrozenWhole) {
  for (const Death death : {Death::kLink, Death::kTarget, Death::kSource}) {
    SimulationOptions options;
    options.death = death;
    const Tally tally = RunSeeds(options, SeedCount() / 4);
    EXPECT_GT(tally.moved + tally.at_source, 0u);
    // Two parties cannot do without this (the model finds the same trace).
    if (tally.runs >= 5000) {
      EXPECT_GT(tally.in_doubt, 0u) << Text(tally);
    }
  }
}

TEST(HandoffSimulationTest, ATargetThatLosesItsJournalNeverMakesTwoLiveCopies) {
  SimulationOptions options;
  options.target_loses_journal = true;
  const Tally tally = RunSeeds(options, SeedCount() / 4);
  EXPECT_GT(tally.in_doubt, 0u) << Text(tally);
}

// Each bug put in on purpose is found; the properties are worth what this says.
TEST(HandoffSimulationTest, EverySeededBugIsFound) {
  for (int number = 1; number <= static_cast<int>(Mutant::kDiskForgets); ++number) {
    SimulationOptions options;
    options.mutant = static_cast<Mutant>(number);
    options.target_loses_journal = options.mutant == Mutant::kUnknownTakenForRefused;
    std::string found;
    std::uint64_t seed = 0;
    while (found.empty() && seed < 100000) {
      options.seed = ++seed;
      found = Simulate(options).broken;
    }
    EXPECT_FALSE(found.empty()) << Name(options.mutant) << " was not found in " << seed << " runs";
    std::printf("%s: %s (seed %llu)\n", std::string(Name(options.mutant)).c_str(), found.c_str(),
                static_cast<unsigned long long>(seed));
  }
}

TEST(HandoffSimulationTest, ASeedGivesTheSameRunEveryTime) {
  SimulationOptions options;
  options.trace = true;
  for (options.seed = 1; options.seed <= 20; ++options.seed) {
    EXPECT_EQ(Simulate(options).trace, Simulate(options).trace);
  }
}

}  // namespace
}  // namespace gpumig
