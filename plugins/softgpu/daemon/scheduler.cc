#include "plugins/softgpu/daemon/scheduler.h"

#include <new>
#include <system_error>
#include <utility>

namespace softgpu {

using cuda_abi::CUresult;

namespace {

// Work is bounded, but memory may run out all the same, and must not take the daemon along.
CUresult RunGuarded(const Scheduler::Work& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
}

}  // namespace

Scheduler::~Scheduler() { Close(); }

CUresult Scheduler::AddStream(Id id, const StreamInfo& info) {
  const std::lock_guard lock(mutex_);
  ReapRetired();
  if (closed_ || streams_.size() + retired_.size() >= kMaxStreams) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  auto stream = std::make_shared<Stream>();
  stream->info = info;
  streams_.emplace(id, std::move(stream));
  return cuda_abi::CUDA_SUCCESS;
}

bool Scheduler::RemoveStream(Id id) {
  const std::lock_guard lock(mutex_);
  const auto found = streams_.find(id);
  if (found == streams_.end()) return false;
  found->second->retired = true;
  if (found->second->worker.joinable()) retired_.push_back(found->second);
  streams_.erase(found);
  changed_.notify_all();
  return true;
}

// Joins workers that have nothing left to do but return.
void Scheduler::ReapRetired() {
  retired_.remove_if([](const std::shared_ptr<Stream>& stream) {
    if (stream->finished) stream->worker.join();
    return stream->finished;
  });
}

std::optional<Scheduler::StreamInfo> Scheduler::FindStream(Id id) const {
  const std::lock_guard lock(mutex_);
  const auto found = streams_.find(id);
  if (found == streams_.end()) return std::nullopt;
  return found->second->info;
}

std::map<Id, Scheduler::StreamInfo> Scheduler::Streams() const {
  const std::lock_guard lock(mutex_);
  std::map<Id, StreamInfo> streams;
  for (const auto& [id, stream] : streams_) streams.emplace(id, stream->info);
  return streams;
}

// What must be done before new work of `stream`, beside what is in it already. Source: CUDA programming guide, "Default
// Stream": the legacy default stream and the blocking streams of its context wait for each other.
std::vector<CompletionPtr> Scheduler::OrderBefore(const Stream& stream) const {
  std::vector<CompletionPtr> before;
  if (!stream.info.is_default && (stream.info.flags & cuda_abi::CU_STREAM_NON_BLOCKING) != 0) return before;
  const auto add = [&](const Stream& other) {
    const bool waits = other.info.is_default || (other.info.flags & cuda_abi::CU_STREAM_NON_BLOCKING) == 0;
    if (&other == &stream || other.info.context != stream.info.context || !waits) return;
    if (stream.info.is_default == other.info.is_default) return;
    if (other.last != nullptr && !other.last->done) before.push_back(other.last);
  };
  for (const auto& [id, other] : streams_) add(*other);
  for (const auto& other : retired_) add(*other);
  return before;
}

CompletionPtr Scheduler::Add(Id stream, Work work, std::vector<CompletionPtr> after) {
  std::unique_lock lock(mutex_);
  return AddLocked(lock, stream, std::move(work), std::move(after));
}

CompletionPtr Scheduler::AddLocked(std::unique_lock<std::mutex>& lock, Id id, Work work,
                                   std::vector<CompletionPtr> after) {
  const auto found = streams_.find(id);
  if (found == streams_.end()) return nullptr;
  const std::shared_ptr<Stream> stream = found->second;  // May be removed while we wait.
  changed_.wait(lock, [&] { return closed_ || stream->retired || stream->pending.size() < kMaxPending; });
  if (closed_ || stream->retired || !EnsureWorker(*stream)) return nullptr;
  for (CompletionPtr& other : OrderBefore(*stream)) after.push_back(std::move(other));
  auto completion = std::make_shared<Completion>();
  stream->last = completion;
  stream->pending.push_back({stream->info.context, std::move(work), std::move(after), completion});
  changed_.notify_all();
  return completion;
}

bool Scheduler::EnsureWorker(Stream& stream) {
  if (stream.worker.joinable()) return true;
  try {
    stream.worker = std::thread([this, &stream] { Run(stream); });
    return true;
  } catch (const std::system_error&) {
    return false;  // The system has no thread left for us.
  }
}

void Scheduler::Run(Stream& stream) {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return closed_ || stream.retired || !stream.pending.empty(); });
    if (closed_ || stream.pending.empty()) break;
    RunOne(stream, lock);
  }
  stream.finished = true;
  changed_.notify_all();
}

void Scheduler::RunOne(Stream& stream, std::unique_lock<std::mutex>& lock) {
  // It stays in the queue while it runs: a stream with an empty queue is idle.
  Item& item = stream.pending.front();
  for (const CompletionPtr& other : item.after) {
    changed_.wait(lock, [&] { return closed_ || other->done; });
  }
  CUresult result = closed_ ? cuda_abi::CUDA_ERROR_DEINITIALIZED : ErrorLocked(item.context);
  if (result == cuda_abi::CUDA_SUCCESS) {
    lock.unlock();
    result = RunGuarded(item.work);
    item.work = nullptr;  // Frees what it holds outside the lock.
    lock.lock();
    if (result != cuda_abi::CUDA_SUCCESS) errors_.emplace(item.context, result);
  }
  item.completion->result = result;
  item.completion->finished_at = Clock::now();
  item.completion->done = true;
  stream.pending.pop_front();
  changed_.notify_all();
}

