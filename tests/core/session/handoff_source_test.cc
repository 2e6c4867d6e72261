#include "core/session/handoff_source.h"

#include <map>

#include "core/session/journal_check.h"
#include "tests/core/session/handoff_parts.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

namespace ev = source_event;

// A source driven by events, which keeps its journal.
class DrivenSource {
 public:
  DrivenSource() { state_.binding = TestBinding(); }

  SourceStep On(const SourceEvent& event) {
    SourceStep step = Step(state_, event);
    state_ = step.state;
    if (step.record) records_.push_back(*step.record);
    return step;
  }
  std::string Does(const SourceEvent& event) { return Summary(On(event)); }
  std::string Gets(MessageKind kind) { return Does(ev::Received{FromTarget(AnyBody(kind))}); }

  const SourceState& state() const { return state_; }
  SourceState& state() { return state_; }
  const std::vector<StateRecord>& records() const { return records_; }

  static DrivenSource At(Stage stage) {
    DrivenSource source;
    source.On(ev::BeginAttempt{});
    if (stage == Stage::kDump) return source;
    source.On(ev::CaptureSealed{ImageOf(1)});
    if (stage == Stage::kSealed) return source;
    if (stage == Stage::kAborted) {
      source.On(ev::Deadline{});
      return source;
    }
    source.Gets(MessageKind::kPrepared);
    if (stage == Stage::kReleased) return source;
    source.Gets(MessageKind::kRunning);
    return source;
  }

 private:
  SourceState state_;
  std::vector<StateRecord> records_;
};

constexpr std::array kSourceStages = {Stage::kDump, Stage::kSealed, Stage::kReleased, Stage::kAborted, Stage::kDone};

TEST(HandoffSourceTest, StatesCarryTheNamesOfTheModel) {
  EXPECT_EQ(Name(Stage::kDump), "S_DUMP");
  EXPECT_EQ(Name(Stage::kSealed), "S_SEALED");
  EXPECT_EQ(Name(Stage::kReleased), "S_RELEASED");
  EXPECT_EQ(Name(Stage::kAborted), "S_ABORTED");
  EXPECT_EQ(Name(Stage::kDone), "S_DONE");
}

TEST(HandoffSourceTest, AMoveThatMeetsNoTroubleWritesEachStateBeforeItActs) {
  DrivenSource source;
  EXPECT_EQ(source.Does(ev::BeginAttempt{}), "S_DUMP; -; capture");
  EXPECT_EQ(source.Does(ev::CaptureSealed{ImageOf(1)}), "S_SEALED; OFFER; -");
  EXPECT_EQ(source.Gets(MessageKind::kHave), "-; -; ship");
  EXPECT_EQ(source.Does(ev::Tick{}), "-; OFFER; -");
  EXPECT_EQ(source.Gets(MessageKind::kPrepared), "S_RELEASED; RELEASE; -");
  EXPECT_EQ(source.Does(ev::Tick{}), "-; RELEASE; -");
  EXPECT_EQ(source.Gets(MessageKind::kRunning), "S_DONE; DONE; destroy");
  EXPECT_EQ(source.Does(ev::Destroyed{}), "S_DONE settled; -; -");
  EXPECT_EQ(source.Does(ev::Tick{}), "-; DONE; -");
  EXPECT_EQ(source.Gets(MessageKind::kDone), "-; -; -");
  EXPECT_EQ(source.Does(ev::Tick{}), "-; -; -");
  EXPECT_THAT(CheckRecords(Side::kSource, source.records()), IsOk());
}

