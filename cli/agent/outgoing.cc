#include "cli/agent/outgoing.h"

#include <algorithm>
#include <atomic>

#include "cli/live_report.h"
#include "cli/timed_parts.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/host/process.h"
#include "core/session/blockers.h"
#include "core/session/journal.h"
#include "core/session/local_source.h"
#include "core/session/migration_source.h"
#include "core/session/system_clock.h"

namespace gpumig {
// One migration, from its begin to its end and the report of it.
class Outgoing::Migration : private MigrationObserver {
 public:
  static Result<std::shared_ptr<Migration>> Make(const AgentConfig& config, const NodeIdentity& identity,
                                                 const SessionContext& context, std::unique_ptr<Journal> journal,
                                                 const Workload& workload, const CaptureOptions& capture,
                                                 std::chrono::milliseconds max_downtime, bool live,
                                                 const SendingWishes& sending) {
    const Binding& binding = journal->facts().binding;
    const PeerConfig* peer = config.FindPeer(binding.target);
    if (peer == nullptr) {
      return MakeError(ErrorCode::kNotFound, "node {} is not among the peers of {}", binding.target, config.node)
          .WithNextStep("add it to [[peers]] in gpumigd's configuration");
    }
    auto migration = std::make_shared<Migration>();
    migration->id_ = binding.migration.ToHex();
    migration->source_ = binding.source;
    migration->target_ = binding.target;
    migration->workload_name_ = workload.name;
    migration->context_ = context;
    migration->journal_ = std::move(journal);
    migration->workload_ = std::make_unique<LocalSource>(context, workload, capture, migration->id_);
    migration->link_ =
        std::make_unique<PeerLink>(config, identity, *peer, migration->id_, *migration->workload_, sending);
    if (live) migration->workload_->CopyAheadThrough(*migration->link_, LiveOptions());
    SourceLimits source_limits;
    source_limits.max_downtime = max_downtime;
    migration->runner_ = std::make_unique<MigrationSource>(
        migration->journal_->facts().binding,
        MigrationSource::Ports{*migration->workload_, *migration->link_, *migration->link_, migration->clock_,
                               *migration->journal_, *migration},
        source_limits);
    return migration;
  }

  void Run(bool recover) {
    const auto begin = std::chrono::steady_clock::now();
    // Asked before the capture: afterwards its GPUs may be the target's.
    if (!recover) gpus_before_ = GpuUuids();
    MigrationOutcome outcome = recover ? runner_->Recover() : runner_->Run();
    const auto total = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin);
    if (outcome.ending != Ending::kMoved && (recover || link_->began_ahead())) link_->DropAhead();
    Json report = ReportOf(outcome, total);
    spdlog::info("migration {} of {} to {}: {}", id_, workload_name_, target_, Name(outcome.ending));
    const std::lock_guard lock(mutex_);
    report_ = std::move(report);
  }

  PeerLink& link() { return *link_; }
  const std::string& id() const { return id_; }
  // REQUIRES: Run() is done
  bool settled() const { return !journal_->records().empty() && journal_->records().back().settled; }
  const std::string& workload_name() const { return workload_name_; }
  void Abort() { runner_->Abort(); }
  void Stop() { runner_->Stop(); }
  bool ended() const {
    const std::lock_guard lock(mutex_);
    return report_.has_value();
  }

  Json Status() const {
    const std::lock_guard lock(mutex_);
    Json json = {{"id", id_},
                 {"direction", "out"},
                 {"workload", workload_name_},
                 {"source", source_},
                 {"target", target_},
                 {"phase", Name(phase_)},
                 {"state", state_},
                 {"progress", link_->progress()},
                 {"alarm", alarm_}};
    if (report_) json["report"] = *report_;
    return json;
  }

 private:
  void OnPhase(MigrationPhase phase) override {
    spdlog::info("migration {} of {} to {}: {}", id_, workload_name_, target_, Name(phase));
    const std::lock_guard lock(mutex_);
    phase_ = phase;
  }
  void OnRecord(const StateRecord& record) override {
    const std::lock_guard lock(mutex_);
    state_ = Name(record.stage);
  }
  void OnAlarm(std::string_view alarm) override {
    spdlog::warn("migration {} of {} to {}: {}", id_, workload_name_, target_, alarm);
    const std::lock_guard lock(mutex_);
    alarm_ = alarm;
  }

