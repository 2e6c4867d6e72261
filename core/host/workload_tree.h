// WorkloadTree: the process tree of a workload, held in a cgroup of ours so that it can be frozen and dumped whole.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/host/cgroup.h"
#include "core/host/criu.h"
#include "core/host/memory_map.h"

namespace gpumig {

// What a restore has to know of a tree beside CRIU's images.
struct TreeFacts {
  pid_t inner_root = 0;          // the root's pid in its own pid namespace
  std::vector<pid_t> inner_ids;  // of all threads of all processes: taken in the namespace it is restored into
  bool session_outside = false;  // its session leader was not part of it
  std::size_t process_count = 0;
  std::uint64_t resident_bytes = 0;
};

// How the pages of processes travel.
enum class HostPath {
  kDirect,  // bulk memory past CRIU, see core/host/direct_memory.h
  kCriu,    // all through CRIU's files
};
// "direct" or "criu". Errors: kInvalidArgument.
Result<HostPath> ParseHostPath(std::string_view text);

// Thread safety: one thread at a time.
class WorkloadTree {
 public:
  // Takes `root` and all its descendants into `cgroup`. Those that are not there yet are put back by Release().
  // Errors: kNotFound, no such process; kInvalidArgument, it is process 1, a kernel thread, or has us in its tree.
  static Result<WorkloadTree> Take(pid_t root, Cgroup cgroup);

  pid_t root() const { return root_; }
  Cgroup& cgroup() { return cgroup_; }

  // As the cgroup lists them now, the root first.
  Result<std::vector<pid_t>> Processes() const;

  // Frozen whole: children that were being born during the freeze are taken in too.
  Result<void> Freeze(std::chrono::milliseconds limit);
  Result<void> Thaw() { return cgroup_.Thaw(); }
  Result<void> Kill(std::chrono::milliseconds limit) { return cgroup_.Kill(limit); }

  Result<TreeFacts> Facts() const;

  // Dumps the frozen tree into the empty directory `images`. On return it is frozen, also after an error, and whole,
  // save where somebody killed a process of it meanwhile (kNotFound). `criu_cgroup` is CRIU's own. Gives what memory is
  // not in `images` but still in the tree; by HostPath::kCriu all is in `images`.
  Result<MemoryMap> Dump(const Criu& criu, const Cgroup& criu_cgroup, const std::filesystem::path& images,
                         HostPath path = HostPath::kDirect, const CriuNotify& notify = nullptr);

  // Puts processes back into the cgroups they came from.
  Result<void> Release();

 private:
  WorkloadTree(pid_t root, std::uint64_t start_ticks, Cgroup cgroup)
      : root_(root), start_ticks_(start_ticks), cgroup_(std::move(cgroup)) {}
  Result<void> DumpAll(const Criu& criu, const Cgroup& criu_cgroup, const std::filesystem::path& images,
                       const TreeFacts& facts, UniqueFd page_server, const PageFilter* page_filter,
                       const CriuNotify& notify);
  // Nothing: this CRIU sends its pages in a way that we do not know.
  Result<std::optional<MemoryMap>> DumpDirectly(const Criu& criu, const Cgroup& criu_cgroup,
                                                const std::filesystem::path& images, const TreeFacts& facts,
                                                const CriuNotify& notify);
  // True: some process was not in the cgroup before.
  Result<bool> TakeStrays();
  Result<void> CheckWhole(std::size_t process_count);
  Result<void> CheckAlive() const;

  pid_t root_;
  std::uint64_t start_ticks_;
  Cgroup cgroup_;
  std::map<pid_t, std::string> came_from_;  // cgroup paths relative to the hierarchy's root
};

}  // namespace gpumig
