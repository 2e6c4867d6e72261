// Runs the work of a session's streams, as a device does: in order within a stream, at the same time across streams,
// but a context's default stream and its blocking streams wait for each other.
//
// Every stream has a worker thread from its first work on. Work that fails poisons its context: what comes later in
// that context is dropped with the same result, until ClearError().
//
// Some work is a turn: the stream stands still while the client does something itself (copies its bulk bytes, runs a
// host function), until FinishTurn().
//
// Thread safety: any number of threads at once. Every wait ends when Close() is called.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "plugins/cuda_abi/cuda_abi.h"
#include "plugins/softgpu/wire/protocol.h"

namespace softgpu {

// Guarded by the scheduler.
struct Completion {
  bool done = false;
  cuda_abi::CUresult result = cuda_abi::CUDA_SUCCESS;
  std::chrono::steady_clock::time_point finished_at{};
};
using CompletionPtr = std::shared_ptr<Completion>;  // Shared by the stream, later work that waits for it, and events.

class Scheduler {
 public:
  using Work = std::function<cuda_abi::CUresult()>;
  using Clock = std::chrono::steady_clock;

  static constexpr std::size_t kMaxStreams = 1024;
  static constexpr std::size_t kMaxPending = 65536;  // Per stream; whoever adds more waits.

  ~Scheduler();

  struct StreamInfo {
    Id context = 0;
    std::uint32_t flags = 0;
    std::int32_t priority = 0;
    bool is_default = false;
  };

  // REQUIRES: no stream `id`. OUT_OF_MEMORY: kMaxStreams are there.
  cuda_abi::CUresult AddStream(Id id, const StreamInfo& info);
  // What is pending in it still runs. False: no such stream.
  bool RemoveStream(Id id);
  std::optional<StreamInfo> FindStream(Id id) const;
  std::map<Id, StreamInfo> Streams() const;

  // Runs `work` when all of `stream` before it and all of `after` is done. Null: no such stream, closed, or no thread
  // to be had.
  CompletionPtr Add(Id stream, Work work, std::vector<CompletionPtr> after = {});
  cuda_abi::CUresult Wait(const CompletionPtr& completion);
  cuda_abi::CUresult WaitStream(Id stream);
  void WaitContext(Id context);
  bool IsDone(const CompletionPtr& completion) const;
  bool IsIdle(Id stream) const;
  // False: not all was done in time.
  bool WaitAll(std::optional<Clock::time_point> deadline);

  // SUCCESS, or why the context is poisoned.
  cuda_abi::CUresult Error(Id context) const;
  void SetError(Id context, cuda_abi::CUresult error);
  void ClearError(Id context);

  // Adds a turn and waits until it has come.
  cuda_abi::CUresult TakeTurn(Id stream, Id turn);
  // Adds work for the client's service thread; `item` is what NextService() gives it.
  cuda_abi::CUresult AddService(Id stream, const request::ServiceWait::Reply& item);
  // False: no such turn is on.
  bool FinishTurn(Id turn);
  // Waits for work for the service thread, or for ParkService().
  request::ServiceWait::Reply NextService();
  void ParkService();

  // Ends all waits; running work is waited for, so have it end first. Later calls fail.
  void Close();
  bool closed() const;

 private:
  struct Item {
    Id context = 0;
    Work work;
    std::vector<CompletionPtr> after;
    CompletionPtr completion;
  };
  struct Stream {
    StreamInfo info;
    std::deque<Item> pending;
    CompletionPtr last;
    bool retired = false;
    bool finished = false;  // The worker has left.
    std::thread worker;
  };

  bool EnsureWorker(Stream& stream);
  void Run(Stream& stream);
  void RunOne(Stream& stream, std::unique_lock<std::mutex>& lock);
  std::vector<CompletionPtr> OrderBefore(const Stream& stream) const;
  CompletionPtr AddLocked(std::unique_lock<std::mutex>& lock, Id stream, Work work, std::vector<CompletionPtr> after);
  cuda_abi::CUresult RunTurn(Id turn, const request::ServiceWait::Reply* service);
  cuda_abi::CUresult ErrorLocked(Id context) const;
  void ReapRetired();

  mutable std::mutex mutex_;  // Guards all below.
  std::condition_variable changed_;
  std::map<Id, std::shared_ptr<Stream>> streams_;  // Shared with the list of retired ones only.
  std::list<std::shared_ptr<Stream>> retired_;
  std::map<Id, cuda_abi::CUresult> errors_;
  std::map<Id, bool> turns_;  // On; true: finished.
  std::deque<request::ServiceWait::Reply> service_;
  bool park_service_ = false;
  bool closed_ = false;
};

}  // namespace softgpu
