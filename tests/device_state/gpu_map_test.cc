#include "device_state/gpu_map.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <set>

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

using testing::ElementsAre;

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

GpuFacts Gpu(std::string uuid, std::string chip, std::uint64_t total_gib, std::uint64_t free_gib) {
  return {std::move(uuid), std::move(chip), "0000:01:00.0", total_gib * kGiB, free_gib * kGiB};
}

std::vector<std::string> NewUuids(const Result<std::vector<GpuPair>>& map) {
  std::vector<std::string> uuids;
  if (map) std::ranges::transform(*map, std::back_inserter(uuids), &GpuPair::new_uuid);
  return uuids;
}

TEST(GpuMapTest, TakesTheEqualChipWithMostFreeMemory) {
  const std::vector<GpuFacts> wanted = {Gpu("old", "H200", 140, 100)};
  const std::vector<GpuFacts> have = {Gpu("a", "H100", 80, 80), Gpu("b", "H200", 140, 50), Gpu("c", "H200", 140, 139)};
  const auto map = SolveGpuMap(wanted, have, {});
  ASSERT_THAT(map, IsOk());
  EXPECT_THAT(NewUuids(map), ElementsAre("c"));
  EXPECT_EQ(map->front().why, "a H200 as well, with 139.00 GiB free of 140.00 GiB and 40.00 GiB wanted");
}

TEST(GpuMapTest, PrefersTheSameGpuOverAnEmptierOne) {
  const std::vector<GpuFacts> wanted = {Gpu("x", "H200", 140, 100), Gpu("y", "H200", 140, 100)};
  const std::vector<GpuFacts> have = {Gpu("z", "H200", 140, 140), Gpu("y", "H200", 140, 60)};
  const auto map = SolveGpuMap(wanted, have, {});
  EXPECT_THAT(NewUuids(map), ElementsAre("z", "y"));
  EXPECT_EQ(map->back().why, "the same GPU");
}

TEST(GpuMapTest, GivesTheSameGpuAwayWhereOnlyItHasRoomForAnother) {
  const std::vector<GpuFacts> wanted = {Gpu("x", "H200", 140, 139), Gpu("y", "H200", 140, 40)};
  const std::vector<GpuFacts> have = {Gpu("x", "H200", 140, 120), Gpu("z", "H200", 140, 10)};
  EXPECT_THAT(NewUuids(SolveGpuMap(wanted, have, {})), ElementsAre("z", "x"));
}

GpuFacts GpuAt(std::string uuid, int numa_node, std::uint64_t free_gib = 100) {
  GpuFacts gpu = Gpu(std::move(uuid), "H200", 140, free_gib);
  gpu.numa_node = numa_node;
  return gpu;
}

TEST(GpuMapTest, KeepsNeighboursTogetherAndSaysSo) {
  const std::vector<GpuFacts> wanted = {GpuAt("w0", 0), GpuAt("w1", 0), GpuAt("w2", 1), GpuAt("w3", 1)};
  const std::vector<GpuFacts> have = {GpuAt("a0", 0), GpuAt("b1", 1), GpuAt("c0", 0), GpuAt("d1", 1)};
  const auto map = SolveGpuMap(wanted, have, {});
  ASSERT_THAT(map, IsOk());
  const std::vector<std::string> uuids = NewUuids(map);
  EXPECT_EQ(uuids[0].back(), uuids[1].back());
  EXPECT_EQ(uuids[2].back(), uuids[3].back());
  EXPECT_NE(map->front().why.find("with its neighbour w1"), std::string::npos) << map->front().why;
}

TEST(GpuMapTest, TakesAGpuThatIsLeftOverToKeepNeighboursTogether) {
  const std::vector<GpuFacts> wanted = {GpuAt("w0", 0), GpuAt("w1", 0)};
  const std::vector<GpuFacts> have = {GpuAt("a0", 0, 120), GpuAt("b1", 1, 110), GpuAt("c0", 0, 100)};
  EXPECT_THAT(NewUuids(SolveGpuMap(wanted, have, {})), ElementsAre("a0", "c0"));
}

