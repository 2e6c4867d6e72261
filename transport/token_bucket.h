// TokenBucket: holds senders to a rate in bytes per second, shared by any number of threads.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
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

  // When the turn of a caller who comes now is, and takes it; none: it would be later than `deadline`. REQUIRES: a
  // limit
  std::optional<std::chrono::steady_clock::time_point> Reserve(std::uint64_t bytes,
                                                               std::chrono::steady_clock::time_point now,
                                                               std::chrono::steady_clock::time_point deadline);

 private:
  // Who comes a little late, as threads do, has not lost that time: the rate holds all the same.
  static constexpr std::chrono::milliseconds kMostCredit{200};

  const std::uint64_t bytes_per_second_;
  std::mutex mutex_;
  std::optional<std::chrono::steady_clock::time_point> line_free_at_;  // none before the first; guarded by mutex_
};

// False: `stop` was requested before.
bool SleepUntil(std::chrono::steady_clock::time_point time, std::stop_token stop);

}  // namespace gpumig
