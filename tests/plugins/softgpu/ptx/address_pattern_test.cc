// What is said of all addresses, against each of them.

#include "plugins/softgpu/ptx/address_pattern.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace softgpu::ptx {
namespace {

using Shape = AddressPattern::Shape;
using Addresses = std::vector<std::uint64_t>;

Lanes Range(std::size_t first, std::size_t count) {
  return {static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(first + count),
          static_cast<std::uint32_t>(count), nullptr};
}

Shape ShapeOf(const Addresses& addresses) { return PatternOf(addresses.data(), 0, Range(0, addresses.size())).shape; }

// True of whatever PatternOf() may say of these addresses.
void ExpectHolds(const AddressPattern& pattern, const Addresses& addresses, std::uint64_t displacement) {
  Addresses moved;
  std::uint64_t all_bits = 0;
  for (const std::uint64_t address : addresses) moved.push_back(address + displacement);
  for (const std::uint64_t address : moved) all_bits |= address;
  EXPECT_EQ(pattern.low, *std::ranges::min_element(moved));
  EXPECT_EQ(pattern.high, *std::ranges::max_element(moved));
  for (const std::uint64_t bytes : {1u, 2u, 4u, 8u, 16u})
    EXPECT_EQ((pattern.all_bits & (bytes - 1)) == 0, (all_bits & (bytes - 1)) == 0);
  for (std::size_t i = 0; i < moved.size() && pattern.shape != Shape::kAny; ++i) {
    const std::size_t start =
        pattern.shape == Shape::kLine ? 0 : i / AddressPattern::kRunLanes * AddressPattern::kRunLanes;
    ASSERT_EQ(moved[i], moved[start] + (i - start) * pattern.step) << i;
  }
}

TEST(AddressPatternTest, HoldsForWhateverAddresses) {
  const unsigned seed = 20261201;
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const Addresses starts = {0, 4, 0x7F0000000000, ~std::uint64_t{0} - 40, std::uint64_t{1} << 63, 0xF000000000000000};
  const Addresses steps = {0, 1, 4, 8, 512, ~std::uint64_t{3}, std::uint64_t{1} << 40, random()};
  for (int round = 0; round < 5000; ++round) {
    SCOPED_TRACE(round);
    const std::size_t count = 1 + random() % 100;
    const std::size_t first = random() % 20;
    const std::size_t run = 1 + random() % 40;
    const std::uint64_t step = steps[random() % steps.size()];
    const std::uint64_t jump = random() % 2 == 0 ? run * step : random() % 4096;
    Addresses addresses(count, starts[random() % starts.size()]);
    for (std::size_t i = 0; i < count; ++i) addresses[i] += i / run * jump + i % run * step;
    if (random() % 4 == 0) addresses[random() % count] += random() % 3;
    const std::uint64_t displacement = random() % 2 == 0 ? 0 : std::uint64_t{0} - random() % 100;
    Addresses row(first, random());
    row.insert(row.end(), addresses.begin(), addresses.end());
    ExpectHolds(PatternOf(row.data(), displacement, Range(first, count)), addresses, displacement);
  }
}

TEST(AddressPatternTest, FindsLinesAndTiles) {
  Addresses line, tile, broadcast, torn;
  for (std::uint64_t i = 0; i < 61; ++i) {
    line.push_back(1000 - 4 * i);
    tile.push_back(i / 16 * 256 + i % 16 * 4);
    broadcast.push_back(i / 16 * 256);
    torn.push_back(i / 10 * 256 + i % 10 * 4);
  }
  EXPECT_EQ(ShapeOf(line), Shape::kLine);
  EXPECT_EQ(ShapeOf({5}), Shape::kLine);
  EXPECT_EQ(ShapeOf(tile), Shape::kRuns);
  EXPECT_EQ(ShapeOf(broadcast), Shape::kRuns);
  EXPECT_EQ(ShapeOf(torn), Shape::kAny);
}

TEST(AddressPatternTest, OfListedLanesOnlyTheBoundsAreKnown) {
  const Addresses addresses = {0, 8, 100, 24, 104};
  const std::uint16_t list[] = {1, 3};
  const AddressPattern pattern = PatternOf(addresses.data(), 16, {1, 4, 2, list});
  EXPECT_EQ(pattern.low, 24u);
  EXPECT_EQ(pattern.high, 40u);
  EXPECT_EQ(pattern.shape, Shape::kAny);
}

}  // namespace
}  // namespace softgpu::ptx
