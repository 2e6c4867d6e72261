// Cgroup: one cgroup v2 of ours, used to hold a process tree together, freeze it, and end it.
//
// Only the core files of cgroup v2 are used, so it works on hybrid hosts, where v2 has no controllers, too.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/result.h"
#include "core/base/unique_fd.h"

namespace gpumig {

// Where cgroup v2 is mounted; mounts it under /run/gpumig where it is not mounted at all.
// Errors: kUnsupported, the kernel has no cgroup v2; kPermissionDenied, mounting needs root.
Result<std::filesystem::path> CgroupRoot();

// Ownership: a directory in the kernel that outlives this object; Remove() takes it away.
// Thread safety: one thread at a time.
class Cgroup {
 public:
  // `relative` below CgroupRoot(), made with its parents. It may exist already.
  static Result<Cgroup> Create(const std::string& relative);
  // Errors: kNotFound.
  static Result<Cgroup> Open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }

  Result<void> Add(pid_t process);
  // For a child that puts itself in by writing "0".
  Result<UniqueFd> OpenProcs() const;
  Result<std::vector<pid_t>> Processes() const;

  // Stops every task in it, now and to come. kDeadlineExceeded: some task would not stop within `limit`; all run on.
  Result<void> Freeze(std::chrono::milliseconds limit);
  // Asks for the freeze and returns at once.
  Result<void> RequestFreeze();
  // Waits for a freeze that was asked for.
  Result<void> AwaitFrozen(std::chrono::milliseconds limit);
  Result<void> Thaw();
  Result<bool> IsFrozen() const;

  // Waits until nothing is in it and below, whoever ends that. Ok where it is gone altogether.
  Result<void> AwaitEmpty(std::chrono::milliseconds limit) const;

  // Kills all in it and below and waits until none is left.
  Result<void> Kill(std::chrono::milliseconds limit);
  // Removes it and those below, which must be empty.
  Result<void> Remove();

 private:
  explicit Cgroup(std::filesystem::path path) : path_(std::move(path)) {}
  Result<bool> Event(std::string_view name) const;
  Result<void> AwaitEvent(std::string_view name, bool wanted, std::chrono::milliseconds limit) const;

  std::filesystem::path path_;
};

}  // namespace gpumig
