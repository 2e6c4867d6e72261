// Two nodes in one process for the tests of the runners: workloads that run, stand still or are gone, a wire, a clock,
// and one counter over every call that a runner makes, so that each can be failed, lost or be the one at which the
// agent is killed.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/base/file.h"
#include "core/session/journal.h"
#include "core/session/migration_source.h"
#include "core/session/migration_target.h"
#include "tests/core/session/handoff_parts.h"

namespace gpumig {

// Goes on by itself whenever somebody waits for it.
class FakeClock : public Clock {
 public:
  TimePoint Now() override { return now_; }
  std::chrono::system_clock::time_point WallTime() override { return {}; }
  void WaitUntil(TimePoint time, std::stop_token stop) override {
    if (stop.stop_requested()) return;
    if (time > now_) now_ = time;
  }
  void Advance(std::chrono::milliseconds by) { now_ += by; }
  std::chrono::milliseconds Since(TimePoint then) const {
    return std::chrono::duration_cast<std::chrono::milliseconds>(now_ - then);
  }

 private:
  TimePoint now_{std::chrono::hours(1)};
};

// What the kernels of both nodes show, and who broke the rules.
class World {
 public:
  CopyState source() const { return Locked(source_); }
  CopyState target() const { return Locked(target_); }
  void SetSource(CopyState copy) { Set(source_, copy); }
  void SetTarget(CopyState copy) { Set(target_, copy); }
  bool was_twice() const { return Locked(twice_); }
  int TimesStarted() const { return Locked(times_started_); }

  bool source_image = false;
  std::atomic<bool> target_has_image = false;

 private:
  template <typename T>
  T Locked(const T& value) const {
    const std::lock_guard lock(mutex_);
    return value;
  }
  void Set(CopyState& which, CopyState copy) {
    const std::lock_guard lock(mutex_);
    if (&which == &target_ && copy == CopyState::kLive && target_ != CopyState::kLive) ++times_started_;
    which = copy;
    twice_ = twice_ || (source_ == CopyState::kLive && target_ == CopyState::kLive);
  }

  mutable std::mutex mutex_;
  CopyState source_ = CopyState::kLive;
  CopyState target_ = CopyState::kGone;
  bool twice_ = false;
  int times_started_ = 0;
};

// Counts calls by name, and fails the one that is asked for. From the one at which the agent is killed on, nothing
// reaches the world any more.
class Faults {
 public:
  enum class Kind {
    kNone,
    kFailsOnce,      // that call fails and does nothing
    kActsThenFails,  // that call does its work and fails all the same: an answer lost, an fsync error after the write
    kFailsOn,        // that call fails, and all of its name after it
    kKill,           // the agent is killed before that call
    kKillAfter,      // the agent is killed right after it
  };

  void Arm(int at, Kind kind) {
    at_ = at;
    kind_ = kind;
  }
  // The first call of this name.
  void Arm(std::string name, Kind kind) {
    name_ = std::move(name);
    kind_ = kind;
  }
  void OnKill(std::function<void()> then) { on_kill_ = std::move(then); }
  void Reset() {
    kind_ = Kind::kNone;
    dead_ = false;
  }
  bool dead() const { return dead_; }
  int count() const { return static_cast<int>(calls_.size()); }
  const std::vector<std::string>& calls() const { return calls_; }

  // Around one call of a port.
  template <typename T>
  Result<T> Call(const std::string& name, const std::function<Result<T>()>& work) {
    if (dead_) return Killed();
    calls_.push_back(name);
    const bool now = count() == at_ || (name == name_ && !std::exchange(name_seen_, true));
    if (kind_ == Kind::kFailsOn && now) failing_ = name;
    if ((now && kind_ == Kind::kFailsOnce) || (kind_ == Kind::kFailsOn && name == failing_)) {
      return MakeError(ErrorCode::kUnavailable, "{} was made to fail", name);
    }
    if (now && kind_ == Kind::kKill) return Kill();
    Result<T> result = work();
    if (now && kind_ == Kind::kKillAfter) return Kill();
    if (now && kind_ == Kind::kActsThenFails) return MakeError(ErrorCode::kUnavailable, "{} acted and failed", name);
    return result;
  }

