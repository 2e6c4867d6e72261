#include "core/session/registry.h"

#include <algorithm>
#include <charconv>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/host/cgroup.h"
#include "core/host/process.h"
#include "core/session/workload_facts.h"

namespace gpumig {
namespace {

constexpr std::size_t kLargestEntryBytes = 65536;

bool Lives(const Workload& workload) {
  const Result<ProcessStat> stat = ReadProcessStat(workload.root);
  return stat && stat->start_ticks == workload.start_ticks && stat->state != 'Z';
}

std::optional<pid_t> AsPid(const std::string& text) {
  pid_t pid = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), pid);
  if (error != std::errc() || stop != text.data() + text.size() || pid <= 0) return std::nullopt;
  return pid;
}

}  // namespace

Json ToJson(const Workload& workload) {
  return {{"name", workload.name},
          {"root", workload.root},
          {"start_ticks", workload.start_ticks},
          {"init", workload.init},
          {"cgroup", workload.cgroup},
          {"gpu", workload.gpu},
          {"started", workload.started},
          {"output_file", workload.output_file.string()}};
}

Result<Workload> WorkloadFromJson(const Json& json) {
  Workload workload;
  workload.name = GPUMIG_TRY(StringMember(json, "name"));
  workload.root = static_cast<pid_t>(GPUMIG_TRY(UnsignedMember(json, "root")));
  workload.start_ticks = GPUMIG_TRY(UnsignedMember(json, "start_ticks"));
  workload.init = static_cast<pid_t>(GPUMIG_TRY(UnsignedMember(json, "init")));
  workload.cgroup = GPUMIG_TRY(StringMember(json, "cgroup"));
  workload.gpu = GPUMIG_TRY(StringMember(json, "gpu"));
  workload.started = GPUMIG_TRY(StringMember(json, "started"));
  workload.output_file = GPUMIG_TRY(StringMember(json, "output_file"));
  return workload;
}

Result<void> WorkloadRegistry::Put(const Workload& workload) {
  GPUMIG_TRY(MakeDirectories(site_.workloads()));
  return WriteFileDurably(FileOf(workload.name), ToText(ToJson(workload)));
}

void WorkloadRegistry::Remove(const std::string& name) {
  std::error_code ignored;
  std::filesystem::remove(FileOf(name), ignored);
}

Result<std::vector<Workload>> WorkloadRegistry::List() {
  std::vector<Workload> workloads;
  std::error_code ignored;
  for (std::filesystem::directory_iterator entry(site_.workloads(), ignored), end; entry != end;
       entry.increment(ignored)) {
    if (entry->path().extension() != ".json") continue;
    const Result<std::string> text = ReadTextFile(entry->path(), kLargestEntryBytes);
    if (!text) continue;  // Removed while we looked.
    Workload workload = GPUMIG_TRY(WorkloadFromJson(GPUMIG_TRY(ParseJson(*text))), "read {}", entry->path().string());
    if (Lives(workload)) {
      workloads.push_back(std::move(workload));
    } else {
      Remove(workload.name);
    }
  }
  std::sort(workloads.begin(), workloads.end(), [](const Workload& a, const Workload& b) { return a.name < b.name; });
  return workloads;
}

Result<std::optional<Workload>> WorkloadRegistry::Find(const std::string& name) {
  for (Workload& workload : GPUMIG_TRY(List())) {
    if (workload.name == name) return std::optional(std::move(workload));
  }
  return std::optional<Workload>();
}

Result<Workload> WorkloadRegistry::Resolve(const std::string& text) {
  if (text.starts_with('/')) return ResolveCgroup(text);
  if (std::optional<Workload> named = GPUMIG_TRY(Find(text))) return *named;
  if (const std::optional<pid_t> pid = AsPid(text)) return ResolvePid(*pid);
  if (!IsWorkloadName(text)) {
    return MakeError(ErrorCode::kInvalidArgument, "'{}' is neither a workload's name nor a pid nor a cgroup path",
                     text);
  }
  return MakeError(ErrorCode::kNotFound, "no workload is called '{}' here", text)
      .WithNextStep("gpumig ps lists those that there are");
}

Result<Workload> WorkloadRegistry::ResolvePid(pid_t pid) {
  const ProcessStat stat = GPUMIG_TRY(ReadProcessStat(pid));
  if (stat.state == 'Z') return MakeError(ErrorCode::kNotFound, "process {} has ended", pid);
  const std::string cgroup = GPUMIG_TRY(CgroupPathOf(pid));
  for (Workload& workload : GPUMIG_TRY(List())) {
    if (workload.is_ours() && cgroup == "/" + workload.cgroup + "/tree") return std::move(workload);
  }
  Workload plain;
  plain.name = fmt::format("pid-{}", pid);
  plain.root = pid;
  plain.start_ticks = stat.start_ticks;
  return plain;
}

Result<Workload> WorkloadRegistry::ResolveCgroup(const std::filesystem::path& path) {
  const Cgroup cgroup = GPUMIG_TRY(Cgroup::Open(path));
  const std::vector<pid_t> processes = GPUMIG_TRY(cgroup.Processes());
  std::vector<pid_t> roots;
  for (const pid_t pid : processes) {
    const Result<ProcessStat> stat = ReadProcessStat(pid);
    if (stat && std::find(processes.begin(), processes.end(), stat->parent) == processes.end()) roots.push_back(pid);
  }
  if (roots.size() != 1) {
    return MakeError(ErrorCode::kInvalidArgument, "cgroup {} holds {} process trees; a workload is one", path.string(),
                     roots.size());
  }
  return ResolvePid(roots.front());
}

Result<void> WorkloadRegistry::CheckFree(const std::string& wanted) {
  if (!IsWorkloadName(wanted)) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "'{}' cannot be a workload's name: letters, digits, '.', '_', '-', at most 64", wanted);
  }
  if (GPUMIG_TRY(Find(wanted))) {
    return MakeError(ErrorCode::kAlreadyExists, "a workload called '{}' runs here already", wanted)
        .WithNextStep("choose another with --name");
  }
  return Ok();
}

}  // namespace gpumig
