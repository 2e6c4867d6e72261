#include "core/session/handoff_source.h"

#include <fmt/format.h>

#include <utility>

namespace gpumig {
namespace {

// Builds the step for one event.
class Stepper {
 public:
  explicit Stepper(const SourceState& state) : old_(state) { step_.state = state; }

  SourceStep Take() { return std::move(step_); }

  void operator()(const source_event::BeginAttempt&) {
    const bool may_begin = old_.stage == Stage::kAborted && old_.settled && old_.copy == CopyState::kLive &&
                           !old_.journal_broken && old_.attempt < kMaxAttempt;
    if (!may_begin) return Ignore("an attempt can begin only while the workload runs here");
    step_.state.attempt = old_.attempt + 1;
    step_.state.copy = CopyState::kStopped;  // as far as we know until it is resumed
    step_.state.manifest = {};
    step_.state.target_journal = {};
    step_.state.abort_asked = false;
    step_.state.target_knows = false;
    step_.state.doubt = Doubt::kNone;
    Enter(Stage::kDump, {});
    Perform(SourceAction::kCapture);
  }

  void operator()(const source_event::CaptureSealed& sealed) {
    if (old_.stage != Stage::kDump) return Ignore("no capture is under way");
    step_.state.copy = sealed.copy;
    if (old_.abort_asked) return TakeBack({Reason::kOperator, "aborted during the capture"});
    if (sealed.copy != CopyState::kStopped) {
      return TakeBack({Reason::kCaptureFailed, fmt::format("it was {} after its image was sealed", Name(sealed.copy))});
    }
    step_.state.manifest = sealed.manifest;
    Enter(Stage::kSealed, {});
    Send(Offer{});
  }

  void operator()(const source_event::CaptureFailed& failed) {
    if (old_.stage != Stage::kDump) return Ignore("no capture is under way");
    TakeBack({old_.abort_asked ? Reason::kOperator : Reason::kCaptureFailed, failed.why});
  }

  void operator()(const source_event::ShipFailed& failed) {
    if (old_.stage == Stage::kSealed) TakeBack({Reason::kShipFailed, failed.why});
  }

  void operator()(const source_event::Resumed&) {
    if (old_.stage != Stage::kAborted) return Ignore("nothing was to be resumed");
    step_.state.copy = CopyState::kLive;
    if (!old_.settled && !old_.journal_broken) Settle();
    if (!old_.target_knows && !old_.manifest.IsNone()) Send(Abort{old_.cause});
  }

  void operator()(const source_event::Destroyed&) {
    if (old_.stage != Stage::kDone) return Ignore("nothing was to be destroyed");
    step_.state.copy = CopyState::kGone;
    if (!old_.settled && !old_.journal_broken) Settle();
  }

  void operator()(const source_event::Tick&) {
    switch (old_.stage) {
      case Stage::kSealed:
        return Send(Offer{});
      case Stage::kReleased:
        return Send(Release{});
      case Stage::kDone:
        if (!old_.settled) Perform(SourceAction::kDestroy);
        if (!old_.target_knows) Send(Done{});
        return;
      case Stage::kAborted:
        if (!old_.settled && !(old_.journal_broken && old_.copy == CopyState::kLive)) Perform(SourceAction::kResume);
        if (!old_.target_knows && !old_.manifest.IsNone()) Send(Abort{old_.cause});
        return;
      default:
        return;
    }
  }

  // The capture has a limit of its own and is let end by itself; from RELEASED on the clock decides nothing.
  void operator()(const source_event::Deadline&) {
    if (old_.stage == Stage::kSealed) TakeBack({Reason::kDeadline, "it had stood still for as long as it may"});
  }

  void operator()(const source_event::OperatorAbort&) {
    switch (old_.stage) {
      case Stage::kDump:
        step_.state.abort_asked = true;
        return;
      case Stage::kSealed:
        return TakeBack({Reason::kOperator, "aborted"});
      case Stage::kReleased:
        return Send(Abort{{Reason::kOperator, "the operator asks"}});  // the target decides; its answer tells
      default:
        return Ignore("it is decided already");
    }
  }

