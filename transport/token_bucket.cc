#include "transport/token_bucket.h"

#include <algorithm>
#include <condition_variable>

namespace gpumig {

bool TokenBucket::Take(std::uint64_t bytes, std::chrono::steady_clock::time_point deadline, std::stop_token stop) {
  if (bytes_per_second_ == 0) return !stop.stop_requested();
  const auto turn = Reserve(bytes, std::chrono::steady_clock::now(), deadline);
  return turn && SleepUntil(*turn, stop);
}

std::optional<std::chrono::steady_clock::time_point> TokenBucket::Reserve(
    std::uint64_t bytes, std::chrono::steady_clock::time_point now, std::chrono::steady_clock::time_point deadline) {
  const std::lock_guard lock(mutex_);
  const auto turn = std::max(line_free_at_.value_or(now), now - kMostCredit);
  if (turn > deadline) return std::nullopt;
  const auto seconds =
      std::chrono::duration<double>(static_cast<double>(bytes) / static_cast<double>(bytes_per_second_));
  line_free_at_ = turn + std::chrono::duration_cast<std::chrono::steady_clock::duration>(seconds);
  return turn;
}

bool SleepUntil(std::chrono::steady_clock::time_point time, std::stop_token stop) {
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  never.wait_until(lock, stop, time, [] { return false; });
  return !stop.stop_requested();
}

}  // namespace gpumig
