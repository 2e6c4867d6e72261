#include "tests/core/session/handoff_simulator.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "core/session/journal_check.h"
#include "tests/core/session/handoff_parts.h"

namespace gpumig {
namespace {

constexpr int kAllChunks = 3;  // two chunks stand for all
constexpr int kWildSteps = 240;
constexpr int kCalmRounds = 60;

// A message, or a chunk of an image on its way to the target.
struct Packet {
  std::optional<Message> message;
  ManifestDigest image;
  int chunk = 0;
};

struct QueuedTargetAction {
  TargetAction action;
  std::uint32_t attempt;
  ManifestDigest manifest;
};

// What an agent that runs has in memory; gone when it is killed.
struct SourceProcess {
  SourceState state;
  std::deque<SourceAction> actions;
  ImageStatus to_ship;
  bool stopped = false;  // asked for a restart
};
struct TargetProcess {
  TargetState state;
  std::deque<QueuedTargetAction> actions;
  bool stopped = false;
};

class Simulation {
 public:
  explicit Simulation(const SimulationOptions& options) : options_(options), random_(options.seed) {
    faults_left_ = static_cast<int>(random_() % 10);
    StartSource(/*first=*/true);
    StartTarget();
  }

  SimulationResult Run() {
    OnSource(source_event::BeginAttempt{});
    for (int i = 0; i < kWildSteps && result_.broken.empty(); ++i) WildStep();
    faults_left_ = 0;
    for (int round = 0; round < kCalmRounds && result_.broken.empty() && !Ended(); ++round) CalmRound(round);
    if (result_.broken.empty()) CheckEnd();
    result_.faults = faults_;
    return std::move(result_);
  }

 private:
  // ---- chance

  bool OneIn(unsigned n) { return random_() % n == 0; }
  bool Fault(unsigned one_in) {
    if (faults_left_ == 0 || !OneIn(one_in)) return false;
    --faults_left_;
    ++faults_;
    return true;
  }
  bool Is(Mutant mutant) const { return options_.mutant == mutant; }

  template <typename... Args>
  void Trace(fmt::format_string<Args...> format, Args&&... args) {
    if (options_.trace) result_.trace += fmt::format(format, std::forward<Args>(args)...) + "\n";
  }

  // ---- the order of events

  // One of the things that can happen now. Ticks and trouble are rarer than progress.
  void WildStep() {
    ++result_.steps;
    std::array<unsigned, 9> weights = {4, 4, 3, 3, 1, 1, 1, 2, 1};
    if (to_target_.empty()) weights[0] = 0;
    if (to_source_.empty()) weights[1] = 0;
    if (source_.actions.empty()) weights[2] = 0;
    if (target_.actions.empty()) weights[3] = 0;
    if (delayed_.empty()) weights[8] = 0;
    unsigned sum = 0;
    for (const unsigned weight : weights) sum += weight;
    unsigned drawn = static_cast<unsigned>(random_() % sum);
    std::size_t chosen = 0;
    while (drawn >= weights[chosen]) drawn -= weights[chosen++];
    switch (chosen) {
      case 0:
        return DeliverToTarget();
      case 1:
        return DeliverToSource();
      case 2:
        return PerformSource();
      case 3:
        return PerformTarget();
      case 4:
        return OnSource(source_event::Tick{});
      case 5:
        return OnTarget(target_event::Tick{});
      case 6:
        return SomethingRare();
      case 7:
        return SomethingBreaks();
      default:
        return DelayedArrives();
    }
  }

  void SomethingRare() {
    switch (random_() % 8) {
      case 0:
        return OnSource(source_event::Deadline{});
      case 1:
        return OnSource(source_event::OperatorAbort{});
      case 2:
        return OnTarget(target_event::Expired{});
      case 3:
        return OnTarget(target_event::OperatorAbort{});
      case 4:
      case 5:
        return Delay();
      default:
        return BeginAgain();
    }
  }

  void BeginAgain() {
    if (source_.state.stage == Stage::kAborted && source_.state.attempt < 3 && !source_.stopped)
      OnSource(source_event::BeginAttempt{});
  }

