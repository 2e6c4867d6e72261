// WorkerGroup: threads that do one job together. The first error stops all, and is the one that is reported.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <vector>

#include "core/base/result.h"

namespace gpumig {

// Thread safety: Start() and Join() from the owner's thread; RequestStop() from any.
class WorkerGroup {
 public:
  WorkerGroup() = default;
  WorkerGroup(const WorkerGroup&) = delete;
  WorkerGroup& operator=(const WorkerGroup&) = delete;
  // Stops and joins; errors not asked for by Join() are dropped.
  ~WorkerGroup();

  // `work` must end soon after its token is stopped.
  void Start(std::function<Result<void>(std::stop_token)> work);
  void RequestStop() { stop_.request_stop(); }
  std::stop_token stop_token() const { return stop_.get_token(); }

  // Waits for all; the first error of any.
  Result<void> Join();

 private:
  std::stop_source stop_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::optional<Error> first_error_;  // guarded by mutex_
};

}  // namespace gpumig