// Every message in every state.
TEST(HandoffSourceTest, EveryMessageInEveryStateDoesWhatTheTableSays) {
  using K = MessageKind;
  const std::string nothing = "-; -; -";
  const std::map<std::pair<Stage, K>, std::string> table = {
      {{Stage::kSealed, K::kHave}, "-; -; ship"},
      {{Stage::kSealed, K::kPrepared}, "S_RELEASED; RELEASE; -"},
      {{Stage::kSealed, K::kRunning}, "-; -; -!"},
      {{Stage::kSealed, K::kRefused}, "S_ABORTED; -; resume"},
      {{Stage::kSealed, K::kQuery}, "-; OFFER; -"},
      {{Stage::kReleased, K::kRunning}, "S_DONE; DONE; destroy"},
      {{Stage::kReleased, K::kRefused}, "S_ABORTED; -; resume"},
      {{Stage::kReleased, K::kQuery}, "-; RELEASE; -"},
      {{Stage::kReleased, K::kUnknown}, "-; -; -!"},
      {{Stage::kAborted, K::kHave}, "-; ABORT; -"},
      {{Stage::kAborted, K::kPrepared}, "-; ABORT; -"},
      {{Stage::kAborted, K::kRunning}, "-; -; -!"},
      {{Stage::kAborted, K::kQuery}, "-; ABORT; -"},
      {{Stage::kDone, K::kRunning}, "-; DONE; -"},
      {{Stage::kDone, K::kQuery}, "-; DONE; -"},
  };
  for (const Stage stage : kSourceStages) {
    for (int kind = 0; kind < kMessageKindCount; ++kind) {
      const auto k = static_cast<K>(kind);
      DrivenSource source = DrivenSource::At(stage);
      ASSERT_EQ(source.state().stage, stage);
      const auto expected = table.find({stage, k});
      EXPECT_EQ(source.Gets(k), expected == table.end() ? nothing : expected->second)
          << Name(k) << " in " << Name(stage);
      EXPECT_THAT(CheckRecords(Side::kSource, source.records()), IsOk());
    }
  }
}

// Every other event in every state.
TEST(HandoffSourceTest, EveryEventInEveryStateDoesWhatTheTableSays) {
  const std::string nothing = "-; -; -";
  struct Row {
    std::string name;
    SourceEvent event;
    std::array<std::string, 5> expected;  // in the order of kSourceStages
  };
  const std::vector<Row> rows = {
      {"begin attempt", ev::BeginAttempt{}, {nothing, nothing, nothing, nothing, nothing}},
      {"sealed", ev::CaptureSealed{ImageOf(1)}, {"S_SEALED; OFFER; -", nothing, nothing, nothing, nothing}},
      {"sealed, and live",
       ev::CaptureSealed{ImageOf(1), CopyState::kLive},
       {"S_ABORTED; -; resume", nothing, nothing, nothing, nothing}},
      {"sealed, and gone",
       ev::CaptureSealed{ImageOf(1), CopyState::kGone},
       {"S_ABORTED; -; resume", nothing, nothing, nothing, nothing}},
      {"capture failed", ev::CaptureFailed{"x"}, {"S_ABORTED; -; resume", nothing, nothing, nothing, nothing}},
      {"ship failed", ev::ShipFailed{"x"}, {nothing, "S_ABORTED; -; resume", nothing, nothing, nothing}},
      {"resumed", ev::Resumed{}, {nothing, nothing, nothing, "S_ABORTED settled; ABORT; -", nothing}},
      {"destroyed", ev::Destroyed{}, {nothing, nothing, nothing, nothing, "S_DONE settled; -; -"}},
      {"tick", ev::Tick{}, {nothing, "-; OFFER; -", "-; RELEASE; -", "-; ABORT; resume", "-; DONE; destroy"}},
      {"deadline", ev::Deadline{}, {nothing, "S_ABORTED; -; resume", nothing, nothing, nothing}},
      {"abort", ev::OperatorAbort{}, {nothing, "S_ABORTED; -; resume", "-; ABORT; -", nothing, nothing}},
      {"restart, live",
       ev::Restarted{CopyState::kLive},
       {"S_ABORTED; -; resume", "S_ABORTED; -; resume", "-; RELEASE; -", "-; -; resume", "-; DONE; destroy"}},
      {"restart, stopped",
       ev::Restarted{CopyState::kStopped},
       {"S_ABORTED; -; resume", "-; OFFER; -", "-; RELEASE; -", "-; -; resume", "-; DONE; destroy"}},
      {"restart, gone",
       ev::Restarted{CopyState::kGone},
       {"S_ABORTED; -; resume", "-; OFFER; -", "-; RELEASE; -", "-; -; resume", "-; DONE; destroy"}},
  };
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < kSourceStages.size(); ++i) {
      DrivenSource source = DrivenSource::At(kSourceStages[i]);
      EXPECT_EQ(source.Does(row.event), row.expected[i]) << row.name << " in " << Name(kSourceStages[i]);
      EXPECT_THAT(CheckRecords(Side::kSource, source.records()), IsOk());
    }
  }
}

