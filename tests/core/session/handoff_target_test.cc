#include "core/session/handoff_target.h"

#include <map>

#include "core/session/journal_check.h"
#include "tests/core/session/handoff_parts.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

namespace ev = target_event;

const ImageStatus kWhole = {true, {}};

// A target driven by events, which keeps its journal.
class DrivenTarget {
 public:
  DrivenTarget() {
    state_.binding = TestBinding();
    state_.journal = TargetJournal();
  }

  TargetStep On(const TargetEvent& event) {
    TargetStep step = Step(state_, event);
    state_ = step.state;
    if (step.record) records_.push_back(*step.record);
    return step;
  }
  std::string Does(const TargetEvent& event) { return Summary(On(event)); }
  std::string Gets(MessageKind kind, std::uint32_t attempt = 1, ImageStatus image = {}) {
    return Does(ev::Received{FromSource(AnyBody(kind), attempt), std::move(image)});
  }

  TargetState& state() { return state_; }
  const std::vector<StateRecord>& records() const { return records_; }

  static DrivenTarget At(Stage stage) {
    DrivenTarget target;
    target.Gets(MessageKind::kOffer);
    if (stage == Stage::kNone) return target;
    if (stage == Stage::kRef) {
      target.Gets(MessageKind::kAbort);
      target.On(ev::Discarded{});
      return target;
    }
    target.Gets(MessageKind::kOffer, 1, kWhole);
    target.On(ev::Prepared{1, {{"restore", std::chrono::microseconds(5)}}});
    if (stage == Stage::kPrep) return target;
    target.Gets(MessageKind::kRelease);
    if (stage == Stage::kAct) return target;
    target.On(ev::Started{{}, "pid 42"});
    if (stage == Stage::kRun) return target;
    target.Gets(MessageKind::kDone);
    return target;
  }

 private:
  TargetState state_;
  std::vector<StateRecord> records_;
};

constexpr std::array kTargetStages = {Stage::kNone, Stage::kPrep, Stage::kAct,
                                      Stage::kRun,  Stage::kRef,  Stage::kClosed};

TEST(HandoffTargetTest, StatesCarryTheNamesOfTheModel) {
  EXPECT_EQ(Name(Stage::kNone), "T_NONE");
  EXPECT_EQ(Name(Stage::kPrep), "T_PREP");
  EXPECT_EQ(Name(Stage::kAct), "T_ACT");
  EXPECT_EQ(Name(Stage::kRun), "T_RUN");
  EXPECT_EQ(Name(Stage::kRef), "T_REF");
  EXPECT_EQ(Name(Stage::kClosed), "T_CLOSED");
}

TEST(HandoffTargetTest, AMoveThatMeetsNoTroubleWritesEachStateBeforeItActs) {
  DrivenTarget target;
  EXPECT_EQ(target.Gets(MessageKind::kOffer), "T_NONE; HAVE; -");
  EXPECT_EQ(target.Gets(MessageKind::kOffer, 1, kWhole), "-; HAVE; prepare");
  EXPECT_EQ(target.Gets(MessageKind::kOffer, 1, kWhole), "-; HAVE; -");
  EXPECT_EQ(target.Does(ev::Prepared{1, {}}), "T_PREP; -; -");
  EXPECT_EQ(target.Gets(MessageKind::kOffer), "-; PREPARED; -");
  EXPECT_EQ(target.Gets(MessageKind::kRelease), "T_ACT; HAVE; start");
  EXPECT_EQ(target.Gets(MessageKind::kRelease), "-; HAVE; -");
  EXPECT_EQ(target.Does(ev::Started{{}, "pid 42"}), "T_RUN; -; -");
  EXPECT_EQ(target.Gets(MessageKind::kRelease), "-; RUNNING; -");
  EXPECT_EQ(target.Gets(MessageKind::kDone), "T_CLOSED; DONE; -");
  EXPECT_THAT(CheckRecords(Side::kTarget, target.records()), IsOk());
}

