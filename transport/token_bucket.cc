#include "transport/token_bucket.h"

#include <algorithm>
#include <condition_variable>

namespace gpumig {

bool TokenBucket::Take(std::uint64_t bytes, std::chrono::steady_clock::time_point deadline, std::stop_token stop) {
  if (bytes_per_second_ == 0) return !stop.stop_requested();
  std::chrono::steady_clock::time_point turn;
  {
    const std::lock_guard lock(mutex_);
    turn = std::max(line_free_at_, std::chrono::steady_clock::now());
    if (turn > deadline) return false;
    const auto seconds =
        std::chrono::duration<double>(static_cast<double>(bytes) / static_cast<double>(bytes_per_second_));
    line_free_at_ = turn + std::chrono::duration_cast<std::chrono::steady_clock::duration>(seconds);
  }
  return SleepUntil(turn, stop);
}

bool SleepUntil(std::chrono::steady_clock::time_point time, std::stop_token stop) {
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  never.wait_until(lock, stop, time, [] { return false; });
  return !stop.stop_requested();
}

}  // namespace gpumig
