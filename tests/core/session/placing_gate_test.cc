#include "core/session/placing_gate.h"

#include <atomic>
#include <thread>

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

Digest Numbered(std::uint64_t number) { return Digest::Of(std::as_bytes(std::span(&number, 1))); }

class PlacingGateTest : public testing::Test {
 protected:
  Result<void> Place(std::uint64_t number) {
    return gate_.PlaceOnce(Numbered(number), [&] {
      ++count_;
      return Ok();
    });
  }

  PlacingGate gate_;
  std::atomic<int> count_{0};
};

TEST_F(PlacingGateTest, AChunkIsPlacedOnce) {
  EXPECT_THAT(Place(1), IsOk());
  EXPECT_THAT(Place(1), IsOk());
  EXPECT_THAT(Place(2), IsOk());
  EXPECT_EQ(count_, 2);
  EXPECT_TRUE(gate_.IsPlaced(Numbered(1)));
  EXPECT_FALSE(gate_.IsPlaced(Numbered(3)));
}

TEST_F(PlacingGateTest, WhatFailedIsNotPlacedAndMayBeTriedAgain) {
  const auto fail = []() -> Result<void> { return MakeError(ErrorCode::kIo, "no"); };
  EXPECT_THAT(gate_.PlaceOnce(Numbered(1), fail), FailsWith(ErrorCode::kIo, "no"));
  EXPECT_FALSE(gate_.IsPlaced(Numbered(1)));
  EXPECT_THAT(Place(1), IsOk());
  EXPECT_EQ(count_, 1);
}

TEST_F(PlacingGateTest, OnceClosedALateCopyOfAChunkIsLeftOut) {
  gate_.Close();
  EXPECT_THAT(Place(1), IsOk());
  EXPECT_EQ(count_, 0);
  EXPECT_FALSE(gate_.IsPlaced(Numbered(1)));
}

TEST_F(PlacingGateTest, CloseWaitsForWhatIsBeingPlaced) {
  std::atomic<bool> begun{false};
  std::atomic<bool> go_on{false};
  std::atomic<bool> ended{false};
  std::jthread placing([&] {
    EXPECT_THAT(gate_.PlaceOnce(Numbered(1),
                                [&] {
                                  begun = true;
                                  while (!go_on) std::this_thread::yield();
                                  ended = true;
                                  return Ok();
                                }),
                IsOk());
  });
  while (!begun) std::this_thread::yield();
  std::jthread closing([&] {
    gate_.Close();
    EXPECT_TRUE(ended);
  });
  go_on = true;
  closing.join();
  EXPECT_TRUE(gate_.IsPlaced(Numbered(1)));
}

}  // namespace
}  // namespace gpumig
