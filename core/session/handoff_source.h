// The source's half of the handover, as a pure state machine: Step(state, event) says what to do and does nothing
// itself.
//
// Who may run the workload, in one line: the source, save from RELEASED on, when only the target's refusal gives it
// back. The states, what each allows and why are in docs/failure_model.md; tests/model/ holds the checked model. No
// clock, no I/O, no randomness: the agent and the simulator of the tests run the same code.
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

// Why nothing can be decided here though the target answers.
enum class Doubt : std::uint8_t {
  kNone,
  kTargetJournalLost,  // it answers from another journal than the one that promised: what it did before is unknown
  kTargetForgot,       // it answers from the same journal, and yet does not know the attempt
};

struct SourceState {
  Binding binding;

  // As the journal has it.
  Stage stage = Stage::kAborted;  // kDump, kSealed, kReleased, kAborted or kDone
  std::uint32_t attempt = 0;      // 0: none was begun
  bool settled = true;            // in kAborted: it runs again; in kDone: the copy here is gone
  ManifestDigest manifest;        // of this attempt, from kSealed on
  JournalId target_journal;       // from kReleased on
  Cause cause;                    // in kAborted

  // Forgotten in a restart.
  CopyState copy = CopyState::kLive;
  bool abort_asked = false;     // during the capture, which is let finish
  bool target_knows = false;    // in kAborted, that it was taken back; in kDone, that we know it runs there
  bool journal_broken = false;  // no record can be written any more
  Doubt doubt = Doubt::kNone;

  bool operator==(const SourceState&) const = default;
};

namespace source_event {

// A new attempt is wanted. Counts only while the workload runs here.
struct BeginAttempt {};
// The image is sealed; `copy` is what the kernel showed after that.
struct CaptureSealed {
  ManifestDigest manifest;
  CopyState copy = CopyState::kStopped;
};
struct CaptureFailed {
  std::string why;
};
struct Received {
  Message message;
};
// Sending is over without success, and trying again will not help.
struct ShipFailed {
  std::string why;
};
struct Resumed {};
struct Destroyed {};
// Nothing came for a while: say again what is to be said.
struct Tick {};
// The workload has stood still for as long as it may.
struct Deadline {};
struct OperatorAbort {};
// `record`, the one of the last step, could not be made durable. Comes with the state from before that step.
struct JournalFailed {
  StateRecord record;
};
// First event after a recovery: what the kernel shows.
struct Restarted {
  CopyState copy = CopyState::kGone;
};

}  // namespace source_event

using SourceEvent = std::variant<source_event::BeginAttempt, source_event::CaptureSealed, source_event::CaptureFailed,
                                 source_event::Received, source_event::ShipFailed, source_event::Resumed,
                                 source_event::Destroyed, source_event::Tick, source_event::Deadline,
                                 source_event::OperatorAbort, source_event::JournalFailed, source_event::Restarted>;

enum class SourceAction {
  kCapture,  // ends in CaptureSealed or CaptureFailed
  kShip,     // send what `image` lacks; a failure for good ends in ShipFailed
  kResume,   // ends in Resumed, or is tried again
  kDestroy,  // ends in Destroyed, or is tried again
  kStop,     // do nothing more: only a restart, which rereads the journal, can go on
};
std::string_view Name(SourceAction action);

// What is to be done, strictly in this order: 1. make `record` durable; if that fails, drop the rest, `state` included,
// and feed JournalFailed to the old state. 2. take `state`. 3. send `messages`. 4. perform `actions`.
struct SourceStep {
  SourceState state;
  std::optional<StateRecord> record;
  std::vector<Message> messages;
  std::vector<SourceAction> actions;
  ImageStatus image;         // for kShip
  std::string_view ignored;  // why a message was not acted upon
  std::string alarm;         // for a person
};

SourceStep Step(const SourceState& state, const SourceEvent& event);

// The state that a journal's records leave behind; feed Restarted to it next. REQUIRES: CheckRecords() passed them
SourceState RecoverSource(const Binding& binding, const std::vector<StateRecord>& records);

// One line for a person on a doubt; empty for kNone.
std::string_view Describe(Doubt doubt);

}  // namespace gpumig
