#include "device_state/no_device_port.h"

#include <unistd.h>

#include <array>

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

TEST(NoDevicePortTest, LetsJobsWithoutGpusPass) {
  NoDevicePort port("nothing there");
  EXPECT_EQ(port.Describe(), "");
  EXPECT_EQ(*port.State(getpid()), GpuState::kNone);
  EXPECT_TRUE(port.GpuProcesses(std::array{getpid()})->empty());
  EXPECT_THAT(port.Lock({}, std::chrono::seconds(1)), IsOk());
  EXPECT_TRUE(port.RestoreThreads({})->empty());
  EXPECT_EQ(*port.Checkpoint({}), 0u);
  EXPECT_THAT(port.Restore({}, {}), IsOk());
  EXPECT_THAT(port.Unlock({}), IsOk());
  EXPECT_TRUE(port.SolveMap({}, {})->empty());
}

TEST(NoDevicePortTest, RefusesJobsWithGpusWithTheReason) {
  NoDevicePort port("nothing there");
  const std::array processes{getpid()};
  EXPECT_THAT(port.Lock(processes, std::chrono::seconds(1)), FailsWith(ErrorCode::kUnavailable, "nothing there"));
  EXPECT_THAT(port.RestoreThreads(processes), FailsWith(ErrorCode::kUnavailable, "nothing there"));
  EXPECT_THAT(port.Checkpoint(processes), FailsWith(ErrorCode::kUnavailable, "nothing there"));
  EXPECT_THAT(port.Restore(processes, {}), FailsWith(ErrorCode::kUnavailable, "nothing there"));
  EXPECT_THAT(port.Unlock(processes), FailsWith(ErrorCode::kUnavailable, "nothing there"));
  EXPECT_THAT(port.SolveMap(std::array{GpuFacts{}}, {}), FailsWith(ErrorCode::kUnavailable, "1 GPU(s)"));
}

}  // namespace
}  // namespace gpumig
