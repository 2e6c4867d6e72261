// Runs the target's side of one migration: answers the source's messages at once, and does the long work on a thread of
// its own.
//
// What is decided is decided in handoff_target.h; here it is only carried out. An agent keeps one of these for each
// journal it finds or makes, also for refused ones: their records are what keeps a late message from reviving them.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "core/session/handoff_target.h"
#include "core/session/ports.h"

namespace gpumig {

struct TargetLimits {
  std::chrono::milliseconds time_to_live{
      15 * 60'000};  // without a word from the source, until ACTIVE; well above its downtime
  std::chrono::milliseconds first_pause{1'000};  // before what failed is tried again; doubles
  std::chrono::milliseconds longest_pause{60'000};
  std::chrono::milliseconds answer_after{500};  // RELEASE is answered when it runs, but no later than this
};

// Ownership: borrows the ports, which must outlive it. Destroying it stops its thread and leaves copy and journal as
// they are. Thread safety: all calls from any thread.
class MigrationTarget {
 public:
  struct Ports {
    TargetWorkload& workload;
    Clock& clock;
    StateJournal& journal;
    MigrationObserver& observer;  // called from the worker and from callers of Handle()
  };

  // From an empty journal, or after a restart from what it holds: goes on with what was begun, or undoes it.
  // Errors: what the workload's copy does cannot be seen.
  static Result<std::unique_ptr<MigrationTarget>> Start(Binding binding, const Ports& ports,
                                                        const TargetLimits& limits = {});
  ~MigrationTarget();
  MigrationTarget(const MigrationTarget&) = delete;
  MigrationTarget& operator=(const MigrationTarget&) = delete;

  // The answer. Quick, save for one fdatasync and at most `answer_after`.
  // Errors: kFailedPrecondition, it was not acted upon, and why; others: the journal or Missing() failed.
  Result<Message> Handle(const Message& message);

  // Some of the image arrived: that counts as a word from the source.
  void NoteArrival();

  // Refuses it, if that is still possible. Errors: kFailedPrecondition, it is decided already.
  Result<void> Abort();

  TargetState state() const;
  // The error that the journal gave, after which this object does nothing more until the agent is started again.
  std::optional<Error> journal_error() const;

 private:
  // What to tell the observer once no lock is held.
  struct News {
    std::optional<StateRecord> record;
    std::string alarm;
  };
  struct Work {
    TargetAction action;
    std::uint32_t attempt;
    ManifestDigest manifest;
  };

  MigrationTarget(Binding binding, const Ports& ports, const TargetLimits& limits);
  TargetStep Apply(const TargetEvent& event, std::vector<News>& news);
  void Queue(const TargetStep& step);
  void Tell(const std::vector<News>& news);
  void WorkUntilStopped();
  void WaitForWork();
  void PassTime(std::vector<News>& news);
  std::optional<TargetEvent> Do(const Work& work);
  std::optional<TargetEvent> Prepare(const Work& work);
  TargetEvent StartCopy();
  TargetEvent Discard();
  bool HasWorkLeft() const;
  bool MayExpire() const;

  const Ports ports_;
  const TargetLimits limits_;

  // Makes decisions one at a time. Held over the journal's write and nothing else that waits: that the record is
  // durable before the next decision is what it is for.
  mutable std::mutex mutex_;
  std::condition_variable changed_;     // the stage
  TargetState state_;                   // guarded by mutex_
  std::optional<Error> journal_error_;  // guarded by mutex_
  std::deque<Work> work_;               // guarded by mutex_
  std::stop_source wake_;               // guarded by mutex_; ends the worker's waiting
  std::stop_source prepare_;            // guarded by mutex_; ends the preparation under way
  Clock::TimePoint last_heard_;         // guarded by mutex_
  Clock::TimePoint try_again_at_;       // guarded by mutex_
  std::chrono::milliseconds pause_;     // guarded by mutex_
  bool stopping_ = false;               // guarded by mutex_
  std::thread worker_;
};

}  // namespace gpumig
