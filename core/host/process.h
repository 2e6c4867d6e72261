// What /proc says of processes: identity, ancestry, namespaces, memory.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/result.h"

namespace gpumig {

struct ProcessStat {
  pid_t pid = 0;
  pid_t parent = 0;
  pid_t session = 0;
  char state = '?';
  std::uint64_t start_ticks = 0;  // since boot; with the pid it names one process for good
  std::string command;            // up to 15 characters
};

// Errors of all: kNotFound, there is no such process.
Result<ProcessStat> ReadProcessStat(pid_t pid);

// All processes of /proc.
Result<std::vector<ProcessStat>> ListProcesses();

// `root` first, then its descendants, parents before children. Zombies are left out: they are gone in all but name.
Result<std::vector<pid_t>> ProcessTree(pid_t root);

// The numbers of `pid` from our pid namespace inwards; the last is what the process itself sees.
Result<std::vector<pid_t>> NamespacePids(pid_t pid);
// Likewise for every thread of it, innermost only.
Result<std::vector<pid_t>> InnerThreadIds(pid_t pid);

// Whether a thread of it waits for a child of vfork() to exec or exit. Such a thread can be stopped by nobody: not by
// the ptrace that CRIU needs, either.
bool WaitsForVforkChild(pid_t pid);

// Whether both live in the same namespace of this kind ("pid", "mnt", "net", ...).
Result<bool> SharesNamespace(pid_t a, pid_t b, const std::string& kind);

struct ProcessMemory {
  std::uint64_t resident_bytes = 0;
  std::uint64_t anonymous_bytes = 0;
};
// Sums over the processes; one that is gone counts as nothing.
ProcessMemory MemoryOf(const std::vector<pid_t>& processes);

// What programs may still take on this host without swapping.
Result<std::uint64_t> AvailableMemory();

// The path of the process in the cgroup v2 hierarchy, as /proc says it: "/" or "/a/b". Empty where there is none.
Result<std::string> CgroupPathOf(pid_t pid);

}  // namespace gpumig
