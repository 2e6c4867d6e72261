#include "core/session/handoff_target.h"

#include <fmt/format.h>

#include <utility>

namespace gpumig {
namespace {

// Builds the step for one event.
class Stepper {
 public:
  explicit Stepper(const TargetState& state) : old_(state) { step_.state = state; }

  TargetStep Take() { return std::move(step_); }

  void operator()(const target_event::Received& received) {
    const Message& message = received.message;
    if (message.migration != old_.binding.migration) return Ignore("it is of another migration");
    if (message.from != old_.binding.source || message.to != old_.binding.target)
      return Ignore("it is between other nodes");
    if (message.attempt > kMaxAttempt || message.manifest.IsNone()) return Ignore("it names no attempt or no image");
    if (message.attempt < old_.attempt) return Ignore("it is of an earlier attempt");
    if (message.attempt > old_.attempt) return OnNewAttempt(received);
    if (message.manifest != old_.manifest) return Ignore("it is of another image");
    OnMessage(received);
  }

  void operator()(const target_event::Prepared& prepared) {
    if (!old_.preparing || prepared.attempt != old_.attempt) return Ignore("it was not asked for any more");
    step_.state.preparing = false;
    step_.state.copy = CopyState::kStopped;
    step_.state.prepare_parts = prepared.parts;
    if (old_.stage == Stage::kNone) return Enter(Stage::kPrep, {});
    if (old_.stage == Stage::kAct) Start();
  }

  void operator()(const target_event::PrepareFailed& failed) {
    if (!old_.preparing || failed.attempt != old_.attempt) return Ignore("it was not asked for any more");
    step_.state.preparing = false;
    step_.state.copy = CopyState::kGone;
    if (old_.stage == Stage::kAct) return CountFailure(failed.why);
    Refuse({Reason::kPrepareFailed, failed.why});
  }

  void operator()(const target_event::Started& started) {
    if (!old_.starting || old_.stage != Stage::kAct) return Ignore("it was not asked for any more");
    step_.state.starting = false;
    step_.state.copy = CopyState::kLive;
    step_.state.start_parts = started.parts;
    step_.state.detail = started.detail;
    Enter(Stage::kRun, {});
  }

  // What is left of the copy goes in the next kPrepare. The image stays whatever happens: it may be all there is.
  void operator()(const target_event::StartFailed& failed) {
    if (!old_.starting) return Ignore("it was not asked for any more");
    step_.state.starting = false;
    step_.state.copy = CopyState::kGone;
    CountFailure(failed.why);
  }

  void operator()(const target_event::Discarded&) {
    step_.state.discarding = false;
    step_.state.copy = CopyState::kGone;
    if (old_.stage != Stage::kRef || old_.settled || old_.journal_broken) return;
    step_.state.settled = true;
    WriteRecord();
  }

  void operator()(const target_event::DiscardFailed& failed) {
    step_.state.discarding = false;
    step_.alarm = fmt::format("what was prepared of a refused workload could not be removed: {}", failed.why);
  }

  void operator()(const target_event::Tick&) {
    if (old_.journal_broken || old_.preparing || old_.starting || old_.discarding) return;
    if (old_.stage == Stage::kPrep && old_.copy == CopyState::kGone) return Prepare();
    if (old_.stage == Stage::kAct) return old_.copy == CopyState::kGone ? Prepare() : Start();
    if (old_.stage == Stage::kRef && !old_.settled) return Discard();
  }

  void operator()(const target_event::Expired&) {
    if (MayRefuse()) Refuse({Reason::kExpired, "nothing came from the source any more"});
  }

  void operator()(const target_event::OperatorAbort&) {
    if (!MayRefuse()) return Ignore("it is decided already");
    Refuse({Reason::kOperator, "aborted at the target"});
  }

  void operator()(const target_event::JournalFailed&) {
    step_.state.journal_broken = true;
    step_.alarm = "a record of the journal could not be made durable";
    Perform(TargetAction::kStop);
  }