TEST(HandoffTargetTest, EveryMessageInEveryStateDoesWhatTheTableSays) {
  using K = MessageKind;
  const std::string nothing = "-; -; -";
  const std::map<std::pair<Stage, K>, std::string> table = {
      {{Stage::kNone, K::kOffer}, "-; HAVE; -"},
      {{Stage::kNone, K::kRelease}, "-; UNKNOWN; -"},
      {{Stage::kNone, K::kDone}, "-; HAVE; -"},
      {{Stage::kNone, K::kAbort}, "T_REF; REFUSED; discard"},
      {{Stage::kNone, K::kQuery}, "-; HAVE; -"},
      {{Stage::kPrep, K::kOffer}, "-; PREPARED; -"},
      {{Stage::kPrep, K::kRelease}, "T_ACT; HAVE; start"},
      {{Stage::kPrep, K::kDone}, "-; PREPARED; -"},
      {{Stage::kPrep, K::kAbort}, "T_REF; REFUSED; discard"},
      {{Stage::kPrep, K::kQuery}, "-; PREPARED; -"},
      {{Stage::kAct, K::kOffer}, "-; HAVE; -"},
      {{Stage::kAct, K::kRelease}, "-; HAVE; -"},
      {{Stage::kAct, K::kDone}, "-; HAVE; -"},
      {{Stage::kAct, K::kAbort}, "-; HAVE; -"},
      {{Stage::kAct, K::kQuery}, "-; HAVE; -"},
      {{Stage::kRun, K::kOffer}, "-; RUNNING; -"},
      {{Stage::kRun, K::kRelease}, "-; RUNNING; -"},
      {{Stage::kRun, K::kDone}, "T_CLOSED; DONE; -"},
      {{Stage::kRun, K::kAbort}, "-; RUNNING; -"},
      {{Stage::kRun, K::kQuery}, "-; RUNNING; -"},
      {{Stage::kRef, K::kOffer}, "-; REFUSED; -"},
      {{Stage::kRef, K::kRelease}, "-; REFUSED; -"},
      {{Stage::kRef, K::kDone}, "-; REFUSED; -"},
      {{Stage::kRef, K::kAbort}, "-; REFUSED; -"},
      {{Stage::kRef, K::kQuery}, "-; REFUSED; -"},
      {{Stage::kClosed, K::kOffer}, "-; RUNNING; -"},
      {{Stage::kClosed, K::kRelease}, "-; RUNNING; -"},
      {{Stage::kClosed, K::kDone}, "-; DONE; -"},
      {{Stage::kClosed, K::kAbort}, "-; RUNNING; -"},
      {{Stage::kClosed, K::kQuery}, "-; RUNNING; -"},
  };
  for (const Stage stage : kTargetStages) {
    for (int kind = 0; kind < kMessageKindCount; ++kind) {
      const auto k = static_cast<K>(kind);
      DrivenTarget target = DrivenTarget::At(stage);
      ASSERT_EQ(target.state().stage, stage);
      const auto expected = table.find({stage, k});
      EXPECT_EQ(target.Gets(k), expected == table.end() ? nothing : expected->second)
          << Name(k) << " in " << Name(stage);
      EXPECT_THAT(CheckRecords(Side::kTarget, target.records()), IsOk());
    }
  }
}

