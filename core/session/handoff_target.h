// The target's half of the handover, as a pure state machine: Step(state, event) says what to do and does nothing
// itself.
//
// It may start the workload only after ACTIVE is durable, which needs the source's RELEASE of this attempt, this image,
// this journal; until then it may refuse, which is for good. See docs/failure_model.md. It speaks only when spoken to:
// its messages are answers.
//
// Thread safety: values and a pure function.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/session/handoff_types.h"
#include "core/session/message.h"

namespace gpumig {

struct TargetState {
  Binding binding;
  JournalId journal;  // our own

  // As the journal has it.
  Stage stage = Stage::kNone;  // kNone, kPrep, kAct, kRun, kRef or kClosed
  std::uint32_t attempt = 0;   // 0: nothing was offered
  bool settled = false;        // in kRef: what was prepared is gone
  ManifestDigest manifest;
  Cause cause;  // in kRef

  // Forgotten in a restart.
  CopyState copy = CopyState::kGone;
  bool preparing = false;   // kPrepare has not ended
  bool starting = false;    // kStart has not ended
  bool discarding = false;  // kDiscard has not ended
  bool journal_broken = false;
  int failure_count = 0;  // of preparing and starting, in kAct
  std::vector<TimedPart> prepare_parts;
  std::vector<TimedPart> start_parts;
  std::string detail;

  bool operator==(const TargetState&) const = default;
};

namespace target_event {

// `image`: what is lacking here of the message's image; looked at only for OFFER.
struct Received {
  Message message;
  ImageStatus image;
};
struct Prepared {
  std::uint32_t attempt = 0;
  std::vector<TimedPart> parts;
};
struct PrepareFailed {
  std::uint32_t attempt = 0;
  std::string why;
};
struct Started {
  std::vector<TimedPart> parts;
  std::string detail;
};
struct StartFailed {
  std::string why;
};
struct Discarded {};
// To be tried again later, at a Tick.
struct DiscardFailed {
  std::string why;
};
struct Tick {};
// Nothing has come from the source for the time to live.
struct Expired {};
struct OperatorAbort {};
// As for the source.
struct JournalFailed {
  StateRecord record;
};
struct Restarted {
  CopyState copy = CopyState::kGone;
};

}  // namespace target_event

using TargetEvent = std::variant<target_event::Received, target_event::Prepared, target_event::PrepareFailed,
                                 target_event::Started, target_event::StartFailed, target_event::Discarded,
                                 target_event::DiscardFailed, target_event::Tick, target_event::Expired,
                                 target_event::OperatorAbort, target_event::JournalFailed, target_event::Restarted>;

// Performed one after the other in the order they come; one that comes while kPrepare is under way stops that first.
enum class TargetAction {
  kPrepare,  // ends in Prepared or PrepareFailed, with the attempt it was begun for
  kStart,    // ends in Started or StartFailed
  kDiscard,  // ends in Discarded or DiscardFailed
  kStop,     // do nothing more: only a restart, which rereads the journal, can go on
};
std::string_view Name(TargetAction action);

// As for the source: record, state, reply, actions, in this order.
struct TargetStep {
  TargetState state;
  std::optional<StateRecord> record;
  std::optional<Message> reply;  // to the message received
  std::vector<TargetAction> actions;
  std::string_view ignored;  // why a message was not acted upon
  std::string alarm;         // for a person
};

TargetStep Step(const TargetState& state, const TargetEvent& event);

// The state that a journal's records leave behind; feed Restarted to it next. REQUIRES: CheckRecords() passed them
TargetState RecoverTarget(const Binding& binding, const JournalId& journal, const std::vector<StateRecord>& records);

// What a node answers that has no journal for the migration of `message`.
Message AnswerUnknown(const Message& message);

// Failed starts after which a person is called. It is tried on, ever more slowly, and the image is kept.
constexpr int kFailuresBeforeAlarm = 3;

}  // namespace gpumig
