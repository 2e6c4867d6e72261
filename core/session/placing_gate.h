// PlacingGate: lets every chunk into a copy once, and none once the copy may run.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <unordered_set>

#include "core/base/result.h"
#include "core/image/digest.h"

namespace gpumig {

// Thread safety: any number of threads.
class PlacingGate {
 public:
  // Runs `place`, which puts the chunk where it belongs, unless it is there already or it is too late: a chunk that
  // comes twice must not be written into a copy that has run since. Two at once may both be placed; they are equal.
  // Errors: those of `place`, after which the chunk counts as not placed.
  Result<void> PlaceOnce(const Digest& digest, const std::function<Result<void>()>& place) {
    {
      const std::lock_guard lock(mutex_);
      if (closed_ || placed_.contains(digest)) return Ok();
      ++placing_count_;
    }
    Result<void> done = place();
    const std::lock_guard lock(mutex_);
    --placing_count_;
    if (done) placed_.insert(digest);
    changed_.notify_all();
    return done;
  }

  // Returns once nothing is being placed any more, and nothing will be.
  void Close() {
    std::unique_lock lock(mutex_);
    closed_ = true;
    changed_.wait(lock, [&] { return placing_count_ == 0; });
  }

  bool IsPlaced(const Digest& digest) const {
    const std::lock_guard lock(mutex_);
    return placed_.contains(digest);
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::unordered_set<Digest> placed_;  // guarded by mutex_
  int placing_count_ = 0;              // guarded by mutex_
  bool closed_ = false;                // guarded by mutex_
};

}  // namespace gpumig