TEST(HandoffTargetTest, EveryEventInEveryStateDoesWhatTheTableSays) {
  const std::string nothing = "-; -; -";
  struct Row {
    std::string name;
    TargetEvent event;
    std::array<std::string, 6> expected;  // in the order of kTargetStages
  };
  const std::vector<Row> rows = {
      {"expired", ev::Expired{}, {"T_REF; -; discard", "T_REF; -; discard", nothing, nothing, nothing, nothing}},
      {"abort", ev::OperatorAbort{}, {"T_REF; -; discard", "T_REF; -; discard", nothing, nothing, nothing, nothing}},
      {"prepared, unasked", ev::Prepared{1, {}}, {nothing, nothing, nothing, nothing, nothing, nothing}},
      {"prepare failed, unasked", ev::PrepareFailed{1, "x"}, {nothing, nothing, nothing, nothing, nothing, nothing}},
      {"started, unasked but in ACT", ev::Started{}, {nothing, nothing, "T_RUN; -; -", nothing, nothing, nothing}},
      {"start failed, unasked but in ACT",
       ev::StartFailed{"x"},
       {nothing, nothing, nothing, nothing, nothing, nothing}},
      {"tick", ev::Tick{}, {nothing, nothing, nothing, nothing, nothing, nothing}},
      {"restart, gone",
       ev::Restarted{CopyState::kGone},
       {nothing, "-; -; prepare", "-; -; prepare", nothing, nothing, nothing}},
      {"restart, stopped",
       ev::Restarted{CopyState::kStopped},
       {"-; -; discard", nothing, "-; -; start", nothing, nothing, nothing}},
      {"restart, live",
       ev::Restarted{CopyState::kLive},
       {"-; -; discard", "T_REF; -; discard!", "-; -; start", nothing, nothing, nothing}},
  };
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < kTargetStages.size(); ++i) {
      DrivenTarget target = DrivenTarget::At(kTargetStages[i]);
      EXPECT_EQ(target.Does(row.event), row.expected[i]) << row.name << " in " << Name(kTargetStages[i]);
      EXPECT_THAT(CheckRecords(Side::kTarget, target.records()), IsOk());
    }
  }
}

TEST(HandoffTargetTest, ActsOnNoMessageThatIsBoundToSomethingElse) {
  const auto wrong = [](auto change) {
    Message message = FromSource(Release{});
    change(message);
    DrivenTarget target = DrivenTarget::At(Stage::kPrep);
    const TargetStep step = target.On(ev::Received{message, {}});
    EXPECT_EQ(step.state.stage, Stage::kPrep);
    return Summary(step);
  };
  EXPECT_EQ(wrong([](Message& m) { m.migration = IdOf<MigrationId>(8); }), "-; -; -");
  EXPECT_EQ(wrong([](Message& m) { m.to = "node-c"; }), "-; -; -");
  EXPECT_EQ(wrong([](Message& m) { m.from = "node-c"; }), "-; -; -");
  EXPECT_EQ(wrong([](Message& m) { m.manifest = ImageOf(2); }), "-; -; -");
  EXPECT_EQ(wrong([](Message& m) { m.attempt = 0; }), "-; -; -");
  EXPECT_EQ(wrong([](Message& m) { m.attempt = 2; }), "-; UNKNOWN; -");
  EXPECT_EQ(wrong([](Message& m) { m.target_journal = OtherJournal(); }), "-; UNKNOWN; -");
}

TEST(HandoffTargetTest, AnEarlierAttemptCannotReleaseALaterOne) {
  DrivenTarget target = DrivenTarget::At(Stage::kPrep);
  EXPECT_EQ(target.Gets(MessageKind::kOffer, 2, kWhole), "T_NONE; HAVE; discard");
  target.On(ev::Discarded{});
  EXPECT_EQ(target.Gets(MessageKind::kOffer, 2, kWhole), "-; HAVE; prepare");
  target.On(ev::Prepared{2, {}});
  ASSERT_EQ(target.state().stage, Stage::kPrep);
  EXPECT_EQ(target.Gets(MessageKind::kRelease, 1), "-; -; -");
  EXPECT_EQ(target.state().stage, Stage::kPrep);
}

