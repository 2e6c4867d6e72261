// What both sides of a handover speak of: ids, states with the names of the checked model, reasons, journal records.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"

namespace gpumig {

// A fixed number of opaque bytes; `Tag` keeps the kinds apart. All zero means "none".
template <typename Tag, std::size_t kSize>
struct OpaqueId {
  static constexpr std::size_t kBytes = kSize;
  std::array<std::byte, kSize> bytes{};

  bool IsNone() const { return *this == OpaqueId(); }
  std::string ToHex() const;
  // Exactly 2 * kSize hexadecimal digits. Errors: kInvalidArgument
  static Result<OpaqueId> FromHex(std::string_view text);
  // Bytes of the kernel's random generator: never none.
  static OpaqueId Random();

  auto operator<=>(const OpaqueId&) const = default;
};

using MigrationId = OpaqueId<struct MigrationIdTag, 16>;
// Which journal this is. A target that lost its journal comes back with another, and so cannot pass for its old self.
using JournalId = OpaqueId<struct JournalIdTag, 16>;
// BLAKE3-256 of the sealed manifest.
using ManifestDigest = OpaqueId<struct ManifestDigestTag, 32>;

enum class Side : std::uint8_t { kSource = 1, kTarget = 2 };
std::string_view SideName(Side side);

// The durable states of both sides. The numbers are written to journals: never change one.
enum class Stage : std::uint8_t {
  kDump = 1,      // source: being captured; it may run again by itself at any moment
  kSealed = 2,    // source: stopped whole, image sealed; the source may still resume it alone
  kReleased = 3,  // source: given up; only the target's refusal gives it back
  kAborted = 4,   // source: taken back; runs here
  kDone = 5,      // source: runs at the target; the copy here goes
  kNone = 16,     // target: receiving
  kPrep = 17,     // target: restored up to the gate, stopped; may refuse, may not start
  kAct = 18,      // target: owns it, must start it
  kRun = 19,      // target: owns it, has started it
  kRef = 20,      // target: refused for good; the record stays as a tombstone
  kClosed = 21,   // target: the source knows that it runs here
};
// The name in the checked model (tests/model/handoff.pml): "S_DUMP".
std::string_view Name(Stage stage);
Side SideOf(Stage stage);
// Errors: kDamaged, no such state.
Result<Stage> StageFromNumber(std::uint8_t number);

// A process tree as the kernel shows it.
enum class CopyState : std::uint8_t { kGone, kStopped, kLive };
std::string_view Name(CopyState copy);

// Why a side aborted or refused. Written to journals and messages by name: never change one.
enum class Reason : std::uint8_t {
  kNone = 0,
  kOperator = 1,        // somebody asked
  kDeadline = 2,        // the time the workload may stand still ran out
  kCaptureFailed = 3,   // it could not be captured, or ran on while it was
  kShipFailed = 4,      // its image could not be sent
  kPeerRefused = 5,     // the target refused; its text says why
  kPeerAborted = 6,     // the source took it back
  kPrepareFailed = 7,   // it could not be restored up to the gate
  kExpired = 8,         // nothing came from the source for the time to live
  kRestarted = 9,       // the agent or node restarted at a point from which it can only go back
  kJournalFailed = 10,  // a record could not be made durable
  kViolation = 11,      // the kernel shows what the journal does not allow
};
std::string_view Name(Reason reason);
Result<Reason> ReasonFromNumber(std::uint8_t number);
Result<Reason> ReasonFromName(std::string_view name);

// A reason and one line for a person, as it goes into records and messages.
struct Cause {
  Reason reason = Reason::kNone;
  std::string text;
  bool operator==(const Cause&) const = default;
};

// Which migration: what every message must match before it is acted upon. Does not change.
struct Binding {
  MigrationId migration;
  std::string source;  // node names
  std::string target;
  bool operator==(const Binding&) const = default;
};

// Node names: 1 to 64 of letters, digits, '.', '_', '-'.
bool IsNodeName(std::string_view name);

// Attempts are counted from 1. The limit bounds a journal: no side writes more than five records an attempt.
constexpr std::uint32_t kMaxAttempt = 40;

// One line of a journal: a state entered, durable before the act that it allows.
struct StateRecord {
  Stage stage = Stage::kDump;
  std::uint32_t attempt = 0;
  bool settled = false;  // in kAborted, kDone, kRef: what the state asks for has been done
  ManifestDigest manifest;
  JournalId target_journal;  // source: the journal that PREPARED came from, from kReleased on
  Cause cause;               // text is cut at kMaxRecordText bytes
  bool operator==(const StateRecord&) const = default;
};
constexpr std::size_t kMaxRecordText = 96;

// How long one named part of the work took.
struct TimedPart {
  std::string name;
  std::chrono::microseconds duration{0};
  bool operator==(const TimedPart&) const = default;
};

// What the target lacks of an image. The session only asks whether it is complete; `lacking` is between the
// TargetWorkload that made it and the ImageShipper that reads it.
struct ImageStatus {
  bool complete = false;
  std::vector<std::byte> lacking;  // at most kMaxLackingBytes
  bool operator==(const ImageStatus&) const = default;
};
constexpr std::size_t kMaxLackingBytes = 2 << 20;

}  // namespace gpumig