  void SomethingBreaks() {
    if (!Fault(6)) return;
    switch (random_() % 8) {
      case 0:
        return KillSource();
      case 1:
        return KillTarget();
      case 2:
        return RebootSource();
      case 3:
        return RebootTarget();
      case 4:
        return LosePackets();
      case 5:
        return DumpDies();
      case 6:
        return ForgetTargetJournal();
      default:
        return DieForGood();
    }
  }

  // No more faults: everything that waits happens, agents are started again, and clocks run out in the end.
  void CalmRound(int round) {
    ++result_.steps;
    if (source_.stopped) KillSource();
    if (target_.stopped) KillTarget();
    for (int i = 0; i < 40 && !to_target_.empty() && result_.broken.empty(); ++i) DeliverToTarget();
    while (!target_.actions.empty() && !target_.stopped && !target_dead_ && result_.broken.empty()) PerformTarget();
    for (int i = 0; i < 40 && !to_source_.empty() && result_.broken.empty(); ++i) DeliverToSource();
    while (!source_.actions.empty() && !source_.stopped && !source_dead_ && result_.broken.empty()) PerformSource();
    if (!result_.broken.empty()) return;
    OnSource(source_event::Tick{});
    OnTarget(target_event::Tick{});
    if (round == 30) OnSource(source_event::Deadline{});
    if (round == 40) OnTarget(target_event::Expired{});
  }

  // ---- the source

  void StartSource(bool first) {
    source_ = {};
    source_.state = RecoverSource(TestBinding(), source_disk_);
    if (!first) OnSource(source_event::Restarted{source_copy_});
  }

  void OnSource(const SourceEvent& event) {
    if (source_dead_ || source_.stopped) return;
    if (!source_.actions.empty() && MustWait(event)) return;
    if (Is(Mutant::kSourceResumesAfterRelease) && source_.state.stage == Stage::kReleased &&
        std::holds_alternative<source_event::Tick>(event) && OneIn(2)) {
      source_disk_.push_back(
          {Stage::kAborted, source_.state.attempt, false, source_.state.manifest, source_.state.target_journal, {}});
      source_.state.stage = Stage::kAborted;
      source_.actions.push_back(SourceAction::kResume);
      return Check();
    }
    SourceStep step = Step(source_.state, event);
    Trace("S event {}: {} {}", event.index(), Summary(step), step.ignored);
    if (!step.alarm.empty() && step.alarm.find("runs there, which it was never") != std::string::npos) {
      return Break("the target runs without leave");
    }
    if (step.record && !WriteSource(step)) return;
    source_.state = step.state;
    for (Message& message : step.messages) {
      to_target_.push_back({std::move(message), {}, 0});
      if (Fault(40)) return KillSource();
    }
    source_.to_ship = step.image;
    for (const SourceAction action : step.actions) Queue(action);
    Check();
  }

  // An agent that performs an action hears nothing else meanwhile; what was sent to it is lost.
  static bool MustWait(const SourceEvent& event) {
    namespace ev = source_event;
    return std::holds_alternative<ev::BeginAttempt>(event) || std::holds_alternative<ev::Tick>(event) ||
           std::holds_alternative<ev::Deadline>(event) || std::holds_alternative<ev::Received>(event);
  }

  void Queue(SourceAction action) {
    if (action == SourceAction::kStop) source_.stopped = true;
    if (action == SourceAction::kCapture && source_copy_ == CopyState::kLive) source_image_ = false;
    source_.actions.push_back(action);
  }

  // False: the agent did not get past it.
  bool WriteSource(const SourceStep& step) {
    const StateRecord record = *step.record;
    if (Is(Mutant::kReleaseBeforeJournal) && record.stage == Stage::kReleased) {
      for (const Message& message : step.messages) to_target_.push_back({message, {}, 0});
      if (OneIn(3)) return KillSource(), false;
    }
    if (Fault(30)) {
      const bool reached_the_disk = OneIn(2);
      Trace("S journal error at {}, {} on disk", Name(record.stage), reached_the_disk ? "is" : "is not");
      if (reached_the_disk) source_disk_.push_back(record);
      OnSource(source_event::JournalFailed{record});
      return false;
    }
    source_disk_.push_back(record);
    if (!CheckRecords(Side::kSource, source_disk_)) return Break("the source's journal breaks the law"), false;
    if (Is(Mutant::kDestroyAtRelease) && record.stage == Stage::kReleased) {
      source_copy_ = CopyState::kGone;
      source_image_ = false;
    }
    if (Fault(20)) return KillSource(), false;
    return true;
  }