  void operator()(const target_event::Restarted& restarted) {
    step_.state.copy = restarted.copy;
    if (old_.attempt == 0) return;
    switch (old_.stage) {
      case Stage::kNone:
        if (restarted.copy != CopyState::kGone) Discard();
        return;
      case Stage::kPrep:
        if (restarted.copy == CopyState::kGone) return Prepare();
        if (restarted.copy == CopyState::kLive) {
          step_.alarm = "the prepared copy was found running without leave; it is ended";
          Refuse({Reason::kViolation, "the prepared copy ran without leave"});
        }
        return;
      case Stage::kAct:
        return restarted.copy == CopyState::kGone ? Prepare() : Start();
      case Stage::kRef:
        if (!old_.settled) Discard();
        return;
      default:
        return;  // from RUN on it is an ordinary workload of this node
    }
  }

 private:
  bool Owns() const { return old_.stage == Stage::kAct || old_.stage == Stage::kRun || old_.stage == Stage::kClosed; }
  bool MayRefuse() const {
    return old_.attempt > 0 && !old_.journal_broken && (old_.stage == Stage::kNone || old_.stage == Stage::kPrep);
  }

  // A later attempt voids an earlier one: the source took that back before it began this one.
  void OnNewAttempt(const target_event::Received& received) {
    const Message& message = received.message;
    // The journal was lost while the workload ran here: preparing or discarding would end it.
    const bool acts = message.kind() == MessageKind::kOffer || message.kind() == MessageKind::kAbort;
    if (old_.attempt == 0 && old_.copy == CopyState::kLive && acts) {
      step_.alarm = "a workload that this migration is to bring runs here already, and no journal says why";
      return Ignore("it runs here already");
    }
    if (Owns()) {
      step_.alarm = "the source began a new attempt at a workload that was handed over";
      return Ignore("the workload was handed over in an earlier attempt");
    }
    switch (message.kind()) {
      case MessageKind::kOffer:
        Begin(message);
        Enter(Stage::kNone, {});
        if (old_.attempt > 0 && !(old_.stage == Stage::kRef && old_.settled)) Discard();
        return AnswerOffer(received.image);
      case MessageKind::kAbort:
        Begin(message);
        return Refuse({Reason::kPeerAborted, std::get<Abort>(message.body).cause.text}), AnswerRefused();
      case MessageKind::kRelease:
      case MessageKind::kQuery:
        Reply(Unknown{});
        step_.reply->attempt = message.attempt;
        step_.reply->manifest = message.manifest;
        return;
      default:
        return Ignore("a target is not spoken to so");
    }
  }

  void Begin(const Message& message) {
    step_.state.attempt = message.attempt;
    step_.state.manifest = message.manifest;
    step_.state.preparing = false;
    step_.state.failure_count = 0;
    step_.state.prepare_parts.clear();
  }

  void OnMessage(const target_event::Received& received) {
    switch (received.message.kind()) {
      case MessageKind::kOffer:
        return old_.stage == Stage::kNone ? AnswerOffer(received.image) : AnswerStanding();
      case MessageKind::kRelease:
        return OnRelease(received.message);
      case MessageKind::kAbort:
        if (!MayRefuse()) return AnswerStanding();
        Refuse({Reason::kPeerAborted, std::get<Abort>(received.message.body).cause.text});
        return AnswerRefused();
      case MessageKind::kDone:
        return OnDone(received.message);
      case MessageKind::kQuery:
        return AnswerStanding();
      default:
        return Ignore("a target is not spoken to so");
    }
  }

  void OnRelease(const Message& message) {
    // A RELEASE answers the PREPARED of one journal. Where that is not ours, an earlier one was lost, and with it what
    // it had allowed: the workload may have run here already.
    if (message.target_journal != old_.journal || old_.stage == Stage::kNone) return Reply(Unknown{});
    if (old_.stage != Stage::kPrep) return AnswerStanding();
    step_.state.failure_count = 0;
    Enter(Stage::kAct, {});
    Reply(Have{Have::Progress::kStarting, {true, {}}});
    if (old_.preparing) return;  // goes on when that ends
    old_.copy == CopyState::kGone ? Prepare() : Start();
  }

  void OnDone(const Message& message) {
    if (message.target_journal != old_.journal) return Reply(Unknown{});
    if (old_.stage != Stage::kRun && old_.stage != Stage::kClosed) return AnswerStanding();
    if (old_.stage == Stage::kRun) Enter(Stage::kClosed, {});
    Reply(Done{});
  }

