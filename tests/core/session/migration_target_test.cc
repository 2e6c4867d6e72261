// The target's runner with its thread and a real clock, alone and against the source's runner.
#include "core/session/migration_target.h"

#include <latch>

#include "core/session/journal_check.h"
#include "core/session/system_clock.h"
#include "tests/core/session/handoff_world.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

// A target workload whose preparation waits until it is let go or stopped, and whose steps can fail a number of times.
class SlowTargetWorkload : public TargetWorkload {
 public:
  explicit SlowTargetWorkload(World& world) : world_(world) {}

  std::atomic<bool> holds_prepare = false;
  std::atomic<int> start_failures = 0;
  std::atomic<int> discard_failures = 0;
  std::atomic<int> prepare_count = 0;
  std::atomic<int> start_count = 0;
  std::atomic<int> discard_count = 0;
  std::latch preparing{1};

  Result<ImageStatus> Missing(const ManifestDigest&) override { return ImageStatus{world_.target_has_image, {}}; }
  Result<TargetReport> Prepare(const ManifestDigest&, std::stop_token stop) override {
    if (++prepare_count == 1) preparing.count_down();
    const auto until = std::chrono::steady_clock::now() + 20s;
    while (holds_prepare && std::chrono::steady_clock::now() < until) {
      if (stop.stop_requested()) return Error(ErrorCode::kCancelled, "asked to stop");
      clock_.WaitUntil(std::chrono::steady_clock::now() + 1ms, stop);
    }
    world_.SetTarget(CopyState::kStopped);
    return TargetReport{};
  }
  Result<TargetReport> Start() override {
    ++start_count;
    if (start_failures-- > 0) return Error(ErrorCode::kIo, "the GPU did not come back");
    world_.SetTarget(CopyState::kLive);
    return TargetReport{{}, "pid 42"};
  }
  Result<void> Discard() override {
    ++discard_count;
    if (discard_failures-- > 0) return Error(ErrorCode::kIo, "device or resource busy");
    world_.SetTarget(CopyState::kGone);
    return Ok();
  }
  Result<CopyState> Look() override { return world_.target(); }

 private:
  World& world_;
  SystemClock clock_;
};

// Real time that a test can put forward.
class AdvancingClock : public SystemClock {
 public:
  TimePoint Now() override {
    const std::lock_guard lock(mutex_);
    return SystemClock::Now() + ahead_;
  }
  void WaitUntil(TimePoint time, std::stop_token stop) override {
    std::unique_lock lock(mutex_);
    while (!stop.stop_requested() && SystemClock::Now() + ahead_ < time) {
      const auto ahead = ahead_;
      changed_.wait_until(lock, stop, time - ahead, [&] { return ahead_ != ahead; });
    }
  }
  void Advance(std::chrono::minutes by) {
    const std::lock_guard lock(mutex_);
    ahead_ += by;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::chrono::minutes ahead_{0};  // guarded by mutex_
};

// Alarms may come from any thread.
class LockedObserver : public MigrationObserver {
 public:
  void OnAlarm(std::string_view text) override {
    const std::lock_guard lock(mutex_);
    alarms_.emplace_back(text);
  }
  std::vector<std::string> alarms() const {
    const std::lock_guard lock(mutex_);
    return alarms_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> alarms_;
};

class MigrationTargetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto directory = TemporaryDirectory::Create(access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", "gpumig-target");
    ASSERT_THAT(directory, IsOk());
    directory_.emplace(*std::move(directory));
    limits_.first_pause = 1ms;
    limits_.longest_pause = 4ms;
    limits_.answer_after = 20s;
  }

  // A new agent, which finds the journal or makes it.
  void NewAgent() {
    target_.reset();
    faulty_.reset();
    journal_.reset();
    auto journal = Journal::Open(directory_->path(), TestBinding().migration, Side::kTarget);
    if (!journal) journal = Journal::Create(directory_->path(), {Side::kTarget, TestBinding(), "trainer", ""});
    ASSERT_THAT(journal, IsOk());
    journal_ = *std::move(journal);
    faulty_.emplace(*journal_, faults_, "journal");
    auto target = MigrationTarget::Start(TestBinding(), {workload_, clock_, *faulty_, observer_}, limits_);
    ASSERT_THAT(target, IsOk());
    target_ = *std::move(target);
  }