TEST(HandoffTargetTest, NothingIsPreparedWhileAnEarlierCopyIsStillBeingDiscarded) {
  DrivenTarget target = DrivenTarget::At(Stage::kPrep);
  target.Gets(MessageKind::kOffer, 2, kWhole);
  EXPECT_EQ(target.Gets(MessageKind::kOffer, 2, kWhole), "-; HAVE; -");
  target.On(ev::Discarded{});
  EXPECT_EQ(target.Gets(MessageKind::kOffer, 2, kWhole), "-; HAVE; prepare");
}

TEST(HandoffTargetTest, WhatItOwnsNoLaterAttemptTakes) {
  for (const Stage stage : {Stage::kAct, Stage::kRun, Stage::kClosed}) {
    DrivenTarget target = DrivenTarget::At(stage);
    EXPECT_EQ(target.Gets(MessageKind::kOffer, 2, kWhole), "-; -; -!");
    EXPECT_EQ(target.Gets(MessageKind::kAbort, 2), "-; -; -!");
    EXPECT_EQ(target.state().stage, stage);
  }
}

TEST(HandoffTargetTest, AnAbortThatOvertookItsOfferLeavesATombstone) {
  DrivenTarget target = DrivenTarget::At(Stage::kRef);
  EXPECT_EQ(target.Gets(MessageKind::kAbort, 2), "T_REF; REFUSED; discard");
  EXPECT_EQ(target.Gets(MessageKind::kOffer, 2, kWhole), "-; REFUSED; -");
}

TEST(HandoffTargetTest, AFailedPreparationIsARefusalWithItsReason) {
  DrivenTarget target = DrivenTarget::At(Stage::kNone);
  target.Gets(MessageKind::kOffer, 1, kWhole);
  EXPECT_EQ(target.Does(ev::PrepareFailed{1, "2 GiB of device memory free, 40 GiB needed"}), "T_REF; -; discard");
  const TargetStep step = target.On(ev::Received{FromSource(Offer{}), {}});
  ASSERT_TRUE(step.reply && step.reply->kind() == MessageKind::kRefused);
  EXPECT_EQ(std::get<Refused>(step.reply->body).cause,
            (Cause{Reason::kPrepareFailed, "2 GiB of device memory free, 40 GiB needed"}));
}

TEST(HandoffTargetTest, APreparationOfAnEarlierAttemptCountsForNothing) {
  DrivenTarget target = DrivenTarget::At(Stage::kNone);
  target.Gets(MessageKind::kOffer, 1, kWhole);
  target.Gets(MessageKind::kOffer, 2);
  EXPECT_EQ(target.Does(ev::Prepared{1, {}}), "-; -; -");
  EXPECT_EQ(target.state().stage, Stage::kNone);
}

TEST(HandoffTargetTest, AFailedStartIsTriedAgainAndTheImageIsNeverDropped) {
  DrivenTarget target = DrivenTarget::At(Stage::kAct);
  EXPECT_EQ(target.Does(ev::StartFailed{"x"}), "-; -; -");
  EXPECT_EQ(target.Does(ev::Tick{}), "-; -; prepare");
  EXPECT_EQ(target.Does(ev::PrepareFailed{1, "x"}), "-; -; -");
  EXPECT_EQ(target.Does(ev::Tick{}), "-; -; prepare");
  EXPECT_EQ(target.Does(ev::Prepared{1, {}}), "-; -; start");
  EXPECT_EQ(target.Does(ev::StartFailed{"no GPU"}), "-; -; -!");
  EXPECT_EQ(target.Does(ev::Tick{}), "-; -; prepare");
  EXPECT_EQ(target.state().stage, Stage::kAct);
  target.On(ev::Prepared{1, {}});
  EXPECT_EQ(target.Does(ev::Started{}), "T_RUN; -; -");
}