 private:
  Error Kill() {
    dead_ = true;
    if (on_kill_) on_kill_();
    return Killed();
  }
  static Error Killed() { return Error(ErrorCode::kInternal, "this agent was killed"); }

  int at_ = 0;
  std::string name_;
  bool name_seen_ = false;
  Kind kind_ = Kind::kNone;
  bool dead_ = false;
  std::string failing_;
  std::vector<std::string> calls_;
  std::function<void()> on_kill_;
};

class FakeSourceWorkload : public SourceWorkload {
 public:
  FakeSourceWorkload(World& world, Faults& faults, FakeClock& clock) : world_(world), faults_(faults), clock_(clock) {}

  std::chrono::milliseconds copy_ahead_takes{0};
  bool copy_ahead_fails = false;
  std::chrono::milliseconds capture_takes{100};
  CopyState after_capture = CopyState::kStopped;

  Result<SealedCapture> Capture(std::uint32_t attempt, const CallLimit& limit) override {
    stopped_at_.reset();
    return faults_.Call<SealedCapture>("Capture", [&]() -> Result<SealedCapture> {
      clock_.Advance(copy_ahead_takes);
      if (copy_ahead_fails) return Error(ErrorCode::kUnavailable, "the target took no more");
      stopped_at_ = clock_.Now();
      world_.SetSource(CopyState::kStopped);
      if (limit.stop.stop_requested()) return Error(ErrorCode::kCancelled, "asked to stop");
      clock_.Advance(capture_takes);
      if (clock_.Now() > limit.until) return Error(ErrorCode::kDeadlineExceeded, "the capture took too long");
      world_.source_image = true;
      world_.SetSource(after_capture);
      return SealedCapture{ImageOf(attempt), after_capture, {{"freeze", capture_takes}}};
    });
  }
  std::optional<std::chrono::steady_clock::time_point> StoppedAt() const override { return stopped_at_; }
  Result<void> Resume() override {
    return faults_.Call<void>("Resume", [&]() -> Result<void> {
      if (world_.source() == CopyState::kGone && !world_.source_image) return Error(ErrorCode::kLost, "no image");
      world_.SetSource(CopyState::kLive);
      return Ok();
    });
  }
  Result<void> Destroy() override {
    return faults_.Call<void>("Destroy", [&]() -> Result<void> {
      world_.SetSource(CopyState::kGone);
      world_.source_image = false;
      return Ok();
    });
  }
  Result<CopyState> Look() override {
    return faults_.Call<CopyState>("Look", [&]() -> Result<CopyState> { return world_.source(); });
  }

 private:
  World& world_;
  Faults& faults_;
  FakeClock& clock_;
  std::optional<std::chrono::steady_clock::time_point> stopped_at_;
};

class FakeTargetWorkload : public TargetWorkload {
 public:
  FakeTargetWorkload(World& world, Faults& faults) : world_(world), faults_(faults) {}

  Result<ImageStatus> Missing(const ManifestDigest&) override {
    if (world_.target_has_image) return ImageStatus{true, {}};
    return ImageStatus{false, {std::byte{1}}};
  }
  Result<TargetReport> Prepare(const ManifestDigest&, std::stop_token) override {
    return faults_.Call<TargetReport>("Prepare", [&]() -> Result<TargetReport> {
      world_.SetTarget(CopyState::kStopped);
      return TargetReport{{{"restore", std::chrono::milliseconds(3)}}, ""};
    });
  }
  Result<TargetReport> Start() override {
    return faults_.Call<TargetReport>("Start", [&]() -> Result<TargetReport> {
      if (world_.target() == CopyState::kGone) return Error(ErrorCode::kInternal, "there is nothing to start");
      world_.SetTarget(CopyState::kLive);
      return TargetReport{{{"start", std::chrono::milliseconds(1)}}, "pid 42"};
    });
  }
  Result<void> Discard() override {
    return faults_.Call<void>("Discard", [&]() -> Result<void> {
      world_.SetTarget(CopyState::kGone);
      world_.target_has_image = false;
      return Ok();
    });
  }
  Result<CopyState> Look() override {
    return faults_.Call<CopyState>("target Look", [&]() -> Result<CopyState> { return world_.target(); });
  }