  Result<Message> Say(MessageBody body, std::uint32_t attempt = 1) {
    Message message = FromSource(std::move(body), attempt);
    message.target_journal = journal_->id();
    return target_->Handle(message);
  }
  MessageKind KindOf(const Result<Message>& answer) {
    EXPECT_THAT(answer, IsOk());
    return answer ? answer->kind() : MessageKind::kQuery;
  }
  // Within 20 s, which no machine needs.
  bool Reaches(Stage stage, bool settled = false) {
    const auto until = std::chrono::steady_clock::now() + 20s;
    while (std::chrono::steady_clock::now() < until) {
      const TargetState state = target_->state();
      if (state.stage == stage && (!settled || state.settled)) return true;
      SystemClock().WaitUntil(std::chrono::steady_clock::now() + 1ms, {});
    }
    return false;
  }
  void BringTo(Stage stage) {
    world_.target_has_image = stage != Stage::kNone;
    NewAgent();
    Say(Offer{}).value();
    if (stage == Stage::kNone) return;
    ASSERT_TRUE(Reaches(Stage::kPrep));
    if (stage == Stage::kPrep) return;
    Say(Release{}).value();
    ASSERT_TRUE(Reaches(Stage::kRun));
    if (stage == Stage::kRun) return;
    Say(Done{}).value();
  }

  World world_;
  SlowTargetWorkload workload_{world_};
  AdvancingClock clock_;
  Faults faults_;
  LockedObserver observer_;
  TargetLimits limits_;
  std::unique_ptr<Journal> journal_;
  std::optional<FaultyJournal> faulty_;
  std::unique_ptr<MigrationTarget> target_;

