#include "core/session/restore_workload.h"

#include <sys/utsname.h>

#include <algorithm>

#include "core/base/file.h"
#include "core/host/process.h"
#include "core/session/workload_control.h"

namespace gpumig {
namespace {

constexpr std::chrono::seconds kWindowLimit{30};
constexpr std::chrono::seconds kRelockLimit{10};
constexpr std::chrono::seconds kKillLimit{30};

// The output log goes to where the job has it open, which must be in this node's own directory of such logs.
Result<void> PutOutputFile(const WorkloadFacts& facts, const std::filesystem::path& images, const Site& site) {
  if (facts.output_file.empty()) return Ok();
  const std::filesystem::path wanted = facts.output_file;
  if (wanted.parent_path() != site.outputs() || !IsWorkloadName(wanted.stem().string())) {
    return MakeError(ErrorCode::kFailedPrecondition, "its output log was {}, and this node keeps such logs in {}",
                     wanted.string(), site.outputs().string())
        .WithNextStep("give both nodes the same state_directory");
  }
  GPUMIG_TRY(MakeDirectories(site.outputs()));
  std::error_code error;
  const std::filesystem::path carried = images / kOutputFileInImage;
  if (std::filesystem::exists(wanted, error) &&
      std::filesystem::file_size(wanted, error) == std::filesystem::file_size(carried, error) && !error) {
    return Ok();
  }
  // A log that somebody else still writes to keeps its inode.
  const std::filesystem::path temporary = wanted.string() + ".restored";
  std::filesystem::copy_file(carried, temporary, std::filesystem::copy_options::overwrite_existing, error);
  if (!error) std::filesystem::rename(temporary, wanted, error);
  if (error) return Error::FromErrno(error.value(), fmt::format("put back the output log {}", wanted.string()));
  return Ok();
}

Result<void> CheckHost(const WorkloadFacts& facts) {
  utsname system{};
  uname(&system);
  if (facts.machine != system.machine) {
    return MakeError(ErrorCode::kUnsupported, "it was captured on {}, this machine is {}", facts.machine,
                     system.machine);
  }
  return Ok();
}

Result<std::vector<pid_t>> FindGpuProcesses(const WorkloadFacts& facts, const RestoredTree& tree) {
  std::vector<pid_t> found;
  for (const pid_t pid : GPUMIG_TRY(tree.Processes())) {
    const pid_t inner = GPUMIG_TRY(NamespacePids(pid)).back();
    const auto& wanted = facts.gpu.inner_processes;
    if (std::find(wanted.begin(), wanted.end(), inner) != wanted.end()) found.push_back(pid);
  }
  if (found.size() != facts.gpu.inner_processes.size()) {
    return MakeError(ErrorCode::kInternal, "{} of {} GPU processes were restored", found.size(),
                     facts.gpu.inner_processes.size());
  }
  return found;
}

}  // namespace

Result<GatedWorkload> GatedWorkload::Restore(const Order& order, const WorkloadFacts& facts, const Site& site,
                                             const Criu& criu, DevicePort& device, Timeline& timeline) {
  GPUMIG_TRY(CheckHost(facts));
  GPUMIG_TRY(WorkloadRegistry(site).CheckFree(order.name));
  GPUMIG_TRY(PutOutputFile(facts, order.images, site));
  GPUMIG_TRY(MakeDirectories(site.workloads()));

  timeline.Begin("host_restore");
  Workload workload;
  workload.name = order.name;
  workload.cgroup = order.cgroup;
  workload.gpu = facts.uses_gpu() ? "cuda" : "none";
  workload.started = UtcNow();
  workload.output_file = facts.output_file;
  const RestorePlace place{workload.cgroup, site.workloads() / (order.name + ".exit")};
  Result<RestoredTree> tree = RestoredTree::RestoreToGate(criu, order.images, facts.tree, place);
  timeline.End();
  if (!tree) {
    const std::filesystem::path log = KeepCriuLog(site, order.images, order.name);
    Error error = tree.error();
    if (error.next_step().empty() && !log.empty())
      error.WithNextStep(fmt::format("CRIU's log is kept in {}", log.string()));
    return error;
  }
  workload.root = tree->root();
  workload.init = tree->init();
  GatedWorkload gated(workload, site, device, std::move(*tree), {});
  const auto look = [&]() -> Result<void> {
    gated.workload_.start_ticks = GPUMIG_TRY(ReadProcessStat(workload.root)).start_ticks;
    gated.gpu_processes_ = GPUMIG_TRY(FindGpuProcesses(facts, gated.tree_));
    return Ok();
  };
  if (Result<void> looked = look(); !looked) {
    [[maybe_unused]] const Result<void> discarded = gated.Discard();
    return looked.error();
  }
  return gated;
}

Result<GatedWorkload> GatedWorkload::FindAgain(const Workload& workload, const std::vector<pid_t>& gpu_processes,
                                               const Site& site, DevicePort& device) {
  RestoredTree tree = GPUMIG_TRY(RestoredTree::FindAgain(workload.cgroup, workload.root, workload.init));
  return GatedWorkload(workload, site, device, std::move(tree), gpu_processes);
}

Result<CopyState> GatedWorkload::Look() const {
  const Result<ProcessStat> stat = ReadProcessStat(workload_.root);
  if (!stat || stat->start_ticks != workload_.start_ticks || stat->state == 'Z') return CopyState::kGone;
  return GPUMIG_TRY(tree_.IsFrozen()) ? CopyState::kStopped : CopyState::kLive;
}

Result<void> GatedWorkload::RestoreDevices(const std::vector<GpuPair>& gpu_map, Timeline& timeline) {
  if (gpu_processes_.empty()) return Ok();
  timeline.Begin("device_restore");
  Result<void> restored = RestoreGpus(gpu_map);
  timeline.End();
  return restored;
}

Result<void> GatedWorkload::RestoreGpus(const std::vector<GpuPair>& gpu_map) {
  DriverWindow window;
  window.processes = GPUMIG_TRY(tree_.Processes());
  window.gpu_processes = gpu_processes_;
  window.cgroup = &tree_.cgroup();
  window.kill_if_we_die = true;
  window.limit = kWindowLimit;
  GPUMIG_TRY(InDriverWindow(*device_, window,
                            [&]() -> Result<void> {
                              GPUMIG_TRY(device_->Restore(gpu_processes_, gpu_map));
                              return device_->Unlock(gpu_processes_);
                            }),
             "put device memory back");
  // CRIU's word is not enough for a GPU: ask the driver.
  for (const pid_t pid : gpu_processes_) {
    const GpuState state = GPUMIG_TRY(device_->State(pid));
    if (state != GpuState::kRunning) {
      return MakeError(ErrorCode::kInternal, "after its restore process {} is {}", pid, GpuStateName(state));
    }
  }
  return Ok();
}

Result<void> GatedWorkload::Open() {
  WorkloadRegistry registry(site_);
  GPUMIG_TRY(registry.Put(workload_));
  return tree_.Thaw();
}

// Killing a process with live GPU state has hung whole hosts (cuda-checkpoint issue 53): its GPUs are freed first.
Result<void> GatedWorkload::FreeGpus() {
  if (gpu_processes_.empty()) return Ok();
  DriverWindow window;
  window.processes = GPUMIG_TRY(tree_.Processes());
  window.gpu_processes = gpu_processes_;
  window.cgroup = &tree_.cgroup();
  window.kill_if_we_die = true;
  window.limit = kWindowLimit;
  return InDriverWindow(*device_, window, [&]() -> Result<void> {
    GPUMIG_TRY(device_->Lock(gpu_processes_, kRelockLimit));
    GPUMIG_TRY(device_->Checkpoint(gpu_processes_));
    return Ok();
  });
}

Result<void> GatedWorkload::Discard() {
  // Where the GPUs cannot be freed first, the kill frees them: then that is the lesser evil.
  [[maybe_unused]] const Result<void> freed = FreeGpus();
  GPUMIG_TRY(tree_.Discard(), "discard {}", workload_.name);
  WorkloadRegistry(site_).Remove(workload_.name);
  return Ok();
}

Result<void> RemoveRestored(const std::string& cgroup) {
  const Result<Cgroup> all = Cgroup::Open(GPUMIG_TRY(CgroupRoot()) / cgroup);
  if (!all) return Ok();
  Cgroup found = *all;
  GPUMIG_TRY(found.Kill(kKillLimit));
  return found.Remove();
}

}  // namespace gpumig
