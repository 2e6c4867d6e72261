#include "core/session/system_clock.h"

#include <condition_variable>
#include <mutex>

namespace gpumig {

void SystemClock::WaitUntil(TimePoint time, std::stop_token stop) {
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  never.wait_until(lock, stop, time, [] { return false; });
}

}  // namespace gpumig