TEST(HandoffSourceTest, ActsOnNoMessageThatIsBoundToSomethingElse) {
  const auto wrong = [](auto change) {
    Message message = FromTarget(Prepared{});
    change(message);
    DrivenSource source = DrivenSource::At(Stage::kSealed);
    const SourceStep step = source.On(ev::Received{message});
    EXPECT_FALSE(step.ignored.empty());
    return Summary(step);
  };
  EXPECT_EQ(wrong([](Message& m) { m.migration = IdOf<MigrationId>(8); }), "-; -; -");
  EXPECT_EQ(wrong([](Message& m) { m.from = "node-c"; }), "-; -; -");
  EXPECT_EQ(wrong([](Message& m) { m.to = "node-c"; }), "-; -; -");
  EXPECT_EQ(wrong([](Message& m) { std::swap(m.from, m.to); }), "-; -; -");
  EXPECT_EQ(wrong([](Message& m) { m.manifest = ImageOf(2); }), "-; -; -");
  EXPECT_EQ(wrong([](Message& m) { m.attempt = 2; }), "-; -; -");
  EXPECT_EQ(wrong([](Message& m) { m.target_journal = {}; }), "-; -; -");
}

TEST(HandoffSourceTest, TellsAnEarlierAttemptThatItIsOver) {
  DrivenSource source = DrivenSource::At(Stage::kAborted);
  source.On(ev::Resumed{});
  source.On(ev::BeginAttempt{});
  source.On(ev::CaptureSealed{ImageOf(2)});
  const SourceStep step = source.On(ev::Received{FromTarget(Prepared{}, 1)});
  ASSERT_EQ(Summary(step), "-; ABORT; -");
  EXPECT_EQ(step.messages[0].attempt, 1u);
  EXPECT_EQ(source.Does(ev::Received{FromTarget(Running{}, 1)}), "-; -; -");
}

TEST(HandoffSourceTest, AnotherJournalThanTheOnePromisedLeavesItInDoubtAndSaysWhy) {
  for (const MessageKind kind : {MessageKind::kUnknown, MessageKind::kRefused, MessageKind::kRunning}) {
    DrivenSource source = DrivenSource::At(Stage::kReleased);
    Message message = FromTarget(AnyBody(kind));
    message.target_journal = OtherJournal();
    const SourceStep step = source.On(ev::Received{message});
    EXPECT_EQ(Summary(step), "-; -; -!");
    EXPECT_EQ(step.state.stage, Stage::kReleased);
    EXPECT_EQ(step.state.doubt, Doubt::kTargetJournalLost);
    EXPECT_NE(step.alarm.find("lost its journal"), std::string::npos);
    // Said once, not with every answer.
    EXPECT_EQ(source.Does(ev::Received{message}), "-; -; -");
  }
}

TEST(HandoffSourceTest, AbortDuringTheCaptureWaitsForItsEnd) {
  DrivenSource source = DrivenSource::At(Stage::kDump);
  source.On(ev::OperatorAbort{});
  EXPECT_EQ(source.Does(ev::CaptureSealed{ImageOf(1)}), "S_ABORTED; -; resume");
  EXPECT_EQ(source.state().cause.reason, Reason::kOperator);
}

TEST(HandoffSourceTest, ANewAttemptBeginsOnlyWhenTheLastOneIsTakenBackAndItRuns) {
  DrivenSource source = DrivenSource::At(Stage::kAborted);
  EXPECT_EQ(source.Does(ev::BeginAttempt{}), "-; -; -");
  source.On(ev::Resumed{});
  EXPECT_EQ(source.Does(ev::BeginAttempt{}), "S_DUMP; -; capture");
  // Also where the capture failed: what it left must be resumed first.
  source.On(ev::CaptureFailed{"x"});
  EXPECT_EQ(source.Does(ev::BeginAttempt{}), "-; -; -");
  EXPECT_EQ(source.Does(ev::Tick{}), "-; -; resume");
  source.On(ev::Resumed{});
  source.On(ev::BeginAttempt{});
  EXPECT_EQ(source.state().attempt, 3u);
  EXPECT_TRUE(source.state().manifest.IsNone());
}