TEST(GpuMapTest, RoomBeatsNeighbours) {
  const std::vector<GpuFacts> wanted = {GpuAt("w0", 0), GpuAt("w1", 0)};
  const std::vector<GpuFacts> have = {GpuAt("a0", 0, 120), GpuAt("b1", 1, 110), GpuAt("c0", 0, 10)};
  EXPECT_THAT(NewUuids(SolveGpuMap(wanted, have, {})), ElementsAre("a0", "b1"));
}

TEST(GpuMapTest, KeepsTheOrderOfTheWantedAcrossChips) {
  const std::vector<GpuFacts> wanted = {Gpu("1", "H200", 10, 9), Gpu("2", "A10", 10, 9), Gpu("3", "H200", 10, 9)};
  const std::vector<GpuFacts> have = {Gpu("a", "A10", 10, 9), Gpu("h", "H200", 10, 9), Gpu("i", "H200", 10, 8)};
  EXPECT_THAT(NewUuids(SolveGpuMap(wanted, have, {})), ElementsAre("h", "a", "i"));
}

TEST(GpuMapTest, AJobWithoutGpusNeedsNone) {
  const auto map = SolveGpuMap({}, {}, {});
  ASSERT_THAT(map, IsOk());
  EXPECT_TRUE(map->empty());
}

TEST(GpuMapTest, SaysWhichChipIsMissing) {
  const std::vector<GpuFacts> wanted = {Gpu("x", "H200", 140, 100)};
  const auto map = SolveGpuMap(wanted, std::vector{Gpu("a", "H100", 80, 80)}, {});
  ASSERT_THAT(map, FailsWith(ErrorCode::kUnsupported, "1 GPU(s) of type H200, and this host has 0"));
  EXPECT_EQ(map.error().next_step(), "this host has a (H100, 80.00 GiB free)");
  EXPECT_THAT(SolveGpuMap(wanted, {}, {}), FailsWith(ErrorCode::kUnsupported, "this host has 0"));
}

TEST(GpuMapTest, WantsAGpuForEachThatTheJobSaw) {
  const std::vector<GpuFacts> wanted = {Gpu("x", "H200", 140, 140), Gpu("y", "H200", 140, 140)};
  EXPECT_THAT(SolveGpuMap(wanted, std::vector{Gpu("a", "H200", 140, 140)}, {}),
              FailsWith(ErrorCode::kUnsupported, "on 2 GPU(s) of type H200, and this host has 1"));
}

TEST(GpuMapTest, SaysHowMuchMemoryIsMissing) {
  const std::vector<GpuFacts> wanted = {Gpu("x", "H200", 140, 40)};
  EXPECT_THAT(SolveGpuMap(wanted, std::vector{Gpu("a", "H200", 140, 99)}, {}),
              FailsWith(ErrorCode::kResourceExhausted, "100.00 GiB of x must fit"));
  EXPECT_THAT(SolveGpuMap(wanted, std::vector{Gpu("a", "H200", 140, 100)}, {}), IsOk());
}

class AskedGpuMapTest : public testing::Test {
 protected:
  const std::vector<GpuFacts> wanted_ = {Gpu("x", "H200", 140, 100), Gpu("y", "H200", 140, 100)};
  const std::vector<GpuFacts> have_ = {Gpu("a", "H200", 140, 140), Gpu("b", "H200", 140, 90),
                                       Gpu("c", "H100", 140, 140), Gpu("d", "H200", 140, 39),
                                       Gpu("x", "H200", 140, 140)};
  Result<std::vector<GpuPair>> Asked(std::vector<GpuPair> asked) const { return SolveGpuMap(wanted_, have_, asked); }
};

