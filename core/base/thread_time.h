// The processor time of the calling thread: what work costs, whoever else runs meanwhile.
#pragma once

#include <time.h>

#include <chrono>

namespace gpumig {

inline std::chrono::nanoseconds CpuTimeOfThisThread() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

}  // namespace gpumig
