#include "core/session/migration_source.h"

#include <algorithm>
#include <utility>

namespace gpumig {
namespace {

namespace ev = source_event;

// Sending the same again this often without the target having more of it means that something corrupts what is sent.
constexpr int kShippedInVainLimit = 3;

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::milliseconds;

ErrorCode CodeOf(Reason reason) {
  switch (reason) {
    case Reason::kOperator:
      return ErrorCode::kCancelled;
    case Reason::kDeadline:
      return ErrorCode::kDeadlineExceeded;
    case Reason::kPeerRefused:
    case Reason::kRestarted:
      return ErrorCode::kFailedPrecondition;
    case Reason::kJournalFailed:
      return ErrorCode::kIo;
    default:
      return ErrorCode::kInternal;
  }
}

}  // namespace

std::string_view Name(Ending ending) {
  switch (ending) {
    case Ending::kMoved:
      return "moved";
    case Ending::kRunsHere:
      return "runs here";
    case Ending::kFrozenHere:
      return "frozen here";
    case Ending::kInDoubt:
      return "in doubt";
    case Ending::kLost:
      return "lost";
  }
  return "?";
}

MigrationSource::MigrationSource(Binding binding, const Ports& ports, const SourceLimits& limits)
    : ports_(ports), limits_(limits) {
  state_ = RecoverSource(binding, ports.journal.records());
  farewells_left_ = limits.farewell_tries;
  undo_left_ = limits.undo_tries;
  pause_ = limits.first_pause;
}

MigrationOutcome MigrationSource::Run() {
  began_ = stopped_at_ = ports_.clock.Now();
  deadline_ = began_ + limits_.max_downtime;
  // Who asks for a new attempt has just seen it run.
  if (state_.stage == Stage::kAborted && state_.settled) state_.copy = CopyState::kLive;
  const std::uint32_t attempts_before = state_.attempt;
  SetPhase(MigrationPhase::kCapturing);
  Feed(ev::BeginAttempt{});
  if (state_.attempt == attempts_before) {
    SetPhase(MigrationPhase::kEnded);
    outcome_.attempt = attempts_before;
    outcome_.error = journal_error_;
    if (!journal_error_) {
      outcome_.error = MakeError(ErrorCode::kFailedPrecondition, "attempt {} cannot begin: the last one is at {}",
                                 attempts_before + 1, Name(state_.stage));
    }
    return std::move(outcome_);
  }
  Drive();
  return Outcome();
}

MigrationOutcome MigrationSource::Recover() {
  began_ = stopped_at_ = ports_.clock.Now();
  deadline_ = began_ + limits_.max_downtime;
  if (state_.stage == Stage::kReleased) released_at_ = began_;
  if (state_.settled) farewells_left_ = 1;  // it has ended; one more word to the target at most
  Result<CopyState> copy = ports_.workload.Look();
  if (!copy) {
    halted_ = true;
    undo_error_ = copy.error().AddContext("look at what is left of the workload");
    return Outcome();
  }
  Feed(ev::Restarted{*copy});
  Drive();
  return Outcome();
}

void MigrationSource::Abort() { abort_.request_stop(); }

void MigrationSource::Stop() {
  stop_.request_stop();
  abort_.request_stop();
}

// ---- the loop

void MigrationSource::Drive() {
  while (true) {
    FeedAll();
    if (Ended()) break;
    Pause();
    if (Ended()) break;
    WatchClock();
    if (inbox_.empty()) Feed(ev::Tick{});
  }
  inbox_.clear();
}

void MigrationSource::FeedAll() {
  while (!inbox_.empty() && !Ended()) {
    WatchClock();
    if (inbox_.empty()) return;
    const SourceEvent event = std::move(inbox_.front());
    inbox_.pop_front();
    Feed(event);
  }
}

// What comes from outside: the deadline, the operator, an alarm that is due.
void MigrationSource::WatchClock() {
  const Clock::TimePoint now = ports_.clock.Now();
  if (abort_.stop_requested() && !abort_fed_ && !stop_.stop_requested()) {
    abort_fed_ = true;
    Feed(ev::OperatorAbort{});
  }
  if (state_.stage == Stage::kSealed && now >= deadline_) Feed(ev::Deadline{});
  if (state_.stage == Stage::kReleased && released_at_ && !alarmed_ && now >= *released_at_ + limits_.alarm_after) {
    alarmed_ = true;
    SetPhase(MigrationPhase::kInDoubt);
    ports_.observer.OnAlarm(
        "the workload was released and the target has not said that it runs; it stays frozen here, whole, and the "
        "target is "
        "asked on");
  }
}

void MigrationSource::Feed(SourceEvent event) {
  const SourceStep step = Step(state_, event);
  if (!step.alarm.empty()) ports_.observer.OnAlarm(step.alarm);
  if (step.record && !WriteRecord(step)) return;
  const SourceState before = std::exchange(state_, step.state);
  NoteProgress(before);
  NoteAnswer(before, event);
  for (const Message& message : step.messages) Send(message);
  for (const SourceAction action : step.actions) Perform(action, step.image);
}

// False: it could not be made durable, and what that means has been done instead.
bool MigrationSource::WriteRecord(const SourceStep& step) {
  const Result<void> written = ports_.journal.Append(*step.record);
  if (written) {
    ports_.observer.OnRecord(*step.record);
    return true;
  }
  journal_error_ = written.error();
  Feed(ev::JournalFailed{*step.record});
  return false;
}

void MigrationSource::Send(const Message& message) {
  const bool is_farewell = message.kind() == MessageKind::kAbort || message.kind() == MessageKind::kDone;
  if (is_farewell && farewells_left_ > 0) --farewells_left_;
  const Result<Message> answer =
      ports_.peer.Exchange(message, LimitOf(is_farewell ? limits_.farewell_within : limits_.answer_within));
  if (!answer) {
    peer_error_ = answer.error();
    return;
  }
  peer_error_.reset();
  inbox_.push_back(ev::Received{*answer});
}

// Its result is the next event, before any answer that waits.
void MigrationSource::Perform(SourceAction action, const ImageStatus& image) {
  switch (action) {
    case SourceAction::kCapture:
      return Capture();
    case SourceAction::kShip:
      return Ship(image);
    case SourceAction::kResume:
      return Resume();
    case SourceAction::kDestroy:
      return Destroy();
    case SourceAction::kStop:
      halted_ = true;
      return;
  }
}

void MigrationSource::Capture() {
  SetPhase(MigrationPhase::kCapturing);
  const Result<SealedCapture> sealed = ports_.workload.Capture(state_.attempt, {deadline_, abort_.get_token()});
  // While memory was copied ahead it ran; what counts is its standstill.
  stopped_at_ = ports_.workload.StoppedAt().value_or(ports_.clock.Now());
  if (sealed) deadline_ = stopped_at_ + limits_.max_downtime;
  WatchClock();
  if (!sealed) {
    work_error_ = sealed.error();
    inbox_.push_front(ev::CaptureFailed{sealed.error().message()});
    return;
  }
  captured_at_ = ports_.clock.Now();
  outcome_.parts = sealed->parts;
  for (const TimedPart& part : sealed->parts) ports_.observer.OnPart(part);
  inbox_.push_front(ev::CaptureSealed{sealed->manifest, sealed->copy});
}

// A cut is no failure: the next OFFER tells what is lacking then, until the deadline.
void MigrationSource::Ship(const ImageStatus& image) {
  SetPhase(MigrationPhase::kSending);
  const Clock::TimePoint began = ports_.clock.Now();
  const Result<void> shipped = ports_.shipper.Ship(state_.manifest, image, {deadline_, abort_.get_token()});
  send_time_ += ports_.clock.Now() - began;
  if (shipped) {
    shipped_in_vain_ = image == last_shipped_ ? shipped_in_vain_ + 1 : 0;
    last_shipped_ = image;
    if (shipped_in_vain_ == 0) pause_ = milliseconds(0);
    if (shipped_in_vain_ < kShippedInVainLimit) return;
    work_error_ = MakeError(ErrorCode::kDamaged,
                            "the target lacks what was sent to it {} times: the link, or memory or disk of "
                            "one of the nodes, corrupts it",
                            kShippedInVainLimit + 1);
    inbox_.push_front(ev::ShipFailed{work_error_->message()});
    return;
  }
  switch (shipped.error().code()) {
    case ErrorCode::kUnavailable:
      peer_error_ = shipped.error();
      return;
    case ErrorCode::kDeadlineExceeded:
    case ErrorCode::kCancelled:
      if (abort_.stop_requested() || ports_.clock.Now() >= deadline_) return;
      [[fallthrough]];
    default:
      work_error_ = shipped.error();
      inbox_.push_front(ev::ShipFailed{shipped.error().message()});
  }
}

void MigrationSource::Resume() {
  SetPhase(MigrationPhase::kResuming);
  const Clock::TimePoint began = ports_.clock.Now();
  const Result<void> resumed = ports_.workload.Resume();
  if (!resumed) {
    undo_error_ = resumed.error();
    undo_left_ = undo_error_->code() == ErrorCode::kLost ? 0 : undo_left_ - 1;
    return;
  }
  undo_error_.reset();
  undo_left_ = limits_.undo_tries;
  AddPart("resume", ports_.clock.Now() - began);
  outcome_.downtime = duration_cast<microseconds>(ports_.clock.Now() - stopped_at_);
  inbox_.push_front(ev::Resumed{});
}

void MigrationSource::Destroy() {
  SetPhase(MigrationPhase::kCleaning);
  const Result<void> destroyed = ports_.workload.Destroy();
  if (!destroyed) {
    undo_error_ = destroyed.error();
    --undo_left_;
    return;
  }
  undo_error_.reset();
  inbox_.push_front(ev::Destroyed{});
}

// ---- time

// Before the next Tick, which says again what is to be said. After a cut and in RELEASED ever longer.
void MigrationSource::Pause() {
  const bool polls = state_.stage == Stage::kSealed && !peer_error_;
  if (polls) {
    const bool sent_just_now = pause_ == milliseconds(0);
    pause_ = limits_.first_pause;
    if (sent_just_now) return;
  }
  Clock::TimePoint until = ports_.clock.Now() + (polls ? limits_.poll_every : pause_);
  if (!polls) pause_ = std::min(2 * std::max(pause_, limits_.first_pause), limits_.longest_pause);
  if (state_.stage == Stage::kSealed) until = std::min(until, deadline_);
  if (state_.stage == Stage::kReleased && !alarmed_ && released_at_)
    until = std::min(until, *released_at_ + limits_.alarm_after);
  ports_.clock.WaitUntil(until, abort_fed_ ? stop_.get_token() : abort_.get_token());
}

bool MigrationSource::MayStillUndo() const { return state_.stage == Stage::kDump || state_.stage == Stage::kSealed; }

CallLimit MigrationSource::LimitOf(milliseconds at_most) const {
  const Clock::TimePoint until = ports_.clock.Now() + at_most;
  if (MayStillUndo()) return {std::min(until, deadline_), abort_.get_token()};
  return {until, stop_.get_token()};
}

bool MigrationSource::Ended() const {
  if (halted_) return true;
  // What is to be resumed is resumed also when the agent goes down.
  const bool resuming = state_.stage == Stage::kAborted && !state_.settled && !state_.journal_broken && undo_left_ > 0;
  const bool capturing = state_.stage == Stage::kDump;
  if (stop_.stop_requested() && !resuming && !capturing) return true;
  const bool told = state_.target_knows || state_.manifest.IsNone() || farewells_left_ == 0;
  switch (state_.stage) {
    case Stage::kAborted:
      return undo_left_ <= 0 ||
             (state_.copy == CopyState::kLive && (state_.settled || state_.journal_broken) && told) ||
             (state_.settled && told);
    case Stage::kDone:
      return (state_.settled || undo_left_ <= 0) && told;
    default:
      return false;
  }
}

// ---- the report

void MigrationSource::NoteProgress(const SourceState& before) {
  const Clock::TimePoint now = ports_.clock.Now();
  if (state_.stage == before.stage) return;
  pause_ = limits_.first_pause;
  peer_error_.reset();
  farewells_left_ = limits_.farewell_tries;
  undo_left_ = limits_.undo_tries;
  if (state_.stage == Stage::kSealed) {
    SetPhase(MigrationPhase::kSending);
    if (captured_at_) AddPart("seal", now - *captured_at_);
  }
  if (state_.stage == Stage::kReleased) {
    AddPart("send", send_time_);
    if (prepare_began_) AddPart("prepare", now - *prepare_began_);
    released_at_ = now;
    SetPhase(MigrationPhase::kCommitting);
  }
  if (state_.stage == Stage::kDone && released_at_) {
    AddPart("commit", now - *released_at_);
    outcome_.downtime = duration_cast<microseconds>(now - stopped_at_);
  }
}

// What the target tells of its work, for the report.
void MigrationSource::NoteAnswer(const SourceState& before, const SourceEvent& event) {
  const auto* received = std::get_if<ev::Received>(&event);
  if (received == nullptr) return;
  const auto keep = [&](const std::vector<TimedPart>& parts) {
    outcome_.target_parts.insert(outcome_.target_parts.end(), parts.begin(), parts.end());
  };
  const MessageBody& body = received->message.body;
  if (const auto* have = std::get_if<Have>(&body)) {
    if (state_.stage != Stage::kSealed || have->progress != Have::Progress::kPreparing || prepare_began_) return;
    prepare_began_ = ports_.clock.Now();
    SetPhase(MigrationPhase::kPreparing);
  }
  if (state_.stage == before.stage) return;
  if (const auto* prepared = std::get_if<Prepared>(&body)) keep(prepared->parts);
  if (const auto* running = std::get_if<Running>(&body)) {
    keep(running->parts);
    outcome_.detail = running->detail;
  }
}

void MigrationSource::SetPhase(MigrationPhase phase) {
  if (phase_ == phase) return;
  phase_ = phase;
  ports_.observer.OnPhase(phase);
}

void MigrationSource::AddPart(std::string name, std::chrono::steady_clock::duration duration) {
  outcome_.parts.push_back({std::move(name), duration_cast<microseconds>(duration)});
  ports_.observer.OnPart(outcome_.parts.back());
}

// Why it was taken back, with the error's own code and next step where one was seen.
Error MigrationSource::WhyHere() const {
  const Cause& cause = state_.cause;
  const bool by_work = cause.reason == Reason::kCaptureFailed || cause.reason == Reason::kShipFailed;
  if (by_work && work_error_) return *work_error_;
  if (cause.reason == Reason::kJournalFailed && journal_error_) return *journal_error_;
  Error error(CodeOf(cause.reason), fmt::format("{}: {}", Name(cause.reason), cause.text));
  if (cause.reason == Reason::kDeadline) {
    error = MakeError(ErrorCode::kDeadlineExceeded, "the target was not ready within {} ms of standstill{}",
                      limits_.max_downtime.count(), peer_error_ ? ": " + peer_error_->message() : "");
  }
  return error;
}

MigrationOutcome MigrationSource::Outcome() {
  SetPhase(MigrationPhase::kEnded);
  MigrationOutcome outcome = std::move(outcome_);
  outcome.attempt = state_.attempt;
  switch (state_.stage) {
    case Stage::kDone:
      outcome.ending = Ending::kMoved;
      if (!state_.settled && state_.copy != CopyState::kGone) {
        outcome.error = undo_error_ ? *undo_error_
                        : journal_error_
                            ? *journal_error_
                            : Error(ErrorCode::kCancelled, "the agent stopped before the copy here was removed");
        outcome.error->AddContext("the workload runs at the target; remove the stopped copy here");
      }
      return outcome;
    case Stage::kAborted:
      if (state_.copy == CopyState::kLive || state_.settled) {
        outcome.ending = Ending::kRunsHere;
        if (state_.attempt > 0) outcome.error = WhyHere();
        return outcome;
      }
      outcome.ending = undo_error_ && undo_error_->code() == ErrorCode::kLost ? Ending::kLost : Ending::kFrozenHere;
      outcome.error = undo_error_ ? *undo_error_ : WhyHere();
      outcome.error->AddContext("resume the workload");
      if (outcome.error->next_step().empty()) {
        outcome.error->WithNextStep(
            "it stands still here, and runs nowhere else; start the agent again, and it is tried again");
      }
      return outcome;
    case Stage::kReleased:
      return InDoubtOutcome(std::move(outcome));
    default:
      if (journal_error_ || undo_error_) return InDoubtOutcome(std::move(outcome));
      outcome.ending = Ending::kFrozenHere;
      outcome.error = MakeError(ErrorCode::kCancelled, "the agent stopped at {}", Name(state_.stage))
                          .WithNextStep("start the agent again: it goes on, or takes the workload back");
      return outcome;
  }
}

MigrationOutcome MigrationSource::InDoubtOutcome(MigrationOutcome outcome) {
  outcome.ending = Ending::kInDoubt;
  if (journal_error_) {
    outcome.error = *journal_error_;
  } else if (undo_error_) {
    outcome.error = *undo_error_;
  } else if (state_.doubt != Doubt::kNone) {
    outcome.error =
        Error(ErrorCode::kFailedPrecondition, std::string(Describe(state_.doubt)))
            .WithNextStep("find out at the target whether the workload ran there; it stays frozen here, whole");
  } else {
    outcome.error =
        MakeError(ErrorCode::kUnavailable, "the workload was released to {}, which has not said that it runs{}",
                  state_.binding.target, peer_error_ ? ": " + peer_error_->message() : "")
            .WithNextStep("start the agent again: it asks on; the workload stays frozen here, whole");
  }
  return outcome;
}

}  // namespace gpumig