TEST(HandoffSourceTest, AttemptsHaveALimit) {
  DrivenSource source;
  for (std::uint32_t i = 0; i < kMaxAttempt; ++i) {
    source.On(ev::BeginAttempt{});
    source.On(ev::CaptureFailed{"x"});
    source.On(ev::Resumed{});
  }
  EXPECT_EQ(source.Does(ev::BeginAttempt{}), "-; -; -");
  EXPECT_THAT(CheckRecords(Side::kSource, source.records()), IsOk());
}

// The journal cannot be written: what the state before that step does.
TEST(HandoffSourceTest, ABrokenJournalBringsItBackUnlessItMayHaveBeenReleased) {
  const auto fails = [](DrivenSource& source, const SourceEvent& event) {
    const SourceStep step = Step(source.state(), event);
    EXPECT_TRUE(step.record.has_value());
    return source.Does(ev::JournalFailed{*step.record});
  };
  DrivenSource at_begin;
  EXPECT_EQ(fails(at_begin, ev::BeginAttempt{}), "-; -; stop!");
  EXPECT_EQ(at_begin.state().copy, CopyState::kLive);

  DrivenSource at_seal = DrivenSource::At(Stage::kDump);
  EXPECT_EQ(fails(at_seal, ev::CaptureSealed{ImageOf(1)}), "-; -; resume!");
  EXPECT_EQ(at_seal.state().cause.reason, Reason::kJournalFailed);
  EXPECT_EQ(at_seal.Does(ev::Resumed{}), "-; -; -");
  EXPECT_EQ(at_seal.Does(ev::BeginAttempt{}), "-; -; -");

  DrivenSource at_abort = DrivenSource::At(Stage::kSealed);
  EXPECT_EQ(fails(at_abort, ev::Deadline{}), "-; -; resume!");
  EXPECT_EQ(at_abort.state().cause.reason, Reason::kDeadline);
  // PREPARED must not be acted upon any more; the target hears that it is over.
  EXPECT_EQ(at_abort.Gets(MessageKind::kPrepared), "-; ABORT; -");

  DrivenSource at_release = DrivenSource::At(Stage::kSealed);
  EXPECT_EQ(fails(at_release, ev::Received{FromTarget(Prepared{})}), "-; -; stop!");

  DrivenSource at_refusal = DrivenSource::At(Stage::kReleased);
  EXPECT_EQ(fails(at_refusal, ev::Received{FromTarget(Refused{})}), "-; -; stop!");

  DrivenSource at_done = DrivenSource::At(Stage::kReleased);
  EXPECT_EQ(fails(at_done, ev::Received{FromTarget(Running{})}), "-; -; stop!");

  DrivenSource at_settling = DrivenSource::At(Stage::kAborted);
  EXPECT_EQ(fails(at_settling, ev::Resumed{}), "-; -; stop!");
  EXPECT_EQ(at_settling.state().copy, CopyState::kLive);
}

TEST(HandoffSourceTest, RecoversFromItsRecordsWhatIsDurableAndNothingElse) {
  for (const Stage stage : kSourceStages) {
    const DrivenSource source = DrivenSource::At(stage);
    SourceState expected = source.state();
    expected.copy = CopyState::kGone;
    EXPECT_EQ(RecoverSource(TestBinding(), source.records()), expected) << Name(stage);
  }
  EXPECT_EQ(RecoverSource(TestBinding(), {}).attempt, 0u);
}

TEST(HandoffSourceTest, WhatIsSettledIsLeftAloneAfterARestart) {
  DrivenSource source = DrivenSource::At(Stage::kAborted);
  source.On(ev::Resumed{});
  // The workload ended by itself since: it must not be brought back from its image.
  source.state() = RecoverSource(TestBinding(), source.records());
  EXPECT_EQ(source.Does(ev::Restarted{CopyState::kGone}), "-; -; -");
}

}  // namespace
}  // namespace gpumig
