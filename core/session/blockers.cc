#include "core/session/blockers.h"

#include <filesystem>
#include <optional>
#include <sstream>
#include <string_view>

#include "core/base/file.h"

namespace gpumig {
namespace {

struct KnownTarget {
  const char* link_prefix;  // of /proc/PID/fd/N
  const char* what;
  const char* cure;
};

// Source: criu 4.2.1, which fails on an io_uring with "send_fds failed (-22)", since Linux does not let one travel over
// a unix socket; and has no image for the others.
constexpr KnownTarget kKnownTargets[] = {
    {"anon_inode:[io_uring]", "holds an io_uring",
     "let it do without io_uring (many programs have an option or variable for that)"},
    {"anon_inode:[userfaultfd]", "handles page faults by a userfaultfd",
     "let it do without userfaultfd (for a virtual machine: wait until its migration has ended)"},
    {"anon_inode:bpf", "holds a BPF object", "let it close it, or stop it by hand and start it anew"},
    {"anon_inode:[perf_event]", "holds a perf event", "detach the profiler"},
    {"/dev/infiniband/", "holds an RDMA device", "let it close its RDMA connections"},
};

constexpr std::size_t kLargestMapsBytes = std::size_t{64} << 20;

// A line of /proc/PID/maps: "... /SYSV0052e2c1 (deleted)", the segment's key in hexadecimal.
bool IsSystemVSegment(std::string_view line) {
  constexpr std::string_view kName = " /SYSV";
  constexpr std::size_t kKeyDigits = 8;
  const std::size_t name = line.find(kName);
  if (name == line.npos) return false;
  const std::string_view key = line.substr(name + kName.size());
  return key.find_first_not_of("0123456789abcdef") == kKeyDigits && key.substr(kKeyDigits) == " (deleted)";
}

// CRIU takes segments of System V only where the workload has a namespace of its own for them.
std::optional<Blocker> FindSystemVMemory(pid_t pid) {
  std::error_code error;
  const auto theirs = std::filesystem::read_symlink(fmt::format("/proc/{}/ns/ipc", pid), error);
  if (error || theirs != std::filesystem::read_symlink("/proc/self/ns/ipc", error)) return std::nullopt;
  const Result<std::string> maps = ReadTextFile(fmt::format("/proc/{}/maps", pid), kLargestMapsBytes);
  if (!maps) return std::nullopt;
  std::istringstream lines(*maps);
  bool has_segment = false;
  for (std::string line; !has_segment && std::getline(lines, line);) has_segment = IsSystemVSegment(line);
  if (!has_segment) return std::nullopt;
  return Blocker{pid, "has System V shared memory (shmget) of this host",
                 "let it use POSIX shared memory or memfd, or run it in an IPC namespace of its own (unshare --ipc)"};
}

}  // namespace

std::vector<Blocker> FindBlockers(const std::vector<pid_t>& processes) {
  std::vector<Blocker> blockers;
  for (const pid_t pid : processes) {
    std::error_code ignored;
    for (std::filesystem::directory_iterator entry(fmt::format("/proc/{}/fd", pid), ignored), end; entry != end;
         entry.increment(ignored)) {
      const std::string target = std::filesystem::read_symlink(entry->path(), ignored);
      for (const KnownTarget& known : kKnownTargets) {
        if (!target.starts_with(known.link_prefix)) continue;
        blockers.push_back(
            {pid, fmt::format("{} (descriptor {})", known.what, entry->path().filename().string()), known.cure});
      }
    }
    if (std::optional<Blocker> memory = FindSystemVMemory(pid)) blockers.push_back(std::move(*memory));
  }
  return blockers;
}

Result<void> RefuseBlockers(const std::vector<Blocker>& blockers) {
  if (blockers.empty()) return Ok();
  const Blocker& first = blockers.front();
  const std::string more =
      blockers.size() > 1 ? fmt::format(", and {} more like it", blockers.size() - 1) : std::string();
  return MakeError(ErrorCode::kUnsupported, "process {} {}, which CRIU cannot capture{}", first.process, first.what,
                   more)
      .WithNextStep(first.cure);
}

}  // namespace gpumig
