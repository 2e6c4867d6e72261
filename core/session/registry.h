// WorkloadRegistry: the workloads that gpumig started or restored on this node, by name.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/base/json.h"
#include "core/base/result.h"
#include "core/session/site.h"

namespace gpumig {

// A workload to act on: one of the registry, or any process.
struct Workload {
  std::string name;  // for a plain process "pid-PID"
  pid_t root = 0;
  std::uint64_t start_ticks = 0;  // of root, so that a recycled pid is not taken for it
  pid_t init = 0;                 // its gpumig-init; 0 for a plain process
  std::string cgroup;             // ours, relative to CgroupRoot(), with the child "tree"; empty for a plain process
  std::string gpu = "none";       // what `run --gpu` said
  std::string started;            // RFC 3339
  std::filesystem::path output_file;  // that gpumig made for it; or empty

  bool is_ours() const { return !cgroup.empty(); }
};

// How a workload is written down: in the registry, in the journal of its migration, beside an image that comes in.
Json ToJson(const Workload& workload);
// Errors: kDamaged, naming the member.
Result<Workload> WorkloadFromJson(const Json& json);

// One file per workload in the runtime directory; entries of workloads that have ended are dropped when they are met.
//
// Thread safety: any number of processes at once; the last writer of a name wins.
class WorkloadRegistry {
 public:
  explicit WorkloadRegistry(Site site) : site_(std::move(site)) {}

  Result<void> Put(const Workload& workload);
  void Remove(const std::string& name);

  // Those that live, by name.
  Result<std::vector<Workload>> List();
  Result<std::optional<Workload>> Find(const std::string& name);

  // What a user calls WORKLOAD: a name of ours, a pid, or the path of a cgroup. A pid anywhere in a workload of ours
  // means that workload. Errors: kNotFound, nothing of that name lives; kInvalidArgument.
  Result<Workload> Resolve(const std::string& text);

  // `wanted` if nobody has it, else kAlreadyExists.
  Result<void> CheckFree(const std::string& wanted);

 private:
  std::filesystem::path FileOf(const std::string& name) const { return site_.workloads() / (name + ".json"); }
  Result<Workload> ResolvePid(pid_t pid);
  Result<Workload> ResolveCgroup(const std::filesystem::path& path);

  Site site_;
};

}  // namespace gpumig
