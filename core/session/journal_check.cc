#include "core/session/journal_check.h"

namespace gpumig {
namespace {

bool MayFollowAtSource(const StateRecord& previous, const StateRecord& next) {
  if (next.stage == Stage::kDump) return previous.stage == Stage::kAborted && next.attempt == previous.attempt + 1;
  if (next.attempt != previous.attempt) return false;
  switch (previous.stage) {
    case Stage::kDump:
      return next.stage == Stage::kSealed || next.stage == Stage::kAborted;
    case Stage::kSealed:
      return next.stage == Stage::kReleased || next.stage == Stage::kAborted;
    case Stage::kReleased:
      return next.stage == Stage::kDone || next.stage == Stage::kAborted;
    case Stage::kAborted:
    case Stage::kDone:
      return next.stage == previous.stage && next.settled && !previous.settled;
    default:
      return false;
  }
}

bool MayFollowAtTarget(const StateRecord& previous, const StateRecord& next) {
  const bool undecided =
      previous.stage == Stage::kNone || previous.stage == Stage::kPrep || previous.stage == Stage::kRef;
  if (next.attempt > previous.attempt) return undecided && (next.stage == Stage::kNone || next.stage == Stage::kRef);
  if (next.attempt != previous.attempt) return false;
  switch (previous.stage) {
    case Stage::kNone:
      return next.stage == Stage::kPrep || next.stage == Stage::kRef;
    case Stage::kPrep:
      return next.stage == Stage::kAct || next.stage == Stage::kRef;
    case Stage::kAct:
      return next.stage == Stage::kRun;
    case Stage::kRun:
      return next.stage == Stage::kClosed;
    case Stage::kRef:
      return next.stage == Stage::kRef && next.settled && !previous.settled;
    default:
      return false;
  }
}

bool MayBeFirst(const StateRecord& first) {
  if (SideOf(first.stage) == Side::kSource) return first.stage == Stage::kDump && first.attempt == 1;
  return first.stage == Stage::kNone || first.stage == Stage::kRef;
}

// Within one attempt, what names the image and the promise does not change once it is there.
bool KeepsFacts(const StateRecord& previous, const StateRecord& next) {
  if (next.attempt != previous.attempt) return true;
  const bool same_image = previous.manifest.IsNone() || next.manifest == previous.manifest;
  const bool same_promise = previous.target_journal.IsNone() || next.target_journal == previous.target_journal;
  return same_image && same_promise;
}

bool IsComplete(const StateRecord& record) {
  const bool needs_image = record.stage != Stage::kDump && record.stage != Stage::kAborted;
  const bool needs_promise = record.stage == Stage::kReleased || record.stage == Stage::kDone;
  const bool may_settle =
      record.stage == Stage::kAborted || record.stage == Stage::kDone || record.stage == Stage::kRef;
  return (!needs_image || !record.manifest.IsNone()) && (!needs_promise || !record.target_journal.IsNone()) &&
         (!record.settled || may_settle);
}

}  // namespace

Result<void> CheckTransition(Side side, const std::optional<StateRecord>& previous, const StateRecord& next) {
  const std::string_view from = previous ? Name(previous->stage) : "nothing";
  const auto broken = [&](std::string_view why) {
    return MakeError(ErrorCode::kDamaged, "{} journal goes from {} (attempt {}) to {} (attempt {}): {}", SideName(side),
                     from, previous ? previous->attempt : 0, Name(next.stage), next.attempt, why);
  };
  if (SideOf(next.stage) != side) return broken("that is a state of the other side");
  if (next.attempt < 1 || next.attempt > kMaxAttempt) return broken("there is no such attempt");
  if (!IsComplete(next)) return broken("the record lacks what that state needs");
  if (!previous) {
    if (!MayBeFirst(next)) return broken("that is no first state");
    return Ok();
  }
  const bool legal = side == Side::kSource ? MayFollowAtSource(*previous, next) : MayFollowAtTarget(*previous, next);
  if (!legal) return broken("that is not allowed");
  if (!KeepsFacts(*previous, next)) return broken("the image or the promise changed within one attempt");
  return Ok();
}

Result<void> CheckRecords(Side side, std::span<const StateRecord> records) {
  std::optional<StateRecord> previous;
  for (const StateRecord& record : records) {
    GPUMIG_TRY(CheckTransition(side, previous, record));
    previous = record;
  }
  return Ok();
}

Result<void> CheckAgreement(std::span<const StateRecord> source, std::span<const StateRecord> target) {
  for (const StateRecord& started : target) {
    if (started.stage != Stage::kAct) continue;
    bool released = false;
    for (const StateRecord& record : source) {
      if (record.attempt < started.attempt) continue;
      if (record.attempt > started.attempt || record.stage == Stage::kAborted) {
        return MakeError(ErrorCode::kDamaged,
                         "attempt {} was started by the target, and the source is at {} of attempt {}", started.attempt,
                         Name(record.stage), record.attempt);
      }
      released = released || (record.stage == Stage::kReleased && record.manifest == started.manifest);
    }
    if (!released) {
      return MakeError(ErrorCode::kDamaged, "attempt {} was started by the target, and never released by the source",
                       started.attempt);
    }
  }
  return Ok();
}

}  // namespace gpumig