  void PerformSource() {
    if (source_dead_ || source_.stopped || source_.actions.empty()) return;
    const SourceAction action = source_.actions.front();
    source_.actions.pop_front();
    Trace("S performs {}", Name(action));
    switch (action) {
      case SourceAction::kCapture:
        return Capture();
      case SourceAction::kShip:
        return Ship();
      case SourceAction::kResume:
        return Resume();
      case SourceAction::kDestroy:
        if (Fault(10)) return;
        source_copy_ = CopyState::kGone;
        source_image_ = false;
        return OnSource(source_event::Destroyed{});
      case SourceAction::kStop:
        return;
    }
  }

  void Capture() {
    source_copy_ = CopyState::kStopped;
    if (Fault(4)) {
      if (OneIn(2)) source_copy_ = CopyState::kLive;
      return OnSource(source_event::CaptureFailed{"simulated"});
    }
    if (Fault(4)) source_copy_ = CopyState::kLive;  // the capturing program died at the very end
    source_image_ = true;
    const CopyState seen = Is(Mutant::kSealedUnlooked) ? CopyState::kStopped : source_copy_;
    OnSource(source_event::CaptureSealed{ImageOf(source_.state.attempt), seen});
  }

  void Ship() {
    const int have = source_.to_ship.lacking.empty() ? 0 : static_cast<int>(source_.to_ship.lacking[0]);
    if (Fault(20)) return OnSource(source_event::ShipFailed{"simulated"});
    if ((have & 1) == 0) to_target_.push_back({std::nullopt, source_.state.manifest, 1});
    if ((have & 2) == 0) to_target_.push_back({std::nullopt, source_.state.manifest, 2});
  }

  void Resume() {
    if (Fault(6)) return;  // it did not work; a Tick asks again
    if (source_copy_ == CopyState::kGone) {
      if (!source_image_) return Break("nothing is left to resume at the source");
      source_copy_ = CopyState::kStopped;
    }
    source_copy_ = CopyState::kLive;
    Check();
    if (result_.broken.empty()) OnSource(source_event::Resumed{});
  }

  void KillSource() {
    if (source_dead_) return;
    Trace("S agent killed");
    if (Is(Mutant::kDiskForgets) && source_disk_.size() > 1 && OneIn(2)) source_disk_.pop_back();
    StartSource(/*first=*/false);
  }

  void RebootSource() {
    // A node that goes down with the workload running on it loses it, as without us.
    if (source_dead_ || source_copy_ == CopyState::kLive || !source_image_) return;
    Trace("S node reboots");
    source_copy_ = CopyState::kGone;
    KillSource();
  }

  void DumpDies() {
    if (source_dead_ || source_.state.stage != Stage::kDump || source_copy_ != CopyState::kStopped) return;
    Trace("S copy runs again by itself");
    source_copy_ = CopyState::kLive;
  }

  // ---- the target

  void StartTarget() {
    target_ = {};
    target_.state = RecoverTarget(TestBinding(), target_journal_, target_disk_);
    OnTarget(target_event::Restarted{target_copy_});
  }

  void OnTarget(const TargetEvent& event) {
    if (target_dead_ || target_.stopped) return;
    if (TargetMutates(event)) return Check();
    TargetStep step = Step(target_.state, event);
    Trace("T event {}: {} {}", event.index(), Summary(step), step.ignored);
    if (!forgot_ && step.alarm.find("began a new attempt at a workload") != std::string::npos) {
      return Break("the source began anew what the target owns");
    }
    if (Is(Mutant::kStartBeforeJournal) && step.record && step.record->stage == Stage::kAct &&
        target_copy_ == CopyState::kStopped) {
      target_copy_ = CopyState::kLive;
      Check();
      if (OneIn(2)) return KillTarget();
    }
    if (step.record && !WriteTarget(*step.record)) return;
    target_.state = step.state;
    if (step.reply) to_source_.push_back({*std::move(step.reply), {}, 0});
    if (step.reply && Fault(40)) return KillTarget();
    for (const TargetAction action : step.actions) {
      if (action == TargetAction::kStop) target_.stopped = true;
      target_.actions.push_back({action, target_.state.attempt, target_.state.manifest});
    }
    Check();
  }

