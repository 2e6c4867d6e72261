// Runs the source's side of one migration to its end: capture, offer, send, release, clean up; or everything back.
//
// Whatever fails before RELEASED, the workload runs on here. From RELEASED on it asks the target, for ever, and stays
// frozen and whole meanwhile. What is decided is decided in handoff_source.h; here it is only carried out.
#pragma once

#include <chrono>
#include <deque>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "core/session/handoff_source.h"
#include "core/session/ports.h"

namespace gpumig {

struct SourceLimits {
  std::chrono::milliseconds max_downtime{60'000};   // from the capture's begin to RELEASED, else it is taken back
  std::chrono::milliseconds answer_within{10'000};  // one message and its answer
  std::chrono::milliseconds poll_every{20};         // OFFER, while the target prepares
  std::chrono::milliseconds first_pause{100};       // between two RELEASEs and after a cut; doubles
  std::chrono::milliseconds longest_pause{5'000};
  std::chrono::milliseconds alarm_after{30'000};  // in RELEASED without an answer that decides
  int farewell_tries = 3;                         // ABORT and DONE, which nothing hangs on
  std::chrono::milliseconds farewell_within{2'000};
  int undo_tries = 5;  // Resume() and Destroy()
};

enum class Ending {
  kMoved,       // it runs at the target, the source's copy is gone (or `error` says what is left of it)
  kRunsHere,    // it runs here as before; `error` says why
  kFrozenHere,  // it stands still here, whole; `error` says what to do
  kInDoubt,     // it stands still here, and may run at the target; `error` says what to do
  kLost,        // it could not be brought back; `error` says what is left
};
std::string_view Name(Ending ending);

struct MigrationOutcome {
  Ending ending = Ending::kRunsHere;
  std::optional<Error> error;  // empty only for kMoved, and for kRunsHere where nothing was asked
  std::uint32_t attempt = 0;
  std::chrono::microseconds downtime{0};  // as seen from here: from its stop to RUNNING, or to its being resumed
  std::vector<TimedPart> parts;           // the capture's, then send, prepare, commit (or resume)
  std::vector<TimedPart> target_parts;    // as the target tells: within prepare and commit
  std::string detail;                     // from TargetWorkload::Start()
};

// Ownership: borrows the ports, which must outlive it. Destroying one that does not run changes nothing: the journal
// has all. Thread safety: Run() or Recover() once, from one thread; Abort() and Stop() from any at any time.
class MigrationSource {
 public:
  struct Ports {
    SourceWorkload& workload;
    Peer& peer;
    ImageShipper& shipper;
    Clock& clock;
    StateJournal& journal;
    MigrationObserver& observer;
  };

  MigrationSource(Binding binding, const Ports& ports, const SourceLimits& limits = {});

  // A new attempt, from a journal that is empty or whose last attempt was taken back and resumed. Blocks until the end.
  MigrationOutcome Run();

  // After a restart of the agent: goes on with what the journal says was begun, or undoes it. A journal whose migration
  // has ended gives its ending and does nothing. Blocks until the end. A SEALED that is found has all its max_downtime
  // again.
  MigrationOutcome Recover();

  // Takes it back if that is still possible, asks the target to refuse if not. The outcome tells which.
  void Abort();

  // Ends soon, at whatever state it is in: the agent goes down. A capture under way is undone; all else is left as it
  // is for Recover().
  void Stop();

 private:
  void Drive();
  void FeedAll();
  void Feed(SourceEvent event);
  bool WriteRecord(const SourceStep& step);
  void Send(const Message& message);
  void Perform(SourceAction action, const ImageStatus& image);
  void Capture();
  void Ship(const ImageStatus& image);
  void Resume();
  void Destroy();
  void WatchClock();
  void Pause();
  bool Ended() const;
  void NoteProgress(const SourceState& before);
  void NoteAnswer(const SourceState& before, const SourceEvent& event);
  MigrationOutcome Outcome();
  MigrationOutcome InDoubtOutcome(MigrationOutcome outcome);
  Error WhyHere() const;

  CallLimit LimitOf(std::chrono::milliseconds at_most) const;
  bool MayStillUndo() const;
  void SetPhase(MigrationPhase phase);
  void AddPart(std::string name, std::chrono::steady_clock::duration duration);

  Ports ports_;
  SourceLimits limits_;
  SourceState state_;
  std::deque<SourceEvent> inbox_;

  std::stop_source abort_;  // Abort() and Stop(): ends what can still be undone
  std::stop_source stop_;   // Stop(): ends all waiting
  bool abort_fed_ = false;

  std::optional<MigrationPhase> phase_;
  Clock::TimePoint began_{};
  Clock::TimePoint stopped_at_{};
  std::optional<Clock::TimePoint> captured_at_;
  Clock::TimePoint deadline_{};
  std::optional<Clock::TimePoint> prepare_began_;
  std::optional<Clock::TimePoint> released_at_;
  std::chrono::steady_clock::duration send_time_{0};
  ImageStatus last_shipped_;
  int shipped_in_vain_ = 0;
  std::chrono::milliseconds pause_{0};
  bool alarmed_ = false;
  bool halted_ = false;  // the core said kStop
  int farewells_left_ = 0;
  int undo_left_ = 0;
  std::optional<Error> journal_error_;
  std::optional<Error> undo_error_;
  std::optional<Error> work_error_;  // of capture or sending, with its code and next step
  std::optional<Error> peer_error_;  // the last one
  MigrationOutcome outcome_;
};

}  // namespace gpumig
