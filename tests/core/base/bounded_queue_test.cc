#include "core/base/bounded_queue.h"

#include <atomic>

#include "core/base/worker_group.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

TEST(BoundedQueueTest, HandsOverEverythingOnceAndHoldsProducersBack) {
  constexpr int kItems = 10000;
  BoundedQueue<int> queue(4);
  std::atomic<int> sum = 0;
  WorkerGroup workers;
  workers.Start([&](std::stop_token stop) -> Result<void> {
    for (int i = 1; i <= kItems; ++i) queue.Push(i, stop);
    queue.Close();
    return Ok();
  });
  for (int worker = 0; worker < 3; ++worker) {
    workers.Start([&](std::stop_token stop) -> Result<void> {
      while (const std::optional<int> item = queue.Pop(stop)) sum += *item;
      return Ok();
    });
  }
  ASSERT_THAT(workers.Join(), IsOk());
  EXPECT_EQ(sum, kItems * (kItems + 1) / 2);
}

TEST(WorkerGroupTest, FirstErrorStopsTheOthersAndIsReported) {
  BoundedQueue<int> queue(1);
  WorkerGroup workers;
  workers.Start([&](std::stop_token stop) -> Result<void> {
    while (queue.Push(1, stop)) {
    }
    return Ok();
  });
  workers.Start([](std::stop_token) -> Result<void> { return MakeError(ErrorCode::kIo, "the disk is on fire"); });
  EXPECT_THAT(workers.Join(), FailsWith(ErrorCode::kIo, "on fire"));
}

}  // namespace
}  // namespace gpumig
