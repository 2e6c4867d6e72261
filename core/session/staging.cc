#include "core/session/staging.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "core/base/file.h"

namespace gpumig {
namespace {

// One that has no lock yet has this name, so that nobody takes it for one whose lock is gone.
constexpr std::string_view kUnlockedPrefix = "gpumig-new-";
constexpr std::string_view kDumpPrefix = "gpumig-dump-";
constexpr std::string_view kRestorePrefix = "gpumig-restore-";
constexpr int kMostTries = 20;

// Nothing: another process swept it away before it had its lock.
Result<std::optional<UniqueFd>> MakeLocked(const std::filesystem::path& unlocked, const std::filesystem::path& named) {
  if (mkdir(unlocked.c_str(), 0700) != 0) return Error::FromErrno(errno, fmt::format("make {}", unlocked.string()));
  Result<UniqueFd> lock = OpenFile(unlocked, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!lock && lock.error().code() == ErrorCode::kNotFound) return std::optional<UniqueFd>();
  if (!lock) return lock.error();
  if (flock(lock->get(), LOCK_EX | LOCK_NB) != 0)
    return Error::FromErrno(errno, fmt::format("lock {}", unlocked.string()));
  if (rename(unlocked.c_str(), named.c_str()) == 0) return std::optional(std::move(*lock));
  if (errno == ENOENT) return std::optional<UniqueFd>();
  return Error::FromErrno(errno, fmt::format("rename {}", unlocked.string()));
}

}  // namespace

Result<StagingDirectory> StagingDirectory::Create(const Site& site, Use use) {
  RemoveStaleStaging(site);
  const std::string_view prefix = use == Use::kDump ? kDumpPrefix : kRestorePrefix;
  for (int i = 0; i < kMostTries; ++i) {
    const std::string suffix = RandomSuffix();
    const std::filesystem::path unlocked = site.staging_directory / fmt::format("{}{}", kUnlockedPrefix, suffix);
    std::filesystem::path named = site.staging_directory / fmt::format("{}{}", prefix, suffix);
    if (std::optional<UniqueFd> lock = GPUMIG_TRY(MakeLocked(unlocked, named)))
      return StagingDirectory(std::move(named), std::move(*lock));
  }
  return MakeError(ErrorCode::kIo, "each of {} directories made in {} was removed at once by another process",
                   kMostTries, site.staging_directory.string());
}

StagingDirectory::~StagingDirectory() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

void RemoveStaleStaging(const Site& site) {
  std::error_code ignored;
  std::vector<std::filesystem::path> found;
  for (std::filesystem::directory_iterator entry(site.staging_directory, ignored), end; entry != end;
       entry.increment(ignored)) {
    found.push_back(entry->path());
  }
  for (const std::filesystem::path& path : found) {
    const std::string name = path.filename();
    // It is empty, or it is not what we think; its maker, if there is one, notices and makes another.
    if (name.starts_with(kUnlockedPrefix)) rmdir(path.c_str());
    if (!name.starts_with(kDumpPrefix) && !name.starts_with(kRestorePrefix)) continue;
    const Result<UniqueFd> lock = OpenFile(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!lock || flock(lock->get(), LOCK_EX | LOCK_NB) != 0) continue;
    std::filesystem::remove_all(path, ignored);
  }
}

}  // namespace gpumig
