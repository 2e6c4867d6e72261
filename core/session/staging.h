// StagingDirectory: where one session of this host keeps CRIU's files, and what becomes of it if the session is killed.
#pragma once

#include <filesystem>
#include <string_view>
#include <utility>

#include "core/base/result.h"
#include "core/base/unique_fd.h"
#include "core/session/site.h"

namespace gpumig {

// A directory of our own in the site's staging directory, mode 0700, removed with all it holds when this goes. A lock
// on it tells others that its session lives: the kernel drops that lock with us, however we end.
//
// Ownership: move-only. Thread safety: one thread at a time.
class StagingDirectory {
 public:
  enum class Use { kDump, kRestore };

  // Sweeps first, see RemoveStaleStaging().
  static Result<StagingDirectory> Create(const Site& site, Use use);
  StagingDirectory(StagingDirectory&& other) noexcept
      : path_(std::exchange(other.path_, {})), lock_(std::move(other.lock_)) {}
  StagingDirectory& operator=(StagingDirectory&&) = delete;
  ~StagingDirectory();

  const std::filesystem::path& path() const { return path_; }

 private:
  StagingDirectory(std::filesystem::path path, UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}

  std::filesystem::path path_;
  UniqueFd lock_;
};

// Removes the directories that killed sessions left in the site's staging directory; those of sessions that live, and
// an agent's, which outlive it on purpose, stay. Any number of processes may do it at once, also while others create
// theirs. What cannot be removed is left for the next time.
void RemoveStaleStaging(const Site& site);

}  // namespace gpumig
