#include "core/image/parallel_for.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "core/base/check.h"
#include "core/base/worker_group.h"

namespace gpumig {
namespace {

constexpr std::chrono::milliseconds kProgressPeriod{100};

// What the workers share with the thread that waits for them.
struct Shared {
  std::atomic<std::size_t> next{0};
  std::atomic<std::size_t> done{0};
  std::atomic<std::uint64_t> bytes_done{0};
  std::mutex mutex;
  std::condition_variable ended;
  std::size_t running = 0;  // guarded by mutex
};

Result<void> WorkUntilNoneIsLeft(Shared& shared, std::size_t count, const std::function<PieceWork()>& make_worker,
                                 const std::stop_token& stop) {
  const PieceWork work = make_worker();
  while (!stop.stop_requested()) {
    const std::size_t index = shared.next.fetch_add(1);
    if (index >= count) break;
    shared.bytes_done += GPUMIG_TRY(work(index));
    ++shared.done;
  }
  return Ok();
}

void ReportUntilAllEnded(Shared& shared, std::uint64_t bytes_total, const ProgressFn& progress) {
  std::unique_lock lock(shared.mutex);
  while (!shared.ended.wait_for(lock, kProgressPeriod, [&] { return shared.running == 0; })) {
    lock.unlock();
    progress(shared.bytes_done, bytes_total);
    lock.lock();
  }
}

}  // namespace

Result<void> ParallelFor(std::size_t count, std::uint64_t bytes_total, const ParallelOptions& options,
                         const std::function<PieceWork()>& make_worker) {
  GPUMIG_CHECK(options.workers > 0);
  const std::size_t workers = std::min(options.workers, count);
  Shared shared;
  shared.running = workers;
  {
    WorkerGroup group;
    const std::stop_callback stop_group(options.stop, [&group] { group.RequestStop(); });
    for (std::size_t i = 0; i < workers; ++i) {
      group.Start([&](const std::stop_token& stop) -> Result<void> {
        Result<void> worked = WorkUntilNoneIsLeft(shared, count, make_worker, stop);
        const std::lock_guard lock(shared.mutex);
        --shared.running;
        shared.ended.notify_one();
        return worked;
      });
    }
    if (options.progress) ReportUntilAllEnded(shared, bytes_total, options.progress);
    GPUMIG_TRY(group.Join());
  }
  if (shared.done < count)
    return MakeError(ErrorCode::kCancelled, "stopped after {} of {} chunks", shared.done.load(), count);
  if (options.progress) options.progress(shared.bytes_done, bytes_total);
  return Ok();
}

}  // namespace gpumig