TEST(HandoffTargetTest, ARebootedTargetPromisesAgainOnlyWhenItIsPreparedAgain) {
  DrivenTarget target = DrivenTarget::At(Stage::kPrep);
  target.state() = RecoverTarget(TestBinding(), TargetJournal(), target.records());
  EXPECT_EQ(target.Does(ev::Restarted{CopyState::kGone}), "-; -; prepare");
  EXPECT_EQ(target.Gets(MessageKind::kOffer), "-; HAVE; -");
  // A RELEASE that comes now is honoured, and acted upon when it is ready.
  EXPECT_EQ(target.Gets(MessageKind::kRelease), "T_ACT; HAVE; -");
  EXPECT_EQ(target.Does(ev::Prepared{1, {}}), "-; -; start");
}

TEST(HandoffTargetTest, ACopyFoundRunningWithoutLeaveEndsBeforeTheSourceHearsOfARefusal) {
  DrivenTarget target = DrivenTarget::At(Stage::kPrep);
  EXPECT_EQ(target.Does(ev::Restarted{CopyState::kLive}), "T_REF; -; discard!");
  EXPECT_EQ(target.Gets(MessageKind::kOffer), "-; HAVE; -");
  EXPECT_EQ(target.Does(ev::Discarded{}), "T_REF settled; -; -");
  EXPECT_EQ(target.Gets(MessageKind::kOffer), "-; REFUSED; -");
}

TEST(HandoffTargetTest, ALostJournalDoesNotEndAWorkloadThatRunsHere) {
  DrivenTarget target;
  target.On(ev::Restarted{CopyState::kLive});
  EXPECT_EQ(target.Gets(MessageKind::kOffer, 1, kWhole), "-; -; -!");
  // Found by the simulator: a late ABORT would have ended it.
  EXPECT_EQ(target.Gets(MessageKind::kAbort), "-; -; -!");
  EXPECT_EQ(target.Gets(MessageKind::kRelease), "-; UNKNOWN; -");
}

TEST(HandoffTargetTest, AFailedDiscardIsTriedAgain) {
  DrivenTarget target = DrivenTarget::At(Stage::kPrep);
  target.Gets(MessageKind::kAbort);
  EXPECT_EQ(target.Does(ev::Tick{}), "-; -; -");
  target.On(ev::DiscardFailed{});
  EXPECT_EQ(target.Does(ev::Tick{}), "-; -; discard");
  EXPECT_EQ(target.Does(ev::Discarded{}), "T_REF settled; -; -");
}

TEST(HandoffTargetTest, ABrokenJournalStopsEverything) {
  DrivenTarget target = DrivenTarget::At(Stage::kPrep);
  const TargetStep lost = Step(target.state(), ev::Received{FromSource(Release{}), {}});
  EXPECT_EQ(target.Does(ev::JournalFailed{*lost.record}), "-; -; stop!");
  EXPECT_EQ(target.Does(ev::Expired{}), "-; -; -");
  EXPECT_EQ(target.Does(ev::Tick{}), "-; -; -");
}

TEST(HandoffTargetTest, RecoversFromItsRecordsWhatIsDurableAndNothingElse) {
  for (const Stage stage : kTargetStages) {
    DrivenTarget target = DrivenTarget::At(stage);
    const TargetState recovered = RecoverTarget(TestBinding(), TargetJournal(), target.records());
    EXPECT_EQ(recovered.stage, stage);
    EXPECT_EQ(recovered.attempt, 1u);
    EXPECT_EQ(recovered.manifest, ImageOf(1));
    EXPECT_EQ(recovered.settled, stage == Stage::kRef);
    EXPECT_EQ(recovered.copy, CopyState::kGone);
    EXPECT_FALSE(recovered.preparing || recovered.starting || recovered.discarding);
  }
}

TEST(HandoffTargetTest, ANodeWithoutAJournalSaysThatItKnowsNothing) {
  const Message answer = AnswerUnknown(FromSource(Release{}));
  EXPECT_EQ(answer.kind(), MessageKind::kUnknown);
  EXPECT_EQ(answer.from, "node-b");
  EXPECT_TRUE(answer.target_journal.IsNone());
}

}  // namespace
}  // namespace gpumig
