#include "cli/agent/ended_migrations.h"

#include <algorithm>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/session/migration_source.h"
#include "core/session/site.h"

namespace gpumig {
namespace {

constexpr std::size_t kFileLimitBytes = 1 << 20;

// As much of a status as a journal tells.
Json StatusFromJournal(const Journal& journal) {
  const StateRecord& last = journal.records().back();
  const MigrationFacts& facts = journal.facts();
  const std::string id = facts.binding.migration.ToHex();
  const bool moved = last.stage == Stage::kDone;
  Json report = {{"ending", Name(moved ? Ending::kMoved : Ending::kRunsHere)},
                 {"migration", id},
                 {"name", facts.workload},
                 {"source", facts.binding.source},
                 {"target", facts.binding.target}};
  if (!moved) {
    report["error"] = {{"code", ErrorCodeName(ErrorCode::kCancelled)},
                       {"message", fmt::format("{}: {}", Name(last.cause.reason), last.cause.text)},
                       {"next_step", ""}};
  }
  return {{"id", id},
          {"direction", "out"},
          {"workload", facts.workload},
          {"source", facts.binding.source},
          {"target", facts.binding.target},
          {"phase", Name(MigrationPhase::kEnded)},
          {"state", Name(last.stage)},
          {"alarm", ""},
          {"ended", UtcText(journal.last_written())},
          {"report", report}};
}

}  // namespace

void EndedMigrations::Add(Json status) {
  if (!status.contains("ended")) status["ended"] = UtcNow();
  const std::string id = status.value("id", "");
  const Result<void> written = WriteFileDurably(FileOf(id), ToText(status));
  if (!written) spdlog::warn("the report of migration {} was not kept: {}", id, written.error().message());
  Insert(std::move(status));
}

void EndedMigrations::Load(const Journal& journal) {
  const std::string id = journal.facts().binding.migration.ToHex();
  const Result<std::string> text = ReadTextFile(FileOf(id), kFileLimitBytes);
  if (text) {
    Result<Json> status = ParseJson(*text);
    if (status && StringMember(*status, "ended") && StringMember(*status, "id") == id)
      return Insert(*std::move(status));
  }
  Insert(StatusFromJournal(journal));
}

void EndedMigrations::Insert(Json status) {
  std::string oldest;
  {
    const std::lock_guard lock(mutex_);
    const auto later = [](const Json& a, const Json& b) { return a["ended"] < b["ended"]; };
    statuses_.insert(std::upper_bound(statuses_.begin(), statuses_.end(), status, later), std::move(status));
    if (statuses_.size() <= most_) return;
    oldest = statuses_.front().value("id", "");
    statuses_.pop_front();
  }
  Forget(oldest);
}

void EndedMigrations::Forget(const std::string& id) const {
  std::error_code ignored;
  std::filesystem::remove(FileOf(id), ignored);
  const Result<MigrationId> migration = MigrationId::FromHex(id);
  const Result<void> removed = migration ? RemoveJournal(directory_, {*migration, Side::kSource}) : migration.error();
  if (!removed) spdlog::warn("the journal of migration {} stays: {}", id, removed.error().message());
}

std::optional<Json> EndedMigrations::Find(const std::string& id) const {
  const std::lock_guard lock(mutex_);
  const auto found =
      std::find_if(statuses_.begin(), statuses_.end(), [&](const Json& status) { return status["id"] == id; });
  if (found == statuses_.end()) return std::nullopt;
  return *found;
}

Json EndedMigrations::List() const {
  Json list = Json::array();
  const std::lock_guard lock(mutex_);
  for (const Json& status : statuses_) list.push_back(status);
  return list;
}

}  // namespace gpumig
