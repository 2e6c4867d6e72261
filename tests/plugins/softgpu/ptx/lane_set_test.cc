// Sets of lanes against sets of numbers.

#include "plugins/softgpu/ptx/lane_set.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace softgpu::ptx {
namespace {

using List = std::vector<std::uint16_t>;

List ListOf(const Lanes& lanes) {
  List list;
  for (std::uint32_t i = 0; i < lanes.count; ++i) list.push_back(static_cast<std::uint16_t>(LaneAt(lanes, i)));
  return list;
}

bool IsRange(const List& list) { return list.empty() || list.back() - list.front() + 1u == list.size(); }

// A range goes without a list, whatever it was made of; else all is as in the list.
void ExpectIs(const Lanes& lanes, const List& expected) {
  EXPECT_EQ(ListOf(lanes), expected);
  EXPECT_EQ(lanes.index == nullptr, IsRange(expected));
  if (expected.empty()) return;
  EXPECT_EQ(lanes.first, expected.front());
  EXPECT_EQ(lanes.end, expected.back() + 1u);
}

// Predicates that agree for a while, or not at all: `run` is how long on average.
std::vector<std::uint8_t> Predicates(std::mt19937& random, std::size_t count, std::size_t run) {
  std::vector<std::uint8_t> predicates(count);
  std::uint8_t value = 0;
  for (std::uint8_t& predicate : predicates) {
    if (random() % run == 0) value = random() % 2;
    predicate = value;
  }
  return predicates;
}

TEST(LaneSetTest, PartsAreThoseWhomThePredicateNamesAndTheOthersAndMergeToTheWhole) {
  const unsigned seed = 20261201;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  LaneParter parter;
  for (int round = 0; round < 2000; ++round) {
    SCOPED_TRACE(round);
    const std::uint32_t end = 1 + static_cast<std::uint32_t>(random() % kMaxThreadsPerBlock);
    const std::uint32_t first = static_cast<std::uint32_t>(random() % end);
    const std::vector<std::uint8_t> members = Predicates(random, end, 1 + random() % 40);
    const std::vector<std::uint8_t> predicates = Predicates(random, end, 1 + random() % 40);
    const std::uint8_t unwanted = random() % 2;
    List whole, chosen, rest;
    for (std::uint32_t lane = first; lane < end; ++lane) {
      if (round % 2 == 1 && members[lane] == 0) continue;  // Every other round a list.
      whole.push_back(static_cast<std::uint16_t>(lane));
      (predicates[lane] != unwanted ? chosen : rest).push_back(static_cast<std::uint16_t>(lane));
    }
    const LaneSet set(LanesOf(whole));
    ExpectIs(set.lanes(), whole);
    const LaneParter::Parts parts = parter.Part(predicates.data(), unwanted, set.lanes());
    ExpectIs(parts.chosen, chosen);
    ExpectIs(parts.rest, rest);
    LaneSet merged(parts.chosen);
    merged.Merge(LaneSet(parts.rest));
    ExpectIs(merged.lanes(), whole);
    EXPECT_EQ(merged.count(), whole.size());
    EXPECT_EQ(merged.empty(), whole.empty());
  }
}

}  // namespace
}  // namespace softgpu::ptx
