#include "cli/agent/incoming.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/session/journal.h"
#include "core/session/system_clock.h"

namespace gpumig {
namespace {

// How many migrations that are over on both sides are remembered. What was refused stays, as a tombstone.
constexpr std::size_t kMostClosed = 100;

// The source knows that the workload runs here, and will ask no more.
bool IsClosed(const Journal& journal) {
  return !journal.records().empty() && journal.records().back().stage == Stage::kClosed;
}

}  // namespace

class Incoming::Migration : private MigrationObserver {
 public:
  // `image`: what came ahead; null: nothing did.
  static Result<std::shared_ptr<Migration>> Make(const SessionContext& context, const CacheLimits& cache,
                                                 std::unique_ptr<Journal> journal,
                                                 std::shared_ptr<LocalTarget> image = nullptr) {
    auto migration = std::make_shared<Migration>();
    migration->id_ = journal->facts().binding.migration.ToHex();
    migration->source_ = journal->facts().binding.source;
    migration->journal_ = std::move(journal);
    migration->workload_ = std::move(image);
    if (!migration->workload_) migration->workload_ = GPUMIG_TRY(LocalTarget::Open(context, migration->id_, cache));
    migration->target_ = GPUMIG_TRY(
        MigrationTarget::Start(migration->journal_->facts().binding,
                               {*migration->workload_, migration->clock_, *migration->journal_, *migration}));
    if (IsClosed(*migration->journal_)) migration->workload_->DropImage();
    return migration;
  }

  const std::string& source() const { return source_; }
  MigrationTarget& target() { return *target_; }
  const std::shared_ptr<LocalTarget>& workload() { return workload_; }

  Json Status() const {
    const TargetState state = target_->state();
    return {{"id", id_}, {"direction", "in"}, {"source", source_}, {"state", Name(state.stage)}};
  }

 private:
  void OnRecord(const StateRecord& record) override {
    spdlog::info("migration {} from {}: {} {}", id_, source_, Name(record.stage), record.cause.text);
    if (record.stage == Stage::kClosed) workload_->DropImage();
  }
  void OnAlarm(std::string_view alarm) override { spdlog::warn("migration {} from {}: {}", id_, source_, alarm); }