  void AnswerOffer(const ImageStatus& image) {
    if (step_.state.preparing) return Reply(Have{Have::Progress::kPreparing, {true, {}}});
    if (!image.complete || step_.state.discarding) return Reply(Have{Have::Progress::kReceiving, image});
    Reply(Have{Have::Progress::kPreparing, {true, {}}});
    Prepare();
  }

  // Says where it stands.
  void AnswerStanding() {
    switch (old_.stage) {
      case Stage::kPrep:
        if (old_.copy == CopyState::kStopped) return Reply(gpumig::Prepared{old_.prepare_parts});
        return Reply(Have{Have::Progress::kPreparing, {true, {}}});
      case Stage::kAct:
        return Reply(Have{Have::Progress::kStarting, {true, {}}});
      case Stage::kRun:
      case Stage::kClosed:
        return Reply(Running{old_.start_parts, old_.detail});
      case Stage::kRef:
        return AnswerRefused();
      default:
        return Reply(
            Have{old_.preparing ? Have::Progress::kPreparing : Have::Progress::kReceiving, {old_.preparing, {}}});
    }
  }

  // A copy that was found running without leave must end before the source may hear that it is refused.
  void AnswerRefused() {
    if (step_.state.copy == CopyState::kLive) return Reply(Have{Have::Progress::kReceiving, {true, {}}});
    Reply(Refused{step_.state.cause});
  }

  void Refuse(Cause cause) {
    step_.state.preparing = false;
    Enter(Stage::kRef, std::move(cause));
    Discard();
  }

  void CountFailure(const std::string& why) {
    step_.state.failure_count = old_.failure_count + 1;
    if (step_.state.failure_count < kFailuresBeforeAlarm) return;
    step_.alarm =
        fmt::format("the workload was handed over and could not be started in {} tries: {}; its image is kept",
                    step_.state.failure_count, why);
  }

  void Prepare() {
    step_.state.preparing = true;
    step_.actions.push_back(TargetAction::kPrepare);
  }
  void Start() {
    step_.state.starting = true;
    step_.actions.push_back(TargetAction::kStart);
  }
  // One is enough for all that came before it.
  void Discard() {
    if (old_.discarding) return;
    step_.state.discarding = true;
    step_.actions.push_back(TargetAction::kDiscard);
  }
  void Perform(TargetAction action) { step_.actions.push_back(action); }

  void Enter(Stage stage, Cause cause) {
    step_.state.stage = stage;
    step_.state.settled = false;
    step_.state.cause = std::move(cause);
    WriteRecord();
  }

  void WriteRecord() {
    const TargetState& state = step_.state;
    step_.record = StateRecord{state.stage, state.attempt, state.settled, state.manifest, {}, state.cause};
  }

  void Reply(MessageBody body) {
    const TargetState& state = step_.state;
    step_.reply = Message{state.binding.migration, state.attempt, state.binding.target, state.binding.source,
                          state.manifest,          state.journal, std::move(body),      {}};
  }

  void Ignore(std::string_view why) { step_.ignored = why; }

  const TargetState& old_;
  TargetStep step_;
};

}  // namespace

std::string_view Name(TargetAction action) {
  switch (action) {
    case TargetAction::kPrepare:
      return "prepare";
    case TargetAction::kStart:
      return "start";
    case TargetAction::kDiscard:
      return "discard";
    case TargetAction::kStop:
      return "stop";
  }
  return "?";
}

TargetStep Step(const TargetState& state, const TargetEvent& event) {
  Stepper stepper(state);
  std::visit(stepper, event);
  return stepper.Take();
}

TargetState RecoverTarget(const Binding& binding, const JournalId& journal, const std::vector<StateRecord>& records) {
  TargetState state;
  state.binding = binding;
  state.journal = journal;
  if (records.empty()) return state;
  const StateRecord& last = records.back();
  state.stage = last.stage;
  state.attempt = last.attempt;
  state.settled = last.settled;
  state.manifest = last.manifest;
  state.cause = last.cause;
  return state;
}

Message AnswerUnknown(const Message& message) {
  return {message.migration, message.attempt, message.to, message.from, message.manifest, {}, Unknown{}, {}};
}

}  // namespace gpumig
