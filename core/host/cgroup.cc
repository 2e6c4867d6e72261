#include "core/host/cgroup.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <sstream>

#include "core/base/file.h"

namespace gpumig {
namespace {

constexpr const char* kOwnMountPoint = "/run/gpumig/cgroup";

Result<std::filesystem::path> FindMount() {
  std::istringstream lines(GPUMIG_TRY(ReadTextFile("/proc/self/mountinfo")));
  for (std::string line; std::getline(lines, line);) {
    // 36 35 98:0 /root /mount-point options ... - fstype source options
    const std::size_t separator = line.find(" - ");
    if (separator == std::string::npos || line.compare(separator + 3, 8, "cgroup2 ") != 0) continue;
    std::istringstream fields(line);
    std::string skipped;
    std::string mount_point;
    fields >> skipped >> skipped >> skipped >> skipped >> mount_point;
    return std::filesystem::path(mount_point);
  }
  return std::filesystem::path();
}

}  // namespace

Result<std::filesystem::path> CgroupRoot() {
  std::filesystem::path found = GPUMIG_TRY(FindMount());
  if (!found.empty()) return found;
  GPUMIG_TRY(MakeDirectories(kOwnMountPoint, 0755));
  if (mount("cgroup2", kOwnMountPoint, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
    if (errno == ENODEV) return MakeError(ErrorCode::kUnsupported, "this kernel has no cgroup v2");
    return Error::FromErrno(errno, fmt::format("mount cgroup2 on {}", kOwnMountPoint));
  }
  return std::filesystem::path(kOwnMountPoint);
}

Result<Cgroup> Cgroup::Create(const std::string& relative) {
  const std::filesystem::path path = GPUMIG_TRY(CgroupRoot()) / relative;
  GPUMIG_TRY(MakeDirectories(path, 0755), "create cgroup {}", relative);
  return Cgroup(path);
}

Result<Cgroup> Cgroup::Open(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path / "cgroup.procs")) {
    return MakeError(ErrorCode::kNotFound, "there is no cgroup {}", path.string());
  }
  return Cgroup(path);
}

Result<void> Cgroup::Add(pid_t process) { return WriteControlFile(path_ / "cgroup.procs", std::to_string(process)); }

Result<UniqueFd> Cgroup::OpenProcs() const { return OpenFile(path_ / "cgroup.procs", O_WRONLY); }

Result<std::vector<pid_t>> Cgroup::Processes() const {
  std::istringstream numbers(GPUMIG_TRY(ReadTextFile(path_ / "cgroup.procs")));
  std::vector<pid_t> processes;
  for (pid_t pid = 0; numbers >> pid;) processes.push_back(pid);
  return processes;
}

Result<void> Cgroup::Freeze(std::chrono::milliseconds limit) {
  GPUMIG_TRY(RequestFreeze());
  Result<void> frozen = AwaitFrozen(limit);
  if (!frozen) GPUMIG_TRY(Thaw());
  return frozen;
}

Result<void> Cgroup::RequestFreeze() { return WriteControlFile(path_ / "cgroup.freeze", "1"); }

Result<void> Cgroup::AwaitFrozen(std::chrono::milliseconds limit) { return AwaitEvent("frozen", true, limit); }

Result<void> Cgroup::Thaw() { return WriteControlFile(path_ / "cgroup.freeze", "0"); }

Result<bool> Cgroup::IsFrozen() const { return Event("frozen"); }

Result<void> Cgroup::AwaitEmpty(std::chrono::milliseconds limit) const {
  Result<void> empty = AwaitEvent("populated", false, limit);
  // A workload's init removes the workload's cgroups when it ends: then nothing is left in them.
  if (!empty && empty.error().code() == ErrorCode::kNotFound) return Ok();
  return empty;
}

Result<void> Cgroup::Kill(std::chrono::milliseconds limit) {
  Result<void> killed = WriteControlFile(path_ / "cgroup.kill", "1");
  if (!killed && killed.error().code() != ErrorCode::kNotFound) return killed;
  return AwaitEmpty(limit);
}

Result<void> Cgroup::Remove() {
  std::error_code ignored;
  for (std::filesystem::directory_iterator entry(path_, ignored), end; entry != end; entry.increment(ignored)) {
    if (entry->is_directory(ignored)) {
      Cgroup child(entry->path());
      GPUMIG_TRY(child.Remove());
    }
  }
  if (rmdir(path_.c_str()) != 0 && errno != ENOENT) {
    return Error::FromErrno(errno, fmt::format("remove cgroup {}", path_.string()));
  }
  return Ok();
}

Result<bool> Cgroup::Event(std::string_view name) const {
  const std::string events = GPUMIG_TRY(ReadTextFile(path_ / "cgroup.events"));
  return events.find(fmt::format("{} 1", name)) != std::string::npos;
}

Result<void> Cgroup::AwaitEvent(std::string_view name, bool wanted, std::chrono::milliseconds limit) const {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  const UniqueFd events = GPUMIG_TRY(OpenFile(path_ / "cgroup.events", O_RDONLY));
  while (true) {
    if (GPUMIG_TRY(Event(name)) == wanted) return Ok();
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      return MakeError(ErrorCode::kDeadlineExceeded, "cgroup {}: '{}' is not {} after {} ms", path_.filename().string(),
                       name, wanted ? 1 : 0, limit.count());
    }
    // The kernel raises POLLPRI when the file changes; the short cap covers a change between our read and the poll.
    pollfd changed{events.get(), POLLPRI, 0};
    poll(&changed, 1, static_cast<int>(std::min<std::chrono::milliseconds::rep>(left.count(), 20)));
    char buffer[256];
    [[maybe_unused]] const ssize_t ignored = pread(events.get(), buffer, sizeof(buffer), 0);
  }
}

}  // namespace gpumig