  void operator()(const source_event::JournalFailed& failed) {
    step_.state.journal_broken = true;
    step_.alarm = "a record of the journal could not be made durable";
    const Stage tried = failed.record.stage;
    // The act was done, only its record is missing: the next agent does it again.
    if (failed.record.settled) {
      step_.state.copy = tried == Stage::kDone ? CopyState::kGone : CopyState::kLive;
      return Perform(SourceAction::kStop);
    }
    // From RELEASED on, what is on disk decides, and only rereading tells what that is.
    const bool unknown = tried == Stage::kReleased || IsGivenUp(old_.stage);
    if (unknown || tried == Stage::kDump) return Perform(SourceAction::kStop);
    // No RELEASE was ever sent, so nobody else can run it, and it must not stand still because our disk failed. A
    // restart finds it live and takes it back for good.
    step_.state.stage = Stage::kAborted;
    step_.state.settled = false;
    step_.state.cause =
        tried == Stage::kAborted ? failed.record.cause : Cause{Reason::kJournalFailed, "SEALED could not be recorded"};
    Perform(SourceAction::kResume);
  }

  void operator()(const source_event::Restarted& restarted) {
    step_.state.copy = restarted.copy;
    switch (old_.stage) {
      case Stage::kDump:
        return TakeBack({Reason::kRestarted, "the agent restarted during the capture"});
      case Stage::kSealed:
        if (restarted.copy == CopyState::kLive) return TakeBack({Reason::kRestarted, "it runs here again"});
        return Send(Offer{});
      case Stage::kReleased:
        return Send(Release{});
      case Stage::kAborted:
        if (!old_.settled) Perform(SourceAction::kResume);
        return;
      case Stage::kDone:
        Send(Done{});
        if (!old_.settled) Perform(SourceAction::kDestroy);
        return;
      default:
        return;
    }
  }

  void operator()(const source_event::Received& received) {
    const Message& message = received.message;
    if (message.migration != old_.binding.migration) return Ignore("it is of another migration");
    if (message.from != old_.binding.target || message.to != old_.binding.source)
      return Ignore("it is between other nodes");
    if (old_.attempt == 0 || message.attempt > old_.attempt) return Ignore("it is of an attempt that was never begun");
    if (message.attempt < old_.attempt) return OnStale(message);
    if (old_.manifest.IsNone() || message.manifest != old_.manifest) return Ignore("it is of another image");
    std::visit([&](const auto& body) { On(message, body); }, message.body);
  }

 private:
  // Past the line after which the source no longer decides alone.
  static bool IsGivenUp(Stage stage) { return stage == Stage::kReleased || stage == Stage::kDone; }

  void OnStale(const Message& message) {
    Ignore("it is of an earlier attempt");
    const bool waits = message.kind() == MessageKind::kPrepared || message.kind() == MessageKind::kHave;
    if (!waits) return;
    Send(Abort{{Reason::kPeerAborted, "an earlier attempt"}});
    step_.messages.back().attempt = message.attempt;
    step_.messages.back().manifest = message.manifest;
  }

  void On(const Message&, const Have& have) {
    if (old_.stage == Stage::kAborted) return Send(Abort{old_.cause});
    if (old_.stage != Stage::kSealed || have.image.complete || have.progress != Have::Progress::kReceiving) return;
    step_.image = have.image;
    Perform(SourceAction::kShip);
  }

  void On(const Message& message, const Prepared&) {
    if (old_.stage == Stage::kAborted) return Send(Abort{old_.cause});
    if (old_.stage != Stage::kSealed) return;
    if (message.target_journal.IsNone()) return Ignore("it names no journal");
    step_.state.target_journal = message.target_journal;
    Enter(Stage::kReleased, {});
    Send(Release{});
  }

  void On(const Message& message, const Running&) {
    switch (old_.stage) {
      case Stage::kReleased:
        if (message.target_journal != old_.target_journal) return InDoubt(Doubt::kTargetJournalLost);
        step_.state.doubt = Doubt::kNone;
        step_.state.target_knows = false;
        Enter(Stage::kDone, {});
        Send(Done{});
        return Perform(SourceAction::kDestroy);
      case Stage::kDone:
        return Send(Done{});
      default:
        Ignore("it runs there without leave");
        step_.alarm = "the target says that the workload runs there, which it was never allowed to";
        return;
    }
  }