 private:
  std::optional<TemporaryDirectory> directory_;
};

TEST_F(MigrationTargetTest, PreparesOnceAndAnswersMeanwhile) {
  world_.target_has_image = true;
  workload_.holds_prepare = true;
  NewAgent();
  EXPECT_EQ(KindOf(Say(Offer{})), MessageKind::kHave);
  workload_.preparing.wait();
  for (int i = 0; i < 20; ++i) {
    const Result<Message> answer = Say(Offer{});
    ASSERT_EQ(KindOf(answer), MessageKind::kHave);
    EXPECT_EQ(std::get<Have>(answer->body).progress, Have::Progress::kPreparing);
  }
  workload_.holds_prepare = false;
  ASSERT_TRUE(Reaches(Stage::kPrep));
  EXPECT_EQ(KindOf(Say(Offer{})), MessageKind::kPrepared);
  EXPECT_EQ(workload_.prepare_count, 1);
}

TEST_F(MigrationTargetTest, ReleaseIsAnsweredWhenItRuns) {
  BringTo(Stage::kPrep);
  const Result<Message> answer = Say(Release{});
  ASSERT_EQ(KindOf(answer), MessageKind::kRunning);
  EXPECT_EQ(std::get<Running>(answer->body).detail, "pid 42");
  EXPECT_EQ(world_.target(), CopyState::kLive);
  EXPECT_EQ(KindOf(Say(Done{})), MessageKind::kDone);
  EXPECT_EQ(target_->state().stage, Stage::kClosed);
}

TEST_F(MigrationTargetTest, ManyReleasesAtOnceStartItOnce) {
  BringTo(Stage::kPrep);
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([this] { EXPECT_THAT(Say(Release{}), IsOk()); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(workload_.start_count, 1);
  EXPECT_EQ(world_.TimesStarted(), 1);
}

TEST_F(MigrationTargetTest, AnAbortStopsThePreparationAndRemovesIt) {
  world_.target_has_image = true;
  workload_.holds_prepare = true;
  NewAgent();
  Say(Offer{}).value();
  workload_.preparing.wait();
  EXPECT_EQ(KindOf(Say(Abort{})), MessageKind::kRefused);
  ASSERT_TRUE(Reaches(Stage::kRef, /*settled=*/true));
  EXPECT_EQ(world_.target(), CopyState::kGone);
  EXPECT_EQ(KindOf(Say(Release{})), MessageKind::kRefused);
  EXPECT_EQ(workload_.start_count, 0);
}

TEST_F(MigrationTargetTest, ANewAttemptReplacesThePreparationOfTheLast) {
  world_.target_has_image = true;
  workload_.holds_prepare = true;
  NewAgent();
  Say(Offer{}, 1).value();
  workload_.preparing.wait();
  Say(Offer{}, 2).value();
  workload_.holds_prepare = false;
  const auto until = std::chrono::steady_clock::now() + 20s;
  MessageKind kind = MessageKind::kHave;
  while (kind == MessageKind::kHave && std::chrono::steady_clock::now() < until) kind = KindOf(Say(Offer{}, 2));
  EXPECT_EQ(kind, MessageKind::kPrepared);
  EXPECT_EQ(target_->state().attempt, 2u);
  EXPECT_EQ(workload_.discard_count, 1);
  EXPECT_THAT(Say(Release{}, 1), FailsWith(ErrorCode::kFailedPrecondition, "earlier attempt"));
  EXPECT_EQ(world_.target(), CopyState::kStopped);
}

TEST_F(MigrationTargetTest, WithoutAWordFromTheSourceItRefusesInTheEnd) {
  for (const Stage stage : {Stage::kNone, Stage::kPrep}) {
    SetUp();
    world_.SetTarget(CopyState::kGone);
    BringTo(stage);
    clock_.Advance(14min);
    Say(Offer{}).value();
    clock_.Advance(14min);
    EXPECT_EQ(target_->state().stage, stage);
    clock_.Advance(2min);
    EXPECT_TRUE(Reaches(Stage::kRef, /*settled=*/true));
    EXPECT_EQ(target_->state().cause.reason, Reason::kExpired);
    EXPECT_EQ(world_.target(), CopyState::kGone);
    target_.reset();
  }
}

TEST_F(MigrationTargetTest, AFailedStartIsTriedAgainUntilItRunsAndAPersonIsCalled) {
  BringTo(Stage::kPrep);
  workload_.start_failures = 4;
  EXPECT_EQ(KindOf(Say(Release{})), MessageKind::kRunning);
  EXPECT_EQ(workload_.start_count, 5);
  EXPECT_EQ(workload_.discard_count, 0);
  ASSERT_FALSE(observer_.alarms().empty());
  EXPECT_THAT(observer_.alarms()[0], HasSubstr("the GPU did not come back"));
}

TEST_F(MigrationTargetTest, ADiscardThatFailsIsTriedAgain) {
  BringTo(Stage::kPrep);
  workload_.discard_failures = 2;
  EXPECT_THAT(target_->Abort(), IsOk());
  EXPECT_TRUE(Reaches(Stage::kRef, /*settled=*/true));
  EXPECT_EQ(workload_.discard_count, 3);
  EXPECT_THAT(observer_.alarms(), ::testing::Contains(HasSubstr("device or resource busy")));
}

TEST_F(MigrationTargetTest, WhatIsDecidedCannotBeAborted) {
  BringTo(Stage::kRun);
  EXPECT_THAT(target_->Abort(), FailsWith(ErrorCode::kFailedPrecondition, "T_RUN"));
  EXPECT_EQ(world_.target(), CopyState::kLive);
}

TEST_F(MigrationTargetTest, NothingStartsWhenActiveCannotBeRecorded) {
  for (const Faults::Kind kind : {Faults::Kind::kFailsOnce, Faults::Kind::kActsThenFails}) {
    SetUp();
    faults_ = Faults();
    world_.SetTarget(CopyState::kGone);
    workload_.start_count = 0;
    BringTo(Stage::kPrep);
    faults_.Arm("journal T_ACT", kind);
    EXPECT_THAT(Say(Release{}), FailsWith(ErrorCode::kUnavailable, "journal T_ACT"));
    EXPECT_THAT(Say(Release{}), FailsWith(ErrorCode::kUnavailable, "journal T_ACT"));
    EXPECT_TRUE(target_->journal_error().has_value());
    EXPECT_EQ(workload_.start_count, 0);
    EXPECT_EQ(world_.target(), CopyState::kStopped);
    // The next agent rereads the journal and goes on from what is there.
    NewAgent();
    EXPECT_EQ(KindOf(Say(Release{})), MessageKind::kRunning);
    EXPECT_EQ(world_.target(), CopyState::kLive);
    target_.reset();
  }
}

// An agent that is killed leaves the kernel's view and the journal; the next one goes on from both.
TEST_F(MigrationTargetTest, TheNextAgentGoesOnFromEveryState) {
  struct Row {
    Stage stage;
    CopyState copy;
    Stage expected;
    int prepares;
    int starts;
  };
  const std::vector<Row> rows = {
      {Stage::kNone, CopyState::kGone, Stage::kNone, 0, 0},  {Stage::kPrep, CopyState::kStopped, Stage::kPrep, 0, 0},
      {Stage::kPrep, CopyState::kGone, Stage::kPrep, 1, 0},  {Stage::kPrep, CopyState::kLive, Stage::kRef, 0, 0},
      {Stage::kAct, CopyState::kStopped, Stage::kRun, 0, 1}, {Stage::kAct, CopyState::kGone, Stage::kRun, 1, 1},
      {Stage::kAct, CopyState::kLive, Stage::kRun, 0, 1},    {Stage::kRun, CopyState::kLive, Stage::kRun, 0, 0},
      {Stage::kRun, CopyState::kGone, Stage::kRun, 0, 0},    {Stage::kClosed, CopyState::kLive, Stage::kClosed, 0, 0},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(std::string(Name(row.stage)) + " with a copy that is " + std::string(Name(row.copy)));
    SetUp();
    world_.SetTarget(CopyState::kGone);
    BringTo(row.stage == Stage::kAct ? Stage::kPrep : row.stage);
    target_.reset();
    if (row.stage == Stage::kAct) {
      ASSERT_THAT(journal_->Append({Stage::kAct, 1, false, ImageOf(1), {}, {}}), IsOk());
    }
    world_.SetTarget(row.copy);
    workload_.prepare_count = 0;
    workload_.start_count = 0;
    NewAgent();
    EXPECT_TRUE(Reaches(row.expected, row.expected == Stage::kRef));
    if (row.prepares > 0) {
      const auto until = std::chrono::steady_clock::now() + 20s;
      while (world_.target() == CopyState::kGone && std::chrono::steady_clock::now() < until) {
        SystemClock().WaitUntil(std::chrono::steady_clock::now() + 1ms, {});
      }
    }
    EXPECT_EQ(workload_.prepare_count, row.prepares);
    EXPECT_EQ(workload_.start_count, row.starts);
    target_.reset();
  }
}

TEST_F(MigrationTargetTest, AMessageForAnotherMigrationIsAnErrorThatSaysSo) {
  NewAgent();
  Message message = FromSource(Offer{});
  message.migration = IdOf<MigrationId>(99);
  EXPECT_THAT(target_->Handle(message), FailsWith(ErrorCode::kFailedPrecondition, "another migration"));
  EXPECT_TRUE(journal_->records().empty());
}

// Both runners, their threads and a real clock.
TEST_F(MigrationTargetTest, AWholeMoveWithBothRunners) {
  NewAgent();
  Faults source_faults;
  FakePeer peer([this](const Message& message) { return target_->Handle(message); }, source_faults);
  NullObserver observer;
  auto directory = TemporaryDirectory::Create("/tmp", "gpumig-move");
  ASSERT_THAT(directory, IsOk());
  auto journal = Journal::Create(directory->path(), {Side::kSource, TestBinding(), "trainer", ""});
  ASSERT_THAT(journal, IsOk());
  class CaptureNow : public SourceWorkload {
   public:
    explicit CaptureNow(World& world) : world_(world) {}
    Result<SealedCapture> Capture(std::uint32_t attempt, const CallLimit&) override {
      world_.SetSource(CopyState::kStopped);
      return SealedCapture{ImageOf(attempt), CopyState::kStopped, {}};
    }
    std::optional<std::chrono::steady_clock::time_point> StoppedAt() const override { return {}; }
    Result<void> Resume() override {
      world_.SetSource(CopyState::kLive);
      return Ok();
    }
    Result<void> Destroy() override {
      world_.SetSource(CopyState::kGone);
      return Ok();
    }
    Result<CopyState> Look() override { return world_.source(); }

   private:
    World& world_;
  } workload(world_);
  class ShipNow : public ImageShipper {
   public:
    explicit ShipNow(World& world) : world_(world) {}
    Result<void> Ship(const ManifestDigest&, const ImageStatus&, const CallLimit&) override {
      world_.target_has_image = true;
      return Ok();
    }

   private:
    World& world_;
  } ship(world_);

  MigrationSource source(TestBinding(), {workload, peer, ship, clock_, **journal, observer});
  const MigrationOutcome outcome = source.Run();
  EXPECT_EQ(outcome.ending, Ending::kMoved) << (outcome.error ? outcome.error->message() : "");
  EXPECT_EQ(world_.source(), CopyState::kGone);
  EXPECT_EQ(world_.target(), CopyState::kLive);
  EXPECT_FALSE(world_.was_twice());
  EXPECT_EQ(outcome.detail, "pid 42");
  EXPECT_THAT(CheckAgreement((*journal)->records(), journal_->records()), IsOk());
  EXPECT_EQ(target_->state().stage, Stage::kClosed);
}

}  // namespace
}  // namespace gpumig
