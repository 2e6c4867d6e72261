// The messages of a handover: a closed set, each bound to one migration, attempt, pair of nodes and image.
//
// The source asks, the target answers: OFFER, RELEASE, DONE, ABORT and QUERY go from source to target, the rest come
// back.
//
// Format: one JSON object, at most kMaxMessageBytes: `v` (1), `type`, `migration` (32 hex digits), `attempt`, `from`,
// `to`, `manifest` (64 hex digits), `target_journal` (32), `signature` (hex, empty until messages are signed), and by
// type: HAVE: `progress`, `complete`, `lacking` (hex); REFUSED, ABORT: `reason`, `text`; PREPARED, RUNNING: `parts`
// (list of [name, microseconds]); RUNNING: `detail`. Unknown members are ignored; another `v` is refused.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/session/handoff_types.h"

namespace gpumig {

constexpr std::size_t kMaxMessageBytes = 8 << 20;
constexpr std::size_t kMaxMessageText = 1024;
constexpr std::size_t kMaxMessageDetail = 4096;
constexpr std::size_t kMaxParts = 32;
constexpr std::size_t kMaxPartName = 32;
constexpr std::size_t kMaxSignatureBytes = 128;

// Here is a sealed image; tell me where you stand.
struct Offer {
  bool operator==(const Offer&) const = default;
};
// Not ready: what is lacking, and what I am doing. Also the answer while the target starts the workload ("nothing
// yet").
struct Have {
  enum class Progress : std::uint8_t { kReceiving, kPreparing, kStarting };
  Progress progress = Progress::kReceiving;
  ImageStatus image;
  bool operator==(const Have&) const = default;
};
// Restored up to the gate; can start at once, will not without RELEASE.
struct Prepared {
  std::vector<TimedPart> parts;
  bool operator==(const Prepared&) const = default;
};
// It is yours. Counts only for the journal (`target_journal`) whose PREPARED it answers.
struct Release {
  bool operator==(const Release&) const = default;
};
// It runs here.
struct Running {
  std::vector<TimedPart> parts;
  std::string detail;  // from the TargetWorkload, for the report
  bool operator==(const Running&) const = default;
};
// I know that it runs with you. The target echoes it.
struct Done {
  bool operator==(const Done&) const = default;
};
// I will never start this attempt.
struct Refused {
  Cause cause;
  bool operator==(const Refused&) const = default;
};
// I took it back; or, once released: refuse it if you still can.
struct Abort {
  Cause cause;
  bool operator==(const Abort&) const = default;
};
// Where do you stand?
struct Query {
  bool operator==(const Query&) const = default;
};
// My journal, whose id is in the head, knows no such attempt. Proves nothing about an earlier journal.
struct Unknown {
  bool operator==(const Unknown&) const = default;
};

// In the order of MessageBody's alternatives.
enum class MessageKind { kOffer, kHave, kPrepared, kRelease, kRunning, kDone, kRefused, kAbort, kQuery, kUnknown };
constexpr int kMessageKindCount = 10;
using MessageBody = std::variant<Offer, Have, Prepared, Release, Running, Done, Refused, Abort, Query, Unknown>;

struct Message {
  MigrationId migration;
  std::uint32_t attempt = 0;
  std::string from;
  std::string to;
  ManifestDigest manifest;
  JournalId target_journal;  // none where the sender does not know it
  MessageBody body;
  // The place of the signature over all of the above; nothing checks it yet.
  std::vector<std::byte> signature;

  MessageKind kind() const { return static_cast<MessageKind>(body.index()); }
  bool operator==(const Message&) const = default;
};

// As in the model: "OFFER".
std::string_view Name(MessageKind kind);

// REQUIRES: node names are node names, lists and texts are within their limits (texts beyond are cut)
std::string ToJsonText(const Message& message);
// Errors: kDamaged, not a message, the text says which member; kUnsupported, another version.
Result<Message> ParseMessage(std::string_view text);

}  // namespace gpumig
