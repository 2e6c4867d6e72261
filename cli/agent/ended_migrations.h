// EndedMigrations: what a node remembers of the migrations that left it and are over, also when its agent starts anew.
#pragma once

#include <cstddef>
#include <deque>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>

#include "core/base/json.h"
#include "core/session/journal.h"

namespace gpumig {

// The last status of each, with its report, is in a file beside the journal: <id>.ended.json. Of the oldest, beyond
// `most`, both are removed.
//
// Only for migrations whose journal is settled: nobody will ever ask for that journal again. Of one that only its
// journal tells of (its agent was killed before it wrote the report) the journal's words are what there is.
//
// Thread safety: any thread.
class EndedMigrations {
 public:
  static constexpr std::size_t kMost = 100;

  explicit EndedMigrations(std::filesystem::path directory, std::size_t most = kMost)
      : directory_(std::move(directory)), most_(most) {}

  // `status` has "id" and gets "ended" where it has none. What cannot be written is logged, and known until the agent
  // ends.
  void Add(Json status);
  // Of a journal that an earlier agent left. REQUIRES: its last record is settled
  void Load(const Journal& journal);

  std::optional<Json> Find(const std::string& id) const;
  // The one that ended last comes last.
  Json List() const;

 private:
  std::filesystem::path FileOf(const std::string& id) const { return directory_ / (id + ".ended.json"); }
  void Insert(Json status);
  void Forget(const std::string& id) const;

  const std::filesystem::path directory_;
  const std::size_t most_;
  mutable std::mutex mutex_;
  std::deque<Json> statuses_;  // by "ended"; guarded by mutex_
};

}  // namespace gpumig