  bool TargetMutates(const TargetEvent& event) {
    const bool expired = std::holds_alternative<target_event::Expired>(event) && target_.state.stage == Stage::kPrep;
    if (expired && Is(Mutant::kTargetStartsUnreleased)) {
      target_disk_.push_back({Stage::kAct, target_.state.attempt, false, target_.state.manifest, {}, {}});
      target_.state.stage = Stage::kAct;
      return true;
    }
    if (expired && Is(Mutant::kTargetDiscardsSilently)) {
      target_copy_ = CopyState::kGone;
      target_chunks_.clear();
      return true;
    }
    return false;
  }

  bool WriteTarget(const StateRecord& record) {
    if (Fault(30)) {
      const bool reached_the_disk = OneIn(2);
      Trace("T journal error at {}, {} on disk", Name(record.stage), reached_the_disk ? "is" : "is not");
      if (reached_the_disk) target_disk_.push_back(record);
      OnTarget(target_event::JournalFailed{record});
      return false;
    }
    target_disk_.push_back(record);
    if (!CheckRecords(Side::kTarget, target_disk_)) return Break("the target's journal breaks the law"), false;
    if (Fault(20)) return KillTarget(), false;
    return true;
  }

  void PerformTarget() {
    if (target_dead_ || target_.stopped || target_.actions.empty()) return;
    const QueuedTargetAction next = target_.actions.front();
    target_.actions.pop_front();
    Trace("T performs {}", Name(next.action));
    switch (next.action) {
      case TargetAction::kPrepare:
        return Prepare(next);
      case TargetAction::kStart:
        return Start();
      case TargetAction::kDiscard:
        if (Fault(8)) return OnTarget(target_event::DiscardFailed{"simulated"});
        target_copy_ = CopyState::kGone;
        target_chunks_.clear();
        return OnTarget(target_event::Discarded{});
      case TargetAction::kStop:
        return;
    }
  }

  void Prepare(const QueuedTargetAction& action) {
    target_copy_ = CopyState::kGone;
    if (ChunksOf(action.manifest) != kAllChunks || Fault(5)) {
      return OnTarget(target_event::PrepareFailed{action.attempt, "simulated"});
    }
    target_copy_ = CopyState::kStopped;
    if (Fault(15)) return KillTarget();
    OnTarget(target_event::Prepared{action.attempt, {}});
  }

  void Start() {
    if (target_copy_ == CopyState::kGone || Fault(5)) {
      if (OneIn(2)) target_copy_ = CopyState::kGone;
      if (Is(Mutant::kImageDroppedAfterFailure)) {
        target_copy_ = CopyState::kGone;
        target_chunks_.clear();
      }
      return OnTarget(target_event::StartFailed{"simulated"});
    }
    target_copy_ = CopyState::kLive;
    Check();
    if (Fault(10)) return KillTarget();
    OnTarget(target_event::Started{});
  }

  void KillTarget() {
    if (target_dead_) return;
    Trace("T agent killed");
    if (Is(Mutant::kDiskForgets) && target_disk_.size() > 1 && OneIn(2)) target_disk_.pop_back();
    StartTarget();
  }

  void RebootTarget() {
    if (target_dead_ || target_copy_ == CopyState::kLive) return;
    Trace("T node reboots");
    target_copy_ = CopyState::kGone;
    KillTarget();
  }

  void ForgetTargetJournal() {
    if (!options_.target_loses_journal || forgot_ || target_disk_.empty()) return;
    Trace("T loses its journal");
    forgot_ = true;
    target_disk_.clear();
    target_journal_ = OtherJournal();
    if (target_copy_ == CopyState::kStopped) target_copy_ = CopyState::kGone;
    if (OneIn(2)) target_chunks_.clear();
    StartTarget();
  }

  // ---- the network

  void LosePackets() {
    Trace("packets are lost");
    const auto thin = [&](std::vector<Packet>& packets) {
      std::erase_if(packets, [&](const Packet&) { return OneIn(2); });
    };
    thin(to_target_);
    thin(to_source_);
  }