  std::string id_;
  std::string source_;
  SystemClock clock_;
  std::unique_ptr<Journal> journal_;
  std::shared_ptr<LocalTarget> workload_;
  std::unique_ptr<MigrationTarget> target_;  // last: it uses the others
};

Incoming::Incoming(const AgentConfig& config, SessionContext context) : config_(config), context_(std::move(context)) {}
Incoming::~Incoming() = default;

Result<void> Incoming::Preflight(const std::string& peer, const PreflightQuestion& question) {
  DiscardIdle();
  GPUMIG_TRY(CheckImageFormat(question.image_format, peer, config_.node));
  GPUMIG_TRY(WorkloadRegistry(context_.site).CheckFree(question.name), "node {}", config_.node);
  GPUMIG_TRY(CheckMemory(question.host_bytes), "node {}", config_.node);
  if (question.uses_gpu) GPUMIG_TRY(context_.device->SolveMap(question.gpus, {}), "node {}", config_.node);
  return Ok();
}

Result<Message> Incoming::Handle(const std::string& peer, const Message& message) {
  if (message.from != peer) {
    return MakeError(ErrorCode::kPermissionDenied, "a message from {} says it is from {}", peer, message.from);
  }
  const std::shared_ptr<Migration> migration = GPUMIG_TRY(FindOrMake(peer, message));
  // Only an OFFER begins something here; of anything else that is not in our journals we know nothing, and say so.
  if (migration == nullptr) return AnswerUnknown(message);
  return migration->target().Handle(message);
}

Result<void> Incoming::BeginAhead(const std::string& peer, const std::string& migration, std::uint64_t host_bytes) {
  GPUMIG_TRY(MigrationId::FromHex(migration));
  std::vector<Ahead> idle;
  const auto begin = [&]() -> Result<void> {
    const std::lock_guard lock(mutex_);
    idle = TakeIdle();
    if (const auto known = ahead_.find(migration); known != ahead_.end()) {
      if (known->second.peer == peer) return Ok();
      return MakeError(ErrorCode::kPermissionDenied, "migration {} is not {}'s", migration, peer);
    }
    if (migrations_.contains(migration)) {
      return MakeError(ErrorCode::kFailedPrecondition, "migration {} was offered already", migration);
    }
    if (ahead_.size() >= kMostAhead) {
      return MakeError(ErrorCode::kResourceExhausted, "memory of {} workloads is coming in already", ahead_.size())
          .WithNextStep("try again in a while, or migrate without --live");
    }
    std::shared_ptr<LocalTarget> image = GPUMIG_TRY(LocalTarget::Open(context_, migration, config_.cache));
    if (Result<void> taken = image->TakeAhead(host_bytes); !taken) {
      idle.push_back({peer, std::move(image), {}});
      return taken.error().AddContext(fmt::format("node {}", config_.node));
    }
    ahead_[migration] = {peer, std::move(image), std::chrono::steady_clock::now()};
    return Ok();
  };
  Result<void> begun = begin();
  Discard(std::move(idle));
  return begun;
}

Result<void> Incoming::DropAhead(const std::string& peer, const std::string& migration) {
  std::vector<Ahead> dropped;
  {
    const std::lock_guard lock(mutex_);
    const auto found = ahead_.find(migration);
    if (found == ahead_.end() || found->second.peer != peer) return Ok();
    dropped.push_back(std::move(found->second));
    ahead_.erase(found);
  }
  Discard(std::move(dropped));
  return Ok();
}

std::vector<Incoming::Ahead> Incoming::TakeIdle() {
  std::vector<Ahead> idle;
  const auto now = std::chrono::steady_clock::now();
  for (auto entry = ahead_.begin(); entry != ahead_.end();) {
    if (now - entry->second.last_seen < kAheadIdleLimit) {
      ++entry;
      continue;
    }
    idle.push_back(std::move(entry->second));
    entry = ahead_.erase(entry);
  }
  return idle;
}

void Incoming::DiscardIdle() {
  std::vector<Ahead> idle;
  {
    const std::lock_guard lock(mutex_);
    idle = TakeIdle();
  }
  Discard(std::move(idle));
}

void Incoming::Discard(std::vector<Ahead> ahead) {
  for (const Ahead& each : ahead) {
    if (const Result<void> removed = each.image->Remove(); !removed)
      spdlog::warn("memory that came ahead from {}: {}", each.peer, removed.error().message());
  }
}

// Images that no journal knows: they came ahead of an OFFER that an earlier agent did not live to see.
void Incoming::RemoveLeftImages() const {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(context_.site.state_directory / "incoming", error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    if (migrations_.contains(entry->path().filename())) continue;
    std::error_code ignored;
    std::filesystem::remove_all(entry->path(), ignored);
  }
}

Result<std::shared_ptr<LocalTarget>> Incoming::Image(const std::string& peer, const std::string& migration) {
  const std::lock_guard lock(mutex_);
  if (const auto ahead = ahead_.find(migration); ahead != ahead_.end() && ahead->second.peer == peer) {
    ahead->second.last_seen = std::chrono::steady_clock::now();
    return ahead->second.image;
  }
  const auto found = migrations_.find(migration);
  if (found == migrations_.end()) return MakeError(ErrorCode::kNotFound, "no migration {} was offered here", migration);
  if (found->second->source() != peer)
    return MakeError(ErrorCode::kPermissionDenied, "migration {} is not {}'s", migration, peer);
  found->second->target().NoteArrival();
  return found->second->workload();
}

Result<std::shared_ptr<Incoming::Migration>> Incoming::FindOrMake(const std::string& peer, const Message& message) {
  const std::string id = message.migration.ToHex();
  const std::lock_guard lock(mutex_);
  if (const auto found = migrations_.find(id); found != migrations_.end()) {
    if (found->second->source() != peer)
      return MakeError(ErrorCode::kPermissionDenied, "migration {} is not {}'s", id, peer);
    return found->second;
  }
  if (message.kind() != MessageKind::kOffer) return std::shared_ptr<Migration>();
  MigrationFacts facts;
  facts.side = Side::kTarget;
  facts.binding = {message.migration, message.from, config_.node};
  GPUMIG_TRY(MakeDirectories(config_.journals()));
  std::unique_ptr<Journal> journal = GPUMIG_TRY(Journal::Create(config_.journals(), facts));
  std::shared_ptr<LocalTarget> image;
  if (const auto ahead = ahead_.find(id); ahead != ahead_.end() && ahead->second.peer == peer) {
    image = std::move(ahead->second.image);
    ahead_.erase(ahead);
  }
  std::shared_ptr<Migration> made =
      GPUMIG_TRY(Migration::Make(context_, config_.cache, std::move(journal), std::move(image)));
  migrations_.emplace(id, made);
  return made;
}

Result<void> Incoming::Recover() {
  std::vector<std::unique_ptr<Journal>> journals;
  std::vector<std::chrono::system_clock::time_point> closed;
  for (const JournalName& name : GPUMIG_TRY(ListJournals(config_.journals()))) {
    if (name.side != Side::kTarget) continue;
    journals.push_back(GPUMIG_TRY(Journal::Open(config_.journals(), name.migration, name.side)));
    if (IsClosed(*journals.back())) closed.push_back(journals.back()->last_written());
  }
  std::sort(closed.rbegin(), closed.rend());
  for (std::unique_ptr<Journal>& journal : journals) {
    const MigrationId id = journal->facts().binding.migration;
    if (IsClosed(*journal) && closed.size() > kMostClosed && journal->last_written() < closed[kMostClosed - 1]) {
      GPUMIG_TRY(RemoveJournal(config_.journals(), {id, Side::kTarget}));
      continue;
    }
    std::shared_ptr<Migration> migration = GPUMIG_TRY(Migration::Make(context_, config_.cache, std::move(journal)));
    const std::lock_guard lock(mutex_);
    migrations_.emplace(id.ToHex(), std::move(migration));
  }
  const std::lock_guard lock(mutex_);
  RemoveLeftImages();
  return Ok();
}

Json Incoming::StatusOfAll() {
  DiscardIdle();
  Json list = Json::array();
  const std::lock_guard lock(mutex_);
  for (const auto& [id, migration] : migrations_) list.push_back(migration->Status());
  return list;
}

}  // namespace gpumig