  std::vector<std::string> GpuUuids() {
    std::vector<std::string> uuids;
    const Result<std::vector<GpuFacts>> gpus = context_.device->Gpus();
    if (!gpus) return uuids;
    for (const GpuFacts& gpu : *gpus) uuids.push_back(gpu.uuid);
    return uuids;
  }

  Json ReportOf(const MigrationOutcome& outcome, std::chrono::microseconds total) const {
    Json parts = PartsToJson(outcome.parts);
    for (const TimedPart& part : outcome.target_parts) {
      // Within prepare and commit; the thaw is what the user waits for last, so it is shown by itself.
      if (part.name == "thaw") parts["thaw"] = Milliseconds(part.duration);
    }
    const WorkloadFacts& facts = workload_->facts();
    Json report = {
        {"ending", Name(outcome.ending)},
        {"migration", id_},
        {"name", workload_name_},
        {"source", source_},
        {"target", target_},
        {"downtime_ms", Milliseconds(outcome.downtime)},
        {"downtime_parts_ms", parts},
        {"target_parts_ms", PartsToJson(outcome.target_parts)},
        {"total_ms", Milliseconds(total)},
        {"host_bytes", workload_->image_bytes() - std::min(workload_->image_bytes(), facts.gpu.device_bytes)},
        {"device_bytes", facts.gpu.device_bytes},
        {"direct_bytes", workload_->direct_bytes()},
        {"sent_bytes", link_->bytes_sent()},
        {"sending", link_->SendingToJson()},
        {"device_path", facts.device_path()},
        {"gpus_at_source", gpus_before_}};
    if (const std::optional<LiveReport>& live = workload_->live_report()) report["live"] = LiveToJson(*live);
    if (const Result<Json> detail = ParseJson(outcome.detail); detail && detail->is_object()) {
      report["at_target"] = *detail;
      report["known_bytes"] = UnsignedMember(*detail, "known_bytes").value_or(0);
    }
    if (outcome.error) {
      report["error"] = {{"code", ErrorCodeName(outcome.error->code())},
                         {"message", outcome.error->message()},
                         {"next_step", outcome.error->next_step()}};
    }
    return report;
  }

  std::string id_;
  std::string source_;
  std::string target_;
  std::string workload_name_;
  SessionContext context_;
  SystemClock clock_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<LocalSource> workload_;
  std::unique_ptr<PeerLink> link_;
  std::unique_ptr<MigrationSource> runner_;  // last: it uses the others
  std::vector<std::string> gpus_before_;

  mutable std::mutex mutex_;
  MigrationPhase phase_ = MigrationPhase::kCapturing;  // guarded by mutex_
  std::string state_;                                  // guarded by mutex_
  std::string alarm_;                                  // guarded by mutex_
  std::optional<Json> report_;                         // guarded by mutex_
};

Outgoing::Outgoing(const AgentConfig& config, const NodeIdentity& identity, SessionContext context)
    : config_(config), identity_(identity), context_(std::move(context)), ended_(config.journals()) {}

Outgoing::~Outgoing() {
  std::vector<std::thread> threads;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, migration] : migrations_) migration->Stop();
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