 private:
  World& world_;
  Faults& faults_;
};

// A journal on disk whose writes can be failed. `name` distinguishes the sides in the list of calls.
class FaultyJournal : public StateJournal {
 public:
  FaultyJournal(StateJournal& real, Faults& faults, std::string name)
      : real_(real), faults_(faults), name_(std::move(name)) {}

  const JournalId& id() const override { return real_.id(); }
  const std::vector<StateRecord>& records() const override { return real_.records(); }
  Result<void> Append(const StateRecord& record) override {
    if (broken_) return Error(ErrorCode::kFailedPrecondition, "an earlier write failed");
    Result<void> written =
        faults_.Call<void>(name_ + " " + std::string(Name(record.stage)), [&] { return real_.Append(record); });
    broken_ = !written;
    return written;
  }

 private:
  StateJournal& real_;
  Faults& faults_;
  const std::string name_;
  bool broken_ = false;
};

class NullObserver : public MigrationObserver {
 public:
  void OnAlarm(std::string_view text) override { alarms.emplace_back(text); }
  void OnPhase(MigrationPhase phase) override { phases.push_back(phase); }
  std::vector<std::string> alarms;
  std::vector<MigrationPhase> phases;
};

// The target's agent without threads: the core, a journal on disk, and all work done at once. Killed, it is started
// again by the next message, as its service manager would.
class InlineTarget {
 public:
  InlineTarget(FakeTargetWorkload& workload, Faults& faults, std::filesystem::path directory)
      : workload_(workload), faults_(faults), directory_(std::move(directory)) {}

  Result<Message> Handle(const Message& message) {
    if (faults_.dead()) {
      faults_.Reset();
      faulty_.reset();
      journal_.reset();
    }
    if (!faulty_ && !OpenOrCreate(message.kind() == MessageKind::kOffer)) return AnswerUnknown(message);
    Feed(target_event::Tick{});
    std::optional<Message> reply = Feed(target_event::Received{message, *workload_.Missing(message.manifest)});
    if (faults_.dead() || stopped_) {
      if (stopped_) ForgetMemory();
      return Error(ErrorCode::kUnavailable, "connection reset");
    }
    if (!reply) return Error(ErrorCode::kFailedPrecondition, "not acted upon");
    return *std::move(reply);
  }

  // As after a reinstallation of its disk.
  void LoseJournal() {
    ForgetMemory();
    std::ignore = RemoveJournal(directory_, {TestBinding().migration, Side::kTarget});
  }
  // So that a test can read it; the next message opens it again.
  void CloseJournal() { ForgetMemory(); }
  void Expire() { Feed(target_event::Expired{}); }
  const TargetState& state() const { return state_; }

 private:
  void ForgetMemory() {
    faulty_.reset();
    journal_.reset();
    stopped_ = false;
  }

  bool OpenOrCreate(bool may_create) {
    auto opened = Journal::Open(directory_, TestBinding().migration, Side::kTarget);
    if (!opened && opened.error().code() == ErrorCode::kNotFound && may_create) {
      opened = Journal::Create(directory_, {Side::kTarget, TestBinding(), "trainer", ""});
    }
    if (!opened) return false;
    journal_ = *std::move(opened);
    faulty_.emplace(*journal_, faults_, "target journal");
    state_ = RecoverTarget(TestBinding(), journal_->id(), journal_->records());
    if (const auto copy = workload_.Look()) Feed(target_event::Restarted{*copy});
    return true;
  }

