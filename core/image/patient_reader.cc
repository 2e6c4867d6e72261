#include "core/image/patient_reader.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "core/base/check.h"

namespace gpumig {
namespace {

struct Request {
  std::function<Result<PatientReader::Bytes>()> read;
  std::optional<Result<PatientReader::Bytes>> answer;  // guarded by Shared::mutex
};

}  // namespace

struct PatientReader::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::shared_ptr<Request>> waiting;  // guarded by mutex
  std::vector<bool> is_reading;                  // guarded by mutex; of each thread
  bool stopping = false;                         // guarded by mutex

  void Serve(std::size_t thread) {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return stopping || !waiting.empty(); });
      if (stopping) return;
      const std::shared_ptr<Request> request = std::move(waiting.front());
      waiting.pop_front();
      is_reading[thread] = true;
      lock.unlock();
      Result<Bytes> answer = request->read();
      lock.lock();
      is_reading[thread] = false;
      request->answer.emplace(std::move(answer));
      changed.notify_all();
    }
  }
};

PatientReader::PatientReader(std::size_t thread_count) : shared_(std::make_shared<Shared>()) {
  GPUMIG_CHECK(thread_count > 0);
  shared_->is_reading.resize(thread_count);
  for (std::size_t i = 0; i < thread_count; ++i) threads_.emplace_back([shared = shared_, i] { shared->Serve(i); });
}

PatientReader::~PatientReader() {
  std::vector<bool> is_reading;
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->stopping = true;
    shared_->waiting.clear();
    is_reading = shared_->is_reading;
  }
  shared_->changed.notify_all();
  // One that reads ends by itself after its read, which nobody waits for any more.
  for (std::size_t i = 0; i < threads_.size(); ++i) is_reading[i] ? threads_[i].detach() : threads_[i].join();
}

Result<PatientReader::Bytes> PatientReader::Read(std::function<Result<Bytes>()> read, std::chrono::milliseconds limit) {
  const auto request = std::make_shared<Request>();
  request->read = std::move(read);
  std::unique_lock lock(shared_->mutex);
  shared_->waiting.push_back(request);
  shared_->changed.notify_all();
  if (!shared_->changed.wait_for(lock, limit, [&] { return request->answer.has_value(); })) {
    std::erase(shared_->waiting, request);
    return MakeError(ErrorCode::kDeadlineExceeded, "a read did not end within {} ms", limit.count());
  }
  return *std::move(request->answer);
}

}  // namespace gpumig
