// What a migration calls: the workload at each end, the way to the other node, the clock, the journal, the onlooker.
// The session decides what happens when; these decide how.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"
#include "core/session/handoff_types.h"
#include "core/session/message.h"

namespace gpumig {

// Until when a call may take. It returns soon after `until` (kDeadlineExceeded) or a stop (kCancelled), what it began
// undone.
struct CallLimit {
  std::chrono::steady_clock::time_point until;
  std::stop_token stop;
};

// What a capture gives.
struct SealedCapture {
  ManifestDigest manifest;
  // Read from the kernel after the image was sealed. Anything but kStopped voids the image: the migration is aborted.
  CopyState copy = CopyState::kStopped;
  // For the report, what took how long: quiesce, device capture, freeze, host dump.
  std::vector<TimedPart> parts;
};

// The workload where it runs now.
//
// Thread safety: called from one thread at a time, the one in MigrationSource::Run().
class SourceWorkload {
 public:
  virtual ~SourceWorkload() = default;

  // Stops it and seals an image of all of it. Success leaves it stopped until Resume() or Destroy(), also when this
  // process dies. A failure may leave it in any state: Resume() always follows. A new attempt captures anew.
  virtual Result<SealedCapture> Capture(std::uint32_t attempt, const CallLimit& limit) = 0;

  // When the last Capture() began to stop it; none, it did not come to that.
  virtual std::optional<std::chrono::steady_clock::time_point> StoppedAt() const = 0;

  // Makes it run, whatever of Capture() was done: resumes the CPU side, restores and unlocks GPUs; where the tree is
  // gone, restores it from the sealed image if there is one here. Idempotent: nothing to do is success, so also for a
  // workload that runs, or ended by itself. Called after ABORTED is durable, or when the journal failed before RELEASED
  // was tried. Errors: kLost, nothing is left to run; others may pass, it is called again.
  virtual Result<void> Resume() = 0;

  // Ends the stopped tree and frees all it holds here. Idempotent. Called only after DONE is durable.
  virtual Result<void> Destroy() = 0;

  // What the kernel shows now. After a restart this is all that is known besides the journal. A tree that is only
  // partly stopped counts as kLive.
  virtual Result<CopyState> Look() = 0;
};

// What prepared or started copies tell.
struct TargetReport {
  std::vector<TimedPart> parts;
  std::string
      detail;  // at most kMaxMessageDetail; Start()'s reaches the source's report (name, pid, GPUs: a JSON text)
};

// The workload where it is to run.
//
// Thread safety: Missing() from any thread at any time; the rest from one thread, one at a time.
class TargetWorkload {
 public:
  virtual ~TargetWorkload() = default;

  // What is lacking here of the image with this manifest, the manifest included. Quick: no more than looking things up.
  // Chunks count as here only when they are durable and verified.
  virtual Result<ImageStatus> Missing(const ManifestDigest& manifest) = 0;

  // Removes what an earlier Prepare() left, then restores the whole tree up to the gate: stopped by the kernel, GPU
  // state back, unable to run a step whatever dies. A failure leaves no tree; the image stays. Returns soon after a
  // stop.
  virtual Result<TargetReport> Prepare(const ManifestDigest& manifest, std::stop_token stop) = 0;

  // Lets the prepared tree run, and has seen it run when it returns. Idempotent. Called only after ACTIVE is durable.
  virtual Result<TargetReport> Start() = 0;

  // Ends what Prepare() left, frees GPUs, drops the image. Idempotent. Never called once ACTIVE is durable.
  virtual Result<void> Discard() = 0;

  // What the kernel shows now.
  virtual Result<CopyState> Look() = 0;
};

// The target's agent, seen from the source.
class Peer {
 public:
  virtual ~Peer() = default;

  // Sends `message` and waits for the answer. Any error means only that no answer came: the message may have been
  // received and acted upon. Errors: kUnavailable, the peer cannot be reached now; others: it does not accept the
  // message.
  virtual Result<Message> Exchange(const Message& message, const CallLimit& limit) = 0;
};

// Sends what the target lacks of the sealed image.
class ImageShipper {
 public:
  virtual ~ImageShipper() = default;

  // `status` is what the target's Missing() said. Resumable: after a cut it is called again with what is lacking then.
  // Errors: kUnavailable, the link was cut, trying again may help; all others end the migration, and the workload runs
  // on.
  virtual Result<void> Ship(const ManifestDigest& manifest, const ImageStatus& status, const CallLimit& limit) = 0;
};

// Time, and waiting for it. Nothing about safety hangs on it.
class Clock {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  virtual ~Clock() = default;
  virtual TimePoint Now() = 0;
  // For the journal's readers only.
  virtual std::chrono::system_clock::time_point WallTime() = 0;
  // Until `time`, or until `stop` is requested if that is earlier.
  virtual void WaitUntil(TimePoint time, std::stop_token stop) = 0;
};

// Where states are made durable; core/session/journal.h is the real one.
class StateJournal {
 public:
  virtual ~StateJournal() = default;

  virtual const JournalId& id() const = 0;
  // On success the record survives a power cut. After an error it may or may not: nothing more can be appended, and
  // only opening the journal anew tells.
  virtual Result<void> Append(const StateRecord& record) = 0;
  // All records, oldest first.
  virtual const std::vector<StateRecord>& records() const = 0;
};

// Where a migration stands, for people.
enum class MigrationPhase { kCapturing, kSending, kPreparing, kCommitting, kInDoubt, kCleaning, kResuming, kEnded };
std::string_view Name(MigrationPhase phase);

// Watches one migration. Called from the migration's thread; must return quickly and must not call back.
class MigrationObserver {
 public:
  virtual ~MigrationObserver() = default;

  virtual void OnPhase(MigrationPhase) {}
  virtual void OnPart(const TimedPart&) {}
  // A state that has just become durable.
  virtual void OnRecord(const StateRecord&) {}
  // Something a person should see now; the migration goes on by itself.
  virtual void OnAlarm(std::string_view) {}
};

}  // namespace gpumig
