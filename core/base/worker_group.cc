#include "core/base/worker_group.h"

namespace gpumig {

WorkerGroup::~WorkerGroup() {
  RequestStop();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerGroup::Start(std::function<Result<void>(std::stop_token)> work) {
  threads_.emplace_back([this, work = std::move(work)] {
    Result<void> done = work(stop_.get_token());
    if (done) return;
    const std::lock_guard lock(mutex_);
    if (!first_error_) first_error_ = std::move(done).error();
    stop_.request_stop();
  });
}

Result<void> WorkerGroup::Join() {
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  const std::lock_guard lock(mutex_);
  if (first_error_) return *first_error_;
  return Ok();
}

}  // namespace gpumig
