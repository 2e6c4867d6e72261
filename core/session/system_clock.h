// The Clock of real life.
#pragma once

#include "core/session/ports.h"

namespace gpumig {

// Thread safety: any number of threads.
class SystemClock : public Clock {
 public:
  TimePoint Now() override { return std::chrono::steady_clock::now(); }
  std::chrono::system_clock::time_point WallTime() override { return std::chrono::system_clock::now(); }
  void WaitUntil(TimePoint time, std::stop_token stop) override;
};

}  // namespace gpumig