Result<std::string> Outgoing::Begin(const MigrationRequest& request) {
  const std::vector<pid_t> tree = GPUMIG_TRY(ProcessTree(request.workload.root));
  GPUMIG_TRY(RefuseBlockers(FindBlockers(tree)));
  PreflightQuestion question;
  question.name = request.workload.name;
  question.uses_gpu = !GPUMIG_TRY(context_.device->GpuProcesses(tree)).empty();
  question.gpus = GPUMIG_TRY(context_.device->Gpus());
  // How much of what is in use belongs to this workload is known only once it is captured; the chip is known now.
  for (GpuFacts& gpu : question.gpus) gpu.free_bytes = gpu.total_bytes;
  question.host_bytes = MemoryOf(tree).anonymous_bytes;
  GPUMIG_TRY(CheckRoomForDump(context_, tree, request.capture.host_path));

  MigrationFacts facts;
  facts.side = Side::kSource;
  facts.binding = {MigrationId::Random(), config_.node, request.to};
  facts.workload = request.workload.name;
  // What a successor of this agent needs to find the workload again.
  facts.note = ToText(ToJson(request.workload));
  if (request.to == config_.node)
    return MakeError(ErrorCode::kInvalidArgument, "{} runs on {} already", request.workload.name, request.to);
  const std::string id = facts.binding.migration.ToHex();
  GPUMIG_TRY(MakeDirectories(config_.journals()));
  std::unique_ptr<Journal> journal = GPUMIG_TRY(Journal::Create(config_.journals(), facts));
  const auto prepare = [&]() -> Result<std::shared_ptr<Migration>> {
    std::shared_ptr<Migration> migration =
        GPUMIG_TRY(Migration::Make(config_, identity_, context_, std::move(journal), request.workload, request.capture,
                                   request.max_downtime, request.live, request.sending));
    GPUMIG_TRY(migration->link().Preflight(question));
    const std::lock_guard lock(mutex_);
    for (const auto& [other_id, other] : migrations_) {
      if (other->workload_name() == request.workload.name && !other->ended()) {
        return MakeError(ErrorCode::kFailedPrecondition, "{} is being migrated already, as {}", request.workload.name,
                         other_id);
      }
    }
    migrations_.emplace(id, migration);
    return migration;
  };
  Result<std::shared_ptr<Migration>> migration = prepare();
  if (!migration) {
    // Nothing was begun, so the journal is empty and nobody needs it.
    [[maybe_unused]] const Result<void> removed =
        RemoveJournal(config_.journals(), {facts.binding.migration, Side::kSource});
    return migration.error();
  }
  Start(*migration, /*recover=*/false);
  return id;
}

void Outgoing::Start(std::shared_ptr<Migration> migration, bool recover) {
  const std::lock_guard lock(mutex_);
  threads_.emplace_back([this, migration = std::move(migration), recover] {
    migration->Run(recover);
    Retire(*migration);
  });
}

void Outgoing::Retire(const Migration& migration) {
  if (!migration.settled()) return;  // An agent that starts anew may have to go on with it.
  ended_.Add(migration.Status());
  const std::lock_guard lock(mutex_);
  migrations_.erase(migration.id());
}

Result<void> Outgoing::Recover() {
  for (const JournalName& name : GPUMIG_TRY(ListJournals(config_.journals()))) {
    if (name.side != Side::kSource) continue;
    std::unique_ptr<Journal> journal = GPUMIG_TRY(Journal::Open(config_.journals(), name.migration, name.side));
    if (journal->records().empty()) {
      // Its agent ended before anything was begun.
      GPUMIG_TRY(RemoveJournal(config_.journals(), name));
      continue;
    }
    if (journal->records().back().settled) {
      ended_.Load(*journal);
      continue;
    }
    const Workload workload = GPUMIG_TRY(WorkloadFromJson(GPUMIG_TRY(ParseJson(journal->facts().note))));
    std::shared_ptr<Migration> migration =
        GPUMIG_TRY(Migration::Make(config_, identity_, context_, std::move(journal), workload, CaptureOptions{},
                                   std::chrono::seconds(60), /*live=*/false, SendingWishes{}));
    {
      const std::lock_guard lock(mutex_);
      migrations_.emplace(name.migration.ToHex(), migration);
    }
    Start(migration, /*recover=*/true);
  }
  return Ok();
}

Result<std::shared_ptr<Outgoing::Migration>> Outgoing::Find(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto found = migrations_.find(id);
  if (found == migrations_.end()) return MakeError(ErrorCode::kNotFound, "no migration {} left this node", id);
  return found->second;
}

Result<Json> Outgoing::Status(const std::string& id) const {
  const Result<std::shared_ptr<Migration>> migration = Find(id);
  if (migration) return (*migration)->Status();
  if (std::optional<Json> ended = ended_.Find(id)) return *std::move(ended);
  return migration.error();
}

Json Outgoing::StatusOfAll() const {
  Json list = ended_.List();
  const std::lock_guard lock(mutex_);
  for (const auto& [id, migration] : migrations_) list.push_back(migration->Status());
  return list;
}

Result<void> Outgoing::Abort(const std::string& id) {
  GPUMIG_TRY(Find(id))->Abort();
  return Ok();
}

}  // namespace gpumig
