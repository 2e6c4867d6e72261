#include "core/image/parallel_for.h"

#include <atomic>
#include <vector>

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

TEST(ParallelForTest, DoesEveryPieceOnce) {
  std::vector<std::atomic<int>> done(1000);
  const auto make_worker = [&]() -> PieceWork {
    return [&](std::size_t i) -> Result<std::uint64_t> {
      ++done[i];
      return 1;
    };
  };
  ASSERT_THAT(ParallelFor(done.size(), done.size(), {.workers = 4, .stop = {}, .progress = {}}, make_worker), IsOk());
  for (const auto& count : done) EXPECT_EQ(count, 1);
}

TEST(ParallelForTest, NothingToDoIsDone) {
  const auto make_worker = []() -> PieceWork { return [](std::size_t) -> Result<std::uint64_t> { return 0; }; };
  EXPECT_THAT(ParallelFor(0, 0, {.workers = 4, .stop = {}, .progress = {}}, make_worker), IsOk());
}

TEST(ParallelForTest, TheFirstErrorEndsAll) {
  std::atomic<int> begun = 0;
  const auto make_worker = [&]() -> PieceWork {
    return [&](std::size_t i) -> Result<std::uint64_t> {
      ++begun;
      if (i == 3) return MakeError(ErrorCode::kIo, "piece {} fails", i);
      return 1;
    };
  };
  EXPECT_THAT(ParallelFor(1000000, 1000000, {.workers = 2, .stop = {}, .progress = {}}, make_worker),
              FailsWith(ErrorCode::kIo, "piece 3 fails"));
  EXPECT_LT(begun, 1000000);
}

TEST(ParallelForTest, AStopInTheMiddleIsCancelled) {
  std::stop_source stop;
  const auto make_worker = [&]() -> PieceWork {
    return [&](std::size_t i) -> Result<std::uint64_t> {
      if (i == 10) stop.request_stop();
      return 1;
    };
  };
  EXPECT_THAT(ParallelFor(1000000, 1000000, {.workers = 2, .stop = stop.get_token(), .progress = {}}, make_worker),
              FailsWith(ErrorCode::kCancelled, "of 1000000 chunks"));
}

}  // namespace
}  // namespace gpumig