  void On(const Message& message, const Refused& refused) {
    const std::string text = fmt::format("{}: {}", Name(refused.cause.reason), refused.cause.text);
    switch (old_.stage) {
      case Stage::kSealed:
        return TakeBack({Reason::kPeerRefused, text});
      case Stage::kReleased:
        // Only the journal that promised can take the promise back: another one may stand on a node where it already
        // ran.
        if (message.target_journal != old_.target_journal) return InDoubt(Doubt::kTargetJournalLost);
        return TakeBack({Reason::kPeerRefused, text});
      case Stage::kAborted:
        step_.state.target_knows = true;
        return;
      default:
        return Ignore("it is decided otherwise");
    }
  }

  void On(const Message& message, const Unknown&) {
    if (old_.stage == Stage::kAborted) step_.state.target_knows = true;
    if (old_.stage != Stage::kReleased) return;
    InDoubt(message.target_journal == old_.target_journal ? Doubt::kTargetForgot : Doubt::kTargetJournalLost);
  }

  void On(const Message& message, const Done&) {
    if (old_.stage == Stage::kDone && message.target_journal == old_.target_journal) step_.state.target_knows = true;
  }

  // Says again what stands.
  void On(const Message&, const Query&) {
    switch (old_.stage) {
      case Stage::kSealed:
        return Send(Offer{});
      case Stage::kReleased:
        return Send(Release{});
      case Stage::kDone:
        return Send(Done{});
      case Stage::kAborted:
        return Send(Abort{old_.cause});
      default:
        return;
    }
  }

  void On(const Message&, const Offer&) { Ignore("a source is not spoken to so"); }
  void On(const Message&, const Release&) { Ignore("a source is not spoken to so"); }
  void On(const Message&, const Abort&) { Ignore("a source is not spoken to so"); }

  void TakeBack(Cause cause) {
    step_.state.doubt = Doubt::kNone;
    step_.state.target_knows = false;
    Enter(Stage::kAborted, std::move(cause));
    Perform(SourceAction::kResume);
  }

  void InDoubt(Doubt doubt) {
    Ignore(Describe(doubt));
    if (old_.doubt != doubt) step_.alarm = std::string(Describe(doubt));
    step_.state.doubt = doubt;
  }

  void Enter(Stage stage, Cause cause) {
    step_.state.stage = stage;
    step_.state.settled = false;
    step_.state.cause = std::move(cause);
    WriteRecord();
  }

  void Settle() {
    step_.state.settled = true;
    WriteRecord();
  }

  void WriteRecord() {
    const SourceState& state = step_.state;
    step_.record =
        StateRecord{state.stage, state.attempt, state.settled, state.manifest, state.target_journal, state.cause};
  }

  void Send(MessageBody body) {
    const SourceState& state = step_.state;
    step_.messages.push_back({state.binding.migration,
                              state.attempt,
                              state.binding.source,
                              state.binding.target,
                              state.manifest,
                              state.target_journal,
                              std::move(body),
                              {}});
  }

  void Perform(SourceAction action) { step_.actions.push_back(action); }
  void Ignore(std::string_view why) { step_.ignored = why; }

  const SourceState& old_;
  SourceStep step_;
};

}  // namespace

std::string_view Name(SourceAction action) {
  switch (action) {
    case SourceAction::kCapture:
      return "capture";
    case SourceAction::kShip:
      return "ship";
    case SourceAction::kResume:
      return "resume";
    case SourceAction::kDestroy:
      return "destroy";
    case SourceAction::kStop:
      return "stop";
  }
  return "?";
}

SourceStep Step(const SourceState& state, const SourceEvent& event) {
  Stepper stepper(state);
  std::visit(stepper, event);
  return stepper.Take();
}

SourceState RecoverSource(const Binding& binding, const std::vector<StateRecord>& records) {
  SourceState state;
  state.binding = binding;
  if (records.empty()) return state;
  const StateRecord& last = records.back();
  state.stage = last.stage;
  state.attempt = last.attempt;
  state.settled = last.settled;
  state.manifest = last.manifest;
  state.target_journal = last.target_journal;
  state.cause = last.cause;
  state.copy = CopyState::kGone;
  return state;
}

std::string_view Describe(Doubt doubt) {
  switch (doubt) {
    case Doubt::kNone:
      return "";
    case Doubt::kTargetJournalLost:
      return "the target answers from another journal than the one that promised to start the workload: it lost its "
             "journal, "
             "and whether it had started the workload before that cannot be known from here";
    case Doubt::kTargetForgot:
      return "the target does not know the attempt that its own journal promised to start: that journal was tampered "
             "with "
             "or rolled back";
  }
  return "";
}

}  // namespace gpumig