  void DieForGood() {
    if (options_.death == Death::kNone || cut_) return;
    // A node that goes down with the workload running on it takes it along, as without us.
    if (options_.death == Death::kTarget && target_copy_ == CopyState::kLive) return;
    if (options_.death == Death::kSource && source_copy_ == CopyState::kLive) return;
    cut_ = true;
    to_target_.clear();
    to_source_.clear();
    Trace("dead for good");
    if (options_.death == Death::kTarget) {
      target_dead_ = true;
      target_copy_ = CopyState::kGone;
    }
    if (options_.death == Death::kSource) {
      source_dead_ = true;
      source_copy_ = CopyState::kGone;
      source_image_ = false;
    }
  }

  // A copy of one of the source's messages, to arrive any time later.
  void Delay() {
    if (!to_target_.empty() && delayed_.size() < 3) delayed_.push_back(to_target_[random_() % to_target_.size()]);
  }
  void DelayedArrives() {
    if (!OneIn(16)) return;
    to_target_.push_back(delayed_.back());
    delayed_.pop_back();
  }

  // Any of those under way, in any order; a few come twice.
  std::optional<Packet> Next(std::vector<Packet>& packets) {
    if (cut_) packets.clear();
    if (packets.empty()) return std::nullopt;
    const std::size_t i = random_() % packets.size();
    Packet packet = packets[i];
    if (Fault(25)) return packet;
    packets.erase(packets.begin() + static_cast<std::ptrdiff_t>(i));
    return packet;
  }

  void DeliverToTarget() {
    std::optional<Packet> packet = Next(to_target_);
    if (!packet || target_dead_ || target_.stopped) return;
    if (!packet->message) {
      // Chunks are taken only for an image that was offered and not refused.
      const TargetState& state = target_.state;
      if (state.stage == Stage::kNone && state.manifest == packet->image)
        target_chunks_[packet->image] |= packet->chunk;
      return;
    }
    Message& message = *packet->message;
    if (Is(Mutant::kReleaseOfAnyAttempt) && message.kind() == MessageKind::kRelease &&
        message.attempt < target_.state.attempt) {
      message.attempt = target_.state.attempt;
      message.manifest = target_.state.manifest;
    }
    const int have = ChunksOf(message.manifest);
    Trace("T gets {} of attempt {}", Name(message.kind()), message.attempt);
    // A node that has no journal makes one for an offer only.
    if (target_.state.attempt == 0 && message.kind() != MessageKind::kOffer && target_disk_.empty() && !forgot_) {
      to_source_.push_back({AnswerUnknown(message), {}, 0});
      return;
    }
    OnTarget(target_event::Received{message, {have == kAllChunks, {static_cast<std::byte>(have)}}});
  }

  void DeliverToSource() {
    std::optional<Packet> packet = Next(to_source_);
    if (!packet || source_dead_ || source_.stopped) return;
    Message& message = *packet->message;
    const bool released = source_.state.stage == Stage::kReleased;
    if (Is(Mutant::kUnknownTakenForRefused) && released && message.kind() == MessageKind::kUnknown) {
      message.body = Refused{};
      message.target_journal = source_.state.target_journal;
    }
    Trace("S gets {} of attempt {}", Name(message.kind()), message.attempt);
    OnSource(source_event::Received{message});
  }

  // ---- the properties

  bool TargetOwns() const {
    if (target_disk_.empty()) return false;
    const Stage stage = target_disk_.back().stage;
    return stage == Stage::kAct || stage == Stage::kRun || stage == Stage::kClosed;
  }
  bool SourceHasCopy() const { return source_copy_ != CopyState::kGone || source_image_; }
  int ChunksOf(const ManifestDigest& image) const {
    const auto found = target_chunks_.find(image);
    return found == target_chunks_.end() ? 0 : found->second;
  }
  bool TargetHasCopy() const {
    return target_copy_ != CopyState::kGone || ChunksOf(target_disk_.back().manifest) == kAllChunks;
  }

  void Check() {
    if (!result_.broken.empty()) return;
    if (source_copy_ == CopyState::kLive && target_copy_ == CopyState::kLive) return Break("I1: two live copies");
    if (TargetOwns() ? !(TargetHasCopy() || target_dead_ || forgot_) : !(SourceHasCopy() || source_dead_ || forgot_)) {
      return Break("I2: the owner's copy is not whole");
    }
    if (target_copy_ == CopyState::kLive && !TargetOwns() && !forgot_)
      return Break("I4: it runs at the target without leave");
    if (source_copy_ == CopyState::kLive && !source_disk_.empty() &&
        (source_disk_.back().stage == Stage::kReleased || source_disk_.back().stage == Stage::kDone)) {
      return Break("I4: it runs at the source without leave");
    }
    // A source that forgot what it released would be found out only when the journals are compared.
    if (TargetOwns() && !CheckAgreement(source_disk_, target_disk_))
      return Break("I3: the target owns what was not released");
    if (TargetOwns() && !source_disk_.empty() && source_disk_.back().stage == Stage::kAborted &&
        target_disk_.back().attempt == source_disk_.back().attempt) {
      return Break("I3: an attempt was both taken back and started");
    }
  }