CUresult Scheduler::Wait(const CompletionPtr& completion) {
  if (completion == nullptr) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return closed_ || completion->done; });
  return completion->done ? completion->result : cuda_abi::CUDA_ERROR_DEINITIALIZED;
}

CUresult Scheduler::WaitStream(Id id) {
  std::unique_lock lock(mutex_);
  const auto found = streams_.find(id);
  if (found == streams_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  const Id context = found->second->info.context;
  std::vector<CompletionPtr> pending;
  // The default stream stands for the blocking ones too: work in it would wait for them.
  if (found->second->info.is_default) pending = OrderBefore(*found->second);
  if (found->second->last != nullptr) pending.push_back(found->second->last);
  for (const CompletionPtr& completion : pending) {
    changed_.wait(lock, [&] { return closed_ || completion->done; });
  }
  return closed_ ? cuda_abi::CUDA_ERROR_DEINITIALIZED : ErrorLocked(context);
}

void Scheduler::WaitContext(Id context) {
  std::unique_lock lock(mutex_);
  std::vector<CompletionPtr> pending;
  for (const auto& [id, stream] : streams_) {
    if (stream->info.context == context && stream->last != nullptr) pending.push_back(stream->last);
  }
  for (const auto& stream : retired_) {
    if (stream->info.context == context && stream->last != nullptr) pending.push_back(stream->last);
  }
  for (const CompletionPtr& completion : pending) {
    changed_.wait(lock, [&] { return closed_ || completion->done; });
  }
}

bool Scheduler::IsDone(const CompletionPtr& completion) const {
  const std::lock_guard lock(mutex_);
  return completion == nullptr || completion->done;
}

bool Scheduler::IsIdle(Id id) const {
  const std::lock_guard lock(mutex_);
  const auto found = streams_.find(id);
  if (found == streams_.end()) return true;
  if (found->second->info.is_default && !OrderBefore(*found->second).empty()) return false;
  return found->second->pending.empty();
}

bool Scheduler::WaitAll(std::optional<Clock::time_point> deadline) {
  std::unique_lock lock(mutex_);
  const auto idle = [&] {
    if (closed_) return true;
    for (const auto& [id, stream] : streams_) {
      if (!stream->pending.empty()) return false;
    }
    for (const auto& stream : retired_) {
      if (!stream->pending.empty()) return false;
    }
    return true;
  };
  if (deadline) return changed_.wait_until(lock, *deadline, idle);
  changed_.wait(lock, idle);
  return true;
}

CUresult Scheduler::Error(Id context) const {
  const std::lock_guard lock(mutex_);
  return ErrorLocked(context);
}

CUresult Scheduler::ErrorLocked(Id context) const {
  const auto found = errors_.find(context);
  return found == errors_.end() ? cuda_abi::CUDA_SUCCESS : found->second;
}

void Scheduler::SetError(Id context, CUresult error) {
  const std::lock_guard lock(mutex_);
  errors_.emplace(context, error);
}

void Scheduler::ClearError(Id context) {
  const std::lock_guard lock(mutex_);
  errors_.erase(context);
}

// In the stream's worker: the client acts, we stand still.
CUresult Scheduler::RunTurn(Id turn, const request::ServiceWait::Reply* service) {
  std::unique_lock lock(mutex_);
  turns_[turn] = false;
  if (service != nullptr) service_.push_back(*service);
  changed_.notify_all();
  changed_.wait(lock, [&] { return closed_ || turns_[turn]; });
  turns_.erase(turn);
  changed_.notify_all();
  return closed_ ? cuda_abi::CUDA_ERROR_DEINITIALIZED : cuda_abi::CUDA_SUCCESS;
}

CUresult Scheduler::TakeTurn(Id stream, Id turn) {
  const CompletionPtr completion = Add(stream, [this, turn] { return RunTurn(turn, nullptr); });
  if (completion == nullptr) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return closed_ || completion->done || turns_.contains(turn); });
  if (closed_) return cuda_abi::CUDA_ERROR_DEINITIALIZED;
  return completion->done ? completion->result : cuda_abi::CUDA_SUCCESS;
}

CUresult Scheduler::AddService(Id stream, const request::ServiceWait::Reply& item) {
  return Add(stream, [this, item] { return RunTurn(item.turn, &item); }) == nullptr
             ? cuda_abi::CUDA_ERROR_INVALID_HANDLE
             : cuda_abi::CUDA_SUCCESS;
}

bool Scheduler::FinishTurn(Id turn) {
  const std::lock_guard lock(mutex_);
  const auto found = turns_.find(turn);
  if (found == turns_.end()) return false;
  found->second = true;
  changed_.notify_all();
  return true;
}

request::ServiceWait::Reply Scheduler::NextService() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return closed_ || park_service_ || !service_.empty(); });
  if (!closed_ && !service_.empty()) {
    const request::ServiceWait::Reply item = service_.front();
    service_.pop_front();
    return item;
  }
  park_service_ = false;
  return {};
}

void Scheduler::ParkService() {
  const std::lock_guard lock(mutex_);
  park_service_ = true;
  changed_.notify_all();
}

void Scheduler::Close() {
  std::vector<std::shared_ptr<Stream>> all;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    for (auto& [id, stream] : streams_) all.push_back(stream);
    all.insert(all.end(), retired_.begin(), retired_.end());
    streams_.clear();
    retired_.clear();
    changed_.notify_all();
  }
  for (const auto& stream : all) {
    if (stream->worker.joinable()) stream->worker.join();
  }
}

bool Scheduler::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

}  // namespace softgpu
