#include "core/session/blockers.h"

#include <filesystem>

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
    {"anon_inode:bpf", "holds a BPF object", "let it close it, or stop it by hand and start it anew"},
    {"anon_inode:[perf_event]", "holds a perf event", "detach the profiler"},
    {"/dev/infiniband/", "holds an RDMA device", "let it close its RDMA connections"},
};

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
