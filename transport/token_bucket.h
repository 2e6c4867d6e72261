// TokenBucket: holds senders to a rate in bytes per second, shared by any number of threads.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <stop_token>

namespace gpumig {

// Thread safety: any number of threads.
class TokenBucket {
 public:
  // 0: no limit.
  explicit TokenBucket(std::uint64_t bytes_per_second) : bytes_per_second_(bytes_per_second) {}

  // Waits for this caller's turn: each caller's bytes take their time on the line, one after the other. False: `stop`
  // was requested, or `deadline` is before the turn.
  bool Take(std::uint64_t bytes, std::chrono::steady_clock::time_point deadline, std::stop_token stop);

 private:
  const std::uint64_t bytes_per_second_;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point line_free_at_{};  // guarded by mutex_
};

// False: `stop` was requested before.
bool SleepUntil(std::chrono::steady_clock::time_point time, std::stop_token stop);

}  // namespace gpumig