TEST_F(AskedGpuMapTest, IsTakenAsItIs) {
  const auto map = Asked({{"y", "x", ""}, {"x", "b", ""}});
  EXPECT_THAT(NewUuids(map), ElementsAre("b", "x"));
  EXPECT_EQ(map->front().why, "as asked");
}
TEST_F(AskedGpuMapTest, MustNotNameAGpuThatTheHostHasNot) {
  EXPECT_THAT(Asked({{"x", "a", ""}, {"y", "nope", ""}}),
              FailsWith(ErrorCode::kInvalidArgument, "nope, which this host has not"));
}
TEST_F(AskedGpuMapTest, MustNotNameAGpuThatTheJobWasNotOn) {
  EXPECT_THAT(Asked({{"x", "a", ""}, {"y", "b", ""}, {"q", "x", ""}}),
              FailsWith(ErrorCode::kInvalidArgument, "q, which the job was not on"));
}
TEST_F(AskedGpuMapTest, MustNotNameAGpuTwice) {
  EXPECT_THAT(Asked({{"x", "a", ""}, {"y", "a", ""}}), FailsWith(ErrorCode::kInvalidArgument, "twice, in y=a"));
  EXPECT_THAT(Asked({{"x", "a", ""}, {"x", "b", ""}}), FailsWith(ErrorCode::kInvalidArgument, "twice, in x=b"));
}
TEST_F(AskedGpuMapTest, MustNotLeaveOneOut) {
  EXPECT_THAT(Asked({{"x", "a", ""}}), FailsWith(ErrorCode::kInvalidArgument, "leaves out y"));
}
TEST_F(AskedGpuMapTest, MustNotCrossChips) {
  EXPECT_THAT(Asked({{"x", "c", ""}, {"y", "b", ""}}),
              FailsWith(ErrorCode::kUnsupported, "x is a H200, but c is a H100"));
}
TEST_F(AskedGpuMapTest, MustLeaveRoom) {
  EXPECT_THAT(Asked({{"x", "a", ""}, {"y", "d", ""}}),
              FailsWith(ErrorCode::kResourceExhausted, "40.00 GiB of y must fit on d"));
}

TEST(GpuMapTest, RefusesFactsThatNameAGpuTwice) {
  const std::vector<GpuFacts> wanted = {Gpu("x", "H200", 1, 1), Gpu("x", "H200", 1, 1)};
  EXPECT_THAT(SolveGpuMap(wanted, wanted, {}), FailsWith(ErrorCode::kInvalidArgument, "wanted twice"));
}

bool Fits(const GpuFacts& wanted, const GpuFacts& have) {
  return wanted.chip == have.chip && have.free_bytes >= wanted.total_bytes - wanted.free_bytes;
}

// By trying all: the oracle.
bool SomeMapExists(const std::vector<GpuFacts>& wanted, const std::vector<GpuFacts>& have) {
  if (wanted.size() > have.size()) return false;
  std::vector<std::size_t> order(have.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  do {
    bool all = true;
    for (std::size_t i = 0; i < wanted.size(); ++i) all = all && Fits(wanted[i], have[order[i]]);
    if (all) return true;
  } while (std::ranges::next_permutation(order).found);
  return false;
}

std::vector<GpuFacts> RandomGpus(std::mt19937& random) {
  const auto below = [&](std::uint64_t limit) {
    return std::uniform_int_distribution<std::uint64_t>(0, limit - 1)(random);
  };
  std::vector<GpuFacts> gpus;
  std::set<std::string> used;
  for (std::uint64_t i = below(6); i > 0; --i) {
    const std::string uuid(1, static_cast<char>('a' + below(8)));
    if (used.insert(uuid).second) gpus.push_back(Gpu(uuid, below(4) == 0 ? "A10" : "H200", 8, below(9)));
  }
  return gpus;
}

TEST(GpuMapTest, FindsAValidMapWheneverThereIsOneAndNeverAnother) {
  int found = 0;
  for (unsigned seed = 0; seed < 20'000; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const std::vector<GpuFacts> wanted = RandomGpus(random);
    const std::vector<GpuFacts> have = RandomGpus(random);
    const auto map = SolveGpuMap(wanted, have, {});
    ASSERT_EQ(map.has_value(), SomeMapExists(wanted, have));
    if (!map) continue;
    ++found;
    ASSERT_EQ(map->size(), wanted.size());
    std::set<std::string> used;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const GpuPair& pair = (*map)[i];
      ASSERT_EQ(pair.old_uuid, wanted[i].uuid);
      ASSERT_FALSE(pair.why.empty());
      ASSERT_TRUE(used.insert(pair.new_uuid).second);
      ASSERT_TRUE(Fits(wanted[i], *std::ranges::find(have, pair.new_uuid, &GpuFacts::uuid)));
    }
  }
  EXPECT_GT(found, 1000);
}

}  // namespace
}  // namespace gpumig