  // As the model's `clean`: it runs on one side, and the other holds nothing of it.
  bool Ended() {
    const bool here = source_copy_ == CopyState::kLive && target_copy_ == CopyState::kGone && target_chunks_.empty();
    const bool there = target_copy_ == CopyState::kLive && source_copy_ == CopyState::kGone && !source_image_;
    const bool quiet = source_.actions.empty() && target_.actions.empty() && !source_.stopped && !target_.stopped;
    return quiet && (here || there) && to_target_.empty() && to_source_.empty();
  }

  void CheckEnd() {
    result_.runs_at_source = source_copy_ == CopyState::kLive;
    result_.moved = target_copy_ == CopyState::kLive;
    result_.in_doubt = !result_.moved && !result_.runs_at_source;
    if (!forgot_ && !CheckAgreement(source_disk_, target_disk_)) return Break("the journals do not agree");
    const bool frozen_whole =
        !source_dead_ && !source_disk_.empty() && source_disk_.back().stage == Stage::kReleased && SourceHasCopy();
    const bool waits = source_dead_ && (TargetOwns() ? TargetHasCopy() : true);
    if (result_.in_doubt && cut_ && (frozen_whole || waits)) return;
    if (result_.in_doubt && forgot_) {
      const bool says_why = source_.state.doubt == Doubt::kTargetJournalLost;
      if (!frozen_whole || !says_why) Break("a lost journal leaves it neither running nor frozen with the reason");
      return;
    }
    if (result_.in_doubt) return Break("L1: in the end it runs nowhere");
    if (cut_ || forgot_) return;
    // Two images of one workload at rest are garbage, and a live copy beside them is fine: only the loser must be
    // clean.
    if (!Ended()) return Break("L2: the losing copy was not cleaned away");
  }

  void Break(std::string_view what) {
    if (!result_.broken.empty()) return;
    result_.broken = what;
    Trace("BROKEN: {} (source {} {}, target {} {})", what, Name(source_.state.stage), Name(source_copy_),
          Name(target_.state.stage), Name(target_copy_));
  }

  const SimulationOptions options_;
  std::mt19937_64 random_;
  SimulationResult result_;
  int faults_left_ = 0;
  int faults_ = 0;

  SourceProcess source_;
  std::vector<StateRecord> source_disk_;
  CopyState source_copy_ = CopyState::kLive;
  bool source_image_ = false;
  bool source_dead_ = false;

  TargetProcess target_;
  std::vector<StateRecord> target_disk_;
  JournalId target_journal_ = TargetJournal();
  CopyState target_copy_ = CopyState::kGone;
  std::map<ManifestDigest, int> target_chunks_;
  bool target_dead_ = false;
  bool forgot_ = false;

  std::vector<Packet> to_target_;
  std::vector<Packet> to_source_;
  std::vector<Packet> delayed_;
  bool cut_ = false;
};

}  // namespace

std::string_view Name(Mutant mutant) {
  constexpr std::array<std::string_view, 12> kNames = {
      "none",
      "M1 source resumes on timeout after RELEASE",
      "M2 target starts on timeout, no RELEASE",
      "M3 target discards without a tombstone",
      "M4 RELEASE sent before it is journaled",
      "M5 UNKNOWN taken for REFUSED",
      "M6 target starts before it journals",
      "M7 source destroys copy at RELEASE",
      "M8 RELEASE not bound to the attempt",
      "M9 image sealed without looking at the freezer",
      "M11 target drops the image after a failed start",
      "disk forgets an acknowledged record",
  };
  return kNames.at(static_cast<std::size_t>(mutant));
}

SimulationResult Simulate(const SimulationOptions& options) { return Simulation(options).Run(); }

}  // namespace gpumig