  std::optional<Message> Feed(const TargetEvent& event) {
    const TargetStep step = Step(state_, event);
    if (step.record && !faulty_->Append(*step.record)) {
      if (!faults_.dead()) Feed(target_event::JournalFailed{*step.record});
      return std::nullopt;
    }
    state_ = step.state;
    for (const TargetAction action : step.actions) Perform(action);
    return faults_.dead() ? std::nullopt : step.reply;
  }

  void Perform(TargetAction action) {
    if (faults_.dead()) return;
    const std::uint32_t attempt = state_.attempt;
    if (action == TargetAction::kPrepare) {
      const auto done = workload_.Prepare(state_.manifest, {});
      if (faults_.dead()) return;
      done ? Feed(target_event::Prepared{attempt, done->parts})
           : Feed(target_event::PrepareFailed{attempt, done.error().message()});
    }
    if (action == TargetAction::kStart) {
      const auto done = workload_.Start();
      if (faults_.dead()) return;
      done ? Feed(target_event::Started{done->parts, done->detail})
           : Feed(target_event::StartFailed{done.error().message()});
    }
    if (action == TargetAction::kDiscard) {
      const auto done = workload_.Discard();
      if (faults_.dead()) return;
      done ? Feed(target_event::Discarded{}) : Feed(target_event::DiscardFailed{done.error().message()});
    }
    if (action == TargetAction::kStop) stopped_ = true;
  }

  FakeTargetWorkload& workload_;
  Faults& faults_;
  const std::filesystem::path directory_;
  std::unique_ptr<Journal> journal_;
  std::optional<FaultyJournal> faulty_;
  TargetState state_;
  bool stopped_ = false;
};

// The wire: messages go as text, and can be lost on either way or come twice.
class FakePeer : public Peer {
 public:
  using Handler = std::function<Result<Message>(const Message&)>;
  FakePeer(Handler handler, Faults& faults) : handler_(std::move(handler)), faults_(faults) {}

  std::function<bool(MessageKind)> loses_request = [](MessageKind) { return false; };
  std::function<bool(MessageKind)> loses_answer = [](MessageKind) { return false; };
  std::function<void(MessageKind)> before = [](MessageKind) {};
  bool doubles = false;
  int exchanges = 0;

  Result<Message> Exchange(const Message& message, const CallLimit&) override {
    ++exchanges;
    before(message.kind());
    return faults_.Call<Message>(std::string(Name(message.kind())), [&]() -> Result<Message> {
      if (loses_request(message.kind())) return Error(ErrorCode::kUnavailable, "no route to host");
      const Message arrived = GPUMIG_TRY(ParseMessage(ToJsonText(message)));
      Result<Message> answer = handler_(arrived);
      if (doubles) answer = handler_(arrived);
      if (!answer) return answer;
      const MessageKind kind = answer->kind();
      if (loses_answer(kind)) return Error(ErrorCode::kUnavailable, "timed out");
      return ParseMessage(ToJsonText(*answer));
    });
  }

 private:
  Handler handler_;
  Faults& faults_;
};

class FakeShipper : public ImageShipper {
 public:
  FakeShipper(World& world, Faults& faults) : world_(world), faults_(faults) {}

  bool arrives = true;

  Result<void> Ship(const ManifestDigest&, const ImageStatus& status, const CallLimit&) override {
    return faults_.Call<void>("Ship", [&]() -> Result<void> {
      EXPECT_FALSE(status.complete);
      EXPECT_EQ(status.lacking.size(), 1u);
      if (arrives) world_.target_has_image = true;
      return Ok();
    });
  }

 private:
  World& world_;
  Faults& faults_;
};

}  // namespace gpumig
