// The source's runner against a target without threads: every step failed in turn, the agent killed at every step,
// messages lost and doubled, operators who change their minds. Time is simulated.
#include "core/session/migration_source.h"

#include "core/base/check.h"
#include "core/session/journal_check.h"
#include "tests/core/session/handoff_world.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

using Kind = Faults::Kind;
using ::testing::HasSubstr;

// Both nodes and everything between them, for one migration.
class Rig {
 public:
  Rig()
      : directory_(
            *TemporaryDirectory::Create(access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", "gpumig-migration")),
        target_workload(world, target_faults),
        target(target_workload, target_faults, directory_.path()),
        source_workload(world, faults, clock),
        peer([this](const Message& message) { return target.Handle(message); }, faults),
        shipper(world, faults) {}

  // A new agent at the source: it finds the journal on disk, or makes it.
  MigrationSource& NewSource() {
    source.reset();
    faulty.reset();
    journal.reset();
    auto opened = Journal::Open(directory_.path(), TestBinding().migration, Side::kSource);
    if (!opened) opened = Journal::Create(directory_.path(), {Side::kSource, TestBinding(), "trainer", ""});
    GPUMIG_CHECK(opened.has_value());
    journal = *std::move(opened);
    faulty.emplace(*journal, faults, "journal");
    source.emplace(TestBinding(), MigrationSource::Ports{source_workload, peer, shipper, clock, *faulty, observer},
                   limits);
    faults.OnKill([this] { source->Stop(); });
    // What asks for ever is stopped some time.
    peer.before = [this](MessageKind kind) {
      if (peer.exchanges >= stop_after) source->Stop();
      if (before_message) before_message(kind);
    };
    return *source;
  }

  MigrationOutcome Run() { return NewSource().Run(); }
  MigrationOutcome Restart() {
    faults.Reset();
    peer.exchanges = 0;
    return NewSource().Recover();
  }

  bool Wrote(Stage stage) const {
    const auto& records = journal->records();
    return std::any_of(records.begin(), records.end(), [&](const StateRecord& r) { return r.stage == stage; });
  }
  void ExpectJournalsAgree() {
    target.CloseJournal();
    const auto at_target = Journal::Open(directory_.path(), TestBinding().migration, Side::kTarget);
    if (at_target) {
      EXPECT_THAT(CheckAgreement(journal->records(), (*at_target)->records()), IsOk());
    }
  }
  void ExpectMoved() {
    EXPECT_EQ(world.target(), CopyState::kLive);
    EXPECT_EQ(world.source(), CopyState::kGone);
    EXPECT_FALSE(world.was_twice());
  }
  void ExpectRunsHere() {
    EXPECT_EQ(world.source(), CopyState::kLive);
    EXPECT_NE(world.target(), CopyState::kLive);
    EXPECT_FALSE(world.was_twice());
  }

 private:
  TemporaryDirectory directory_;

 public:
  World world;
  FakeClock clock;
  Faults faults;         // of the source's agent
  Faults target_faults;  // of the target's
  FakeTargetWorkload target_workload;
  InlineTarget target;
  FakeSourceWorkload source_workload;
  FakePeer peer;
  FakeShipper shipper;
  NullObserver observer;
  SourceLimits limits;
  int stop_after = 1000;
  std::function<void(MessageKind)> before_message;
  std::unique_ptr<Journal> journal;
  std::optional<FaultyJournal> faulty;
  std::optional<MigrationSource> source;
};

TEST(MigrationSourceTest, MovesAndTellsWhatTookHowLong) {
  Rig rig;
  const MigrationOutcome outcome = rig.Run();
  EXPECT_EQ(outcome.ending, Ending::kMoved);
  EXPECT_FALSE(outcome.error);
  rig.ExpectMoved();
  rig.ExpectJournalsAgree();
  std::vector<std::string> parts;
  for (const TimedPart& part : outcome.parts) parts.push_back(part.name);
  EXPECT_THAT(parts, ::testing::ElementsAre("freeze", "seal", "send", "prepare", "commit"));
  EXPECT_THAT(outcome.target_parts, ::testing::ElementsAre(TimedPart{"restore", std::chrono::milliseconds(3)},
                                                           TimedPart{"start", std::chrono::milliseconds(1)}));
  EXPECT_EQ(outcome.detail, "pid 42");
  EXPECT_GE(outcome.downtime, std::chrono::milliseconds(100));
  EXPECT_LT(outcome.downtime, std::chrono::milliseconds(500));
  EXPECT_EQ(rig.observer.phases.front(), MigrationPhase::kCapturing);
  EXPECT_EQ(rig.observer.phases.back(), MigrationPhase::kEnded);
  EXPECT_TRUE(rig.observer.alarms.empty());
}

// While memory is copied ahead the workload runs.
TEST(MigrationSourceTest, DowntimeBeginsWithTheStop) {
  Rig moves;
  moves.source_workload.copy_ahead_takes = std::chrono::seconds(50);
  EXPECT_LT(moves.Run().downtime, std::chrono::milliseconds(500));
  Rig fails;
  fails.source_workload.copy_ahead_takes = std::chrono::seconds(50);
  fails.source_workload.copy_ahead_fails = true;
  const MigrationOutcome outcome = fails.Run();
  EXPECT_EQ(outcome.ending, Ending::kRunsHere);
  EXPECT_LT(outcome.downtime, std::chrono::milliseconds(500));
}

// Whatever fails before RELEASED, the job runs on at the source. Each call of each port in turn: failing once, failing
// after it has done its work, failing from then on.
TEST(MigrationSourceTest, WhateverFailsBeforeReleaseTheJobRunsOnAtTheSource) {
  int calls = 0;
  {
    Rig rig;
    rig.Run();
    calls = rig.faults.count();
  }
  ASSERT_GE(calls, 10);
  int here = 0;
  int moved = 0;
  for (const Kind kind : {Kind::kFailsOnce, Kind::kActsThenFails, Kind::kFailsOn}) {
    for (int at = 1; at <= calls; ++at) {
      Rig rig;
      rig.stop_after = 120;
      rig.faults.Arm(at, kind);
      const MigrationOutcome outcome = rig.Run();
      const std::string failed = rig.faults.calls()[static_cast<std::size_t>(at) - 1];
      SCOPED_TRACE(failed + " (call " + std::to_string(at) + "), kind " + std::to_string(static_cast<int>(kind)) +
                   ", ends " + std::string(Name(outcome.ending)));
      EXPECT_FALSE(rig.world.was_twice());
      if (outcome.ending == Ending::kMoved && !outcome.error) rig.ExpectMoved();
      if (outcome.ending == Ending::kMoved && outcome.error) {
        EXPECT_EQ(rig.world.source(), CopyState::kStopped);  // it runs there, and what is left here is said
      }
      if (!rig.Wrote(Stage::kReleased)) {
        if (outcome.ending == Ending::kInDoubt) {
          // Only where the very record could not be written: what the disk holds decides.
          EXPECT_EQ(failed, "journal S_RELEASED");
        } else {
          EXPECT_EQ(outcome.ending, Ending::kRunsHere);
          ASSERT_TRUE(outcome.error);
          EXPECT_FALSE(outcome.error->message().empty());
          rig.ExpectRunsHere();
        }
      }
      EXPECT_NE(outcome.ending, Ending::kLost);
      here += outcome.ending == Ending::kRunsHere ? 1 : 0;
      moved += outcome.ending == Ending::kMoved ? 1 : 0;

      // Whatever it was, once it works again the next agent brings it to an end.
      const MigrationOutcome later = rig.Restart();
      EXPECT_TRUE(later.ending == Ending::kMoved || later.ending == Ending::kRunsHere)
          << Name(later.ending) << (later.error ? later.error->message() : "");
      later.ending == Ending::kMoved ? rig.ExpectMoved() : rig.ExpectRunsHere();
      rig.ExpectJournalsAgree();
    }
  }
  EXPECT_GT(here, 5);
  EXPECT_GT(moved, 5);
}

// The agent of the source is killed before and after each of its calls; the next one goes on from journal and kernel.
TEST(MigrationSourceTest, KilledAtAnyPointTheNextAgentGoesOnOrUndoes) {
  int calls = 0;
  {
    Rig rig;
    rig.Run();
    calls = rig.faults.count();
  }
  int here = 0;
  int moved = 0;
  for (const Kind kind : {Kind::kKill, Kind::kKillAfter}) {
    for (int at = 1; at <= calls; ++at) {
      Rig rig;
      rig.faults.Arm(at, kind);
      rig.Run();
      ASSERT_TRUE(rig.faults.dead());
      SCOPED_TRACE(rig.faults.calls().back() + (kind == Kind::kKill ? " not made" : " made"));
      const MigrationOutcome outcome = rig.Restart();
      EXPECT_FALSE(rig.world.was_twice());
      if (outcome.ending == Ending::kMoved) {
        ++moved;
        rig.ExpectMoved();
      } else {
        ++here;
        EXPECT_EQ(outcome.ending, Ending::kRunsHere);
        rig.ExpectRunsHere();
      }
      EXPECT_LE(rig.world.TimesStarted(), 1);
      rig.ExpectJournalsAgree();
    }
  }
  EXPECT_GT(here, 3);
  EXPECT_GT(moved, 10);
}

// The same for the target's agent, which is started again by the next message; and its calls failing.
TEST(MigrationSourceTest, WhateverHappensToTheTargetsAgentItEndsOnOneSide) {
  int calls = 0;
  {
    Rig rig;
    rig.Run();
    calls = rig.target_faults.count();
  }
  ASSERT_GE(calls, 7);
  for (const Kind kind : {Kind::kKill, Kind::kKillAfter, Kind::kFailsOnce, Kind::kActsThenFails}) {
    for (int at = 1; at <= calls; ++at) {
      Rig rig;
      rig.target_faults.Arm(at, kind);
      const MigrationOutcome outcome = rig.Run();
      SCOPED_TRACE(rig.target_faults.calls()[static_cast<std::size_t>(at) - 1] + ", kind " +
                   std::to_string(static_cast<int>(kind)));
      EXPECT_FALSE(rig.world.was_twice());
      ASSERT_TRUE(outcome.ending == Ending::kMoved || outcome.ending == Ending::kRunsHere) << Name(outcome.ending);
      outcome.ending == Ending::kMoved ? rig.ExpectMoved() : rig.ExpectRunsHere();
      rig.ExpectJournalsAgree();
    }
  }
}

TEST(MigrationSourceTest, ReleaseLostAHundredTimesMoves) {
  Rig rig;
  int lost = 0;
  rig.peer.loses_request = [&](MessageKind kind) { return kind == MessageKind::kRelease && lost++ < 100; };
  const MigrationOutcome outcome = rig.Run();
  EXPECT_EQ(outcome.ending, Ending::kMoved);
  rig.ExpectMoved();
  // 0.1 s doubling to 5 s: 100 pauses are more than 450 s and less than 500.
  EXPECT_GT(outcome.downtime, std::chrono::seconds(450));
  EXPECT_LT(outcome.downtime, std::chrono::seconds(500));
  ASSERT_EQ(rig.observer.alarms.size(), 1u);
  EXPECT_THAT(rig.observer.alarms[0], HasSubstr("stays frozen here"));
  EXPECT_THAT(rig.observer.phases, ::testing::Contains(MigrationPhase::kInDoubt));
}

TEST(MigrationSourceTest, RunningLostAHundredTimesMovesAndStartsOnce) {
  Rig rig;
  int lost = 0;
  rig.peer.loses_answer = [&](MessageKind kind) { return kind == MessageKind::kRunning && lost++ < 100; };
  EXPECT_EQ(rig.Run().ending, Ending::kMoved);
  rig.ExpectMoved();
  EXPECT_EQ(lost, 101);
  EXPECT_EQ(rig.world.TimesStarted(), 1);
}

TEST(MigrationSourceTest, AllMessagesDoubledMovesAndStartsOnce) {
  Rig rig;
  rig.peer.doubles = true;
  EXPECT_EQ(rig.Run().ending, Ending::kMoved);
  rig.ExpectMoved();
  EXPECT_EQ(rig.world.TimesStarted(), 1);
  rig.ExpectJournalsAgree();
}

TEST(MigrationSourceTest, ACutWhileSendingIsRetriedUntilItHeals) {
  Rig rig;
  int cuts = 0;
  rig.peer.loses_request = [&](MessageKind kind) { return kind == MessageKind::kOffer && cuts++ < 8; };
  EXPECT_EQ(rig.Run().ending, Ending::kMoved);
  rig.ExpectMoved();
}

TEST(MigrationSourceTest, AnUnreachableTargetCostsNoMoreThanTheDowntimeAllowed) {
  Rig rig;
  rig.peer.loses_request = [](MessageKind) { return true; };
  const MigrationOutcome outcome = rig.Run();
  EXPECT_EQ(outcome.ending, Ending::kRunsHere);
  ASSERT_TRUE(outcome.error);
  EXPECT_EQ(outcome.error->code(), ErrorCode::kDeadlineExceeded);
  EXPECT_THAT(outcome.error->message(), HasSubstr("no route to host"));
  EXPECT_GE(outcome.downtime, std::chrono::seconds(60));
  EXPECT_LE(outcome.downtime, std::chrono::seconds(61));
  rig.ExpectRunsHere();
}

TEST(MigrationSourceTest, ARefusalNamesTheTargetsReason) {
  Rig rig;
  rig.target_faults.Arm("Prepare", Kind::kFailsOnce);
  const MigrationOutcome outcome = rig.Run();
  EXPECT_EQ(outcome.ending, Ending::kRunsHere);
  ASSERT_TRUE(outcome.error);
  EXPECT_THAT(outcome.error->message(), HasSubstr("Prepare was made to fail"));
  rig.ExpectRunsHere();
}

TEST(MigrationSourceTest, AWorkloadThatRanOnWhileItWasCapturedIsNotSent) {
  Rig rig;
  rig.source_workload.after_capture = CopyState::kLive;
  const MigrationOutcome outcome = rig.Run();
  EXPECT_EQ(outcome.ending, Ending::kRunsHere);
  EXPECT_EQ(rig.peer.exchanges, 0);
  EXPECT_FALSE(rig.Wrote(Stage::kSealed));
}

TEST(MigrationSourceTest, ACaptureThatTakesTooLongIsTakenBack) {
  Rig rig;
  rig.source_workload.capture_takes = std::chrono::seconds(70);
  const MigrationOutcome outcome = rig.Run();
  EXPECT_EQ(outcome.ending, Ending::kRunsHere);
  EXPECT_EQ(outcome.error->code(), ErrorCode::kDeadlineExceeded);
  rig.ExpectRunsHere();
}

TEST(MigrationSourceTest, WhatNeverArrivesWholeIsNotSentForEver) {
  Rig rig;
  rig.shipper.arrives = false;
  const MigrationOutcome outcome = rig.Run();
  EXPECT_EQ(outcome.ending, Ending::kRunsHere);
  EXPECT_EQ(outcome.error->code(), ErrorCode::kDamaged);
  EXPECT_LT(rig.peer.exchanges, 12);
  rig.ExpectRunsHere();
}

// The operator aborts before each message in turn.
TEST(MigrationSourceTest, AbortAtAnyMomentEndsOnOneSide) {
  int here = 0;
  int moved = 0;
  for (int at = 1; at <= 6; ++at) {
    Rig rig;
    rig.before_message = [&](MessageKind) {
      if (rig.peer.exchanges == at) rig.source->Abort();
    };
    const MigrationOutcome outcome = rig.Run();
    SCOPED_TRACE(at);
    EXPECT_FALSE(rig.world.was_twice());
    outcome.ending == Ending::kMoved ? rig.ExpectMoved() : rig.ExpectRunsHere();
    if (outcome.ending == Ending::kRunsHere) {
      EXPECT_EQ(outcome.error->code(), ErrorCode::kCancelled);
      EXPECT_NE(rig.target.state().stage, Stage::kPrep);
    }
    here += outcome.ending == Ending::kRunsHere ? 1 : 0;
    moved += outcome.ending == Ending::kMoved ? 1 : 0;
  }
  EXPECT_GE(here, 1);
  EXPECT_GE(moved, 1);
}

// Released, but the target has not heard of it: it is asked to refuse, does, and the job runs on here.
TEST(MigrationSourceTest, AbortAfterReleaseAsksTheTargetToRefuse) {
  Rig rig;
  bool aborted = false;
  rig.peer.loses_request = [&](MessageKind kind) {
    if (kind != MessageKind::kRelease) return false;
    if (!std::exchange(aborted, true)) rig.source->Abort();
    return true;
  };
  const MigrationOutcome outcome = rig.Run();
  EXPECT_EQ(outcome.ending, Ending::kRunsHere);
  EXPECT_TRUE(rig.Wrote(Stage::kReleased));
  rig.ExpectRunsHere();
  rig.ExpectJournalsAgree();
}

TEST(MigrationSourceTest, AnAttemptThatWasTakenBackCanBeFollowedByAnother) {
  Rig rig;
  rig.target_faults.Arm("Prepare", Kind::kFailsOnce);
  EXPECT_EQ(rig.Run().ending, Ending::kRunsHere);
  const MigrationOutcome outcome = rig.Run();
  EXPECT_EQ(outcome.ending, Ending::kMoved);
  EXPECT_EQ(outcome.attempt, 2u);
  rig.ExpectMoved();
  rig.ExpectJournalsAgree();
}

TEST(MigrationSourceTest, ATargetThatLostItsJournalLeavesItInDoubtWithTheReason) {
  Rig rig;
  rig.stop_after = 60;
  bool lost = false;
  rig.before_message = [&](MessageKind kind) {
    if (kind != MessageKind::kRelease || std::exchange(lost, true)) return;
    rig.target.LoseJournal();
    rig.world.SetTarget(CopyState::kGone);
  };
  const MigrationOutcome outcome = rig.Run();
  EXPECT_EQ(outcome.ending, Ending::kInDoubt);
  ASSERT_TRUE(outcome.error);
  EXPECT_THAT(outcome.error->message(), HasSubstr("lost its journal"));
  EXPECT_FALSE(outcome.error->next_step().empty());
  EXPECT_EQ(rig.world.source(), CopyState::kStopped);
  EXPECT_TRUE(rig.world.source_image);
  EXPECT_EQ(rig.world.TimesStarted(), 0);
}

TEST(MigrationSourceTest, AResumeThatFailsIsTriedAgain) {
  Rig rig;
  rig.source_workload.after_capture = CopyState::kLive;
  rig.faults.Arm("Resume", Kind::kFailsOnce);
  EXPECT_EQ(rig.Run().ending, Ending::kRunsHere);
  rig.ExpectRunsHere();
}

TEST(MigrationSourceTest, AResumeThatNeverWorksLeavesItFrozenAndSaysSo) {
  Rig rig;
  rig.shipper.arrives = false;
  rig.faults.Arm("Resume", Kind::kFailsOn);
  const MigrationOutcome outcome = rig.Run();
  EXPECT_EQ(outcome.ending, Ending::kFrozenHere);
  EXPECT_THAT(outcome.error->message(), HasSubstr("Resume was made to fail"));
  EXPECT_FALSE(outcome.error->next_step().empty());
  EXPECT_EQ(rig.Restart().ending, Ending::kRunsHere);
  rig.ExpectRunsHere();
}

TEST(MigrationSourceTest, NothingLeftToResumeIsLostAndNotTriedForEver) {
  Rig rig;
  rig.shipper.arrives = false;
  rig.before_message = [&](MessageKind) {
    rig.world.SetSource(CopyState::kGone);
    rig.world.source_image = false;
  };
  const MigrationOutcome outcome = rig.Run();
  EXPECT_EQ(outcome.ending, Ending::kLost);
  EXPECT_THAT(outcome.error->message(), HasSubstr("no image"));
}

// Each state that a journal can be found in, with each thing the kernel can show.
TEST(MigrationSourceTest, RecoversFromEveryStateAndEveryCopy) {
  struct Row {
    std::string until;  // the agent is killed right after this call
    CopyState copy;
    Ending expected;
    bool runs_at_source;
  };
  const std::vector<Row> rows = {
      {"journal S_DUMP", CopyState::kLive, Ending::kRunsHere, true},
      {"journal S_DUMP", CopyState::kStopped, Ending::kRunsHere, true},
      {"journal S_SEALED", CopyState::kStopped, Ending::kMoved, false},
      {"journal S_SEALED", CopyState::kGone, Ending::kMoved, false},
      {"journal S_SEALED", CopyState::kLive, Ending::kRunsHere, true},
      {"journal S_RELEASED", CopyState::kStopped, Ending::kMoved, false},
      {"journal S_RELEASED", CopyState::kGone, Ending::kMoved, false},
      {"journal S_DONE", CopyState::kStopped, Ending::kMoved, false},
      {"journal S_DONE", CopyState::kGone, Ending::kMoved, false},
      {"Destroy", CopyState::kGone, Ending::kMoved, false},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.until + ", copy " + std::string(Name(row.copy)));
    Rig rig;
    rig.faults.Arm(row.until, Kind::kKillAfter);
    rig.Run();
    rig.world.SetSource(row.copy);
    const MigrationOutcome outcome = rig.Restart();
    EXPECT_EQ(outcome.ending, row.expected);
    row.runs_at_source ? rig.ExpectRunsHere() : rig.ExpectMoved();
  }
}

TEST(MigrationSourceTest, RecoversAnAbortedMigrationFromTreeOrImage) {
  for (const CopyState copy : {CopyState::kStopped, CopyState::kGone, CopyState::kLive}) {
    Rig rig;
    rig.peer.loses_request = [](MessageKind) { return true; };
    rig.faults.Arm("journal S_ABORTED", Kind::kKillAfter);
    rig.Run();
    ASSERT_TRUE(rig.faults.dead());
    rig.world.SetSource(copy);
    EXPECT_EQ(rig.Restart().ending, Ending::kRunsHere);
    rig.ExpectRunsHere();
  }
}

TEST(MigrationSourceTest, AnEndedMigrationIsLeftAloneByTheNextAgent) {
  Rig moved;
  moved.Run();
  const int before = moved.faults.count();
  EXPECT_EQ(moved.Restart().ending, Ending::kMoved);
  EXPECT_LE(moved.faults.count(), before + 2);  // a look, and DONE once more

  Rig here;
  here.source_workload.after_capture = CopyState::kLive;
  here.Run();
  here.world.SetSource(CopyState::kGone);  // it ended by itself since
  EXPECT_EQ(here.Restart().ending, Ending::kRunsHere);
  EXPECT_EQ(here.world.source(), CopyState::kGone);
}

}  // namespace
}  // namespace gpumig
