#include "core/session/workload_control.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/file.h"
#include "core/host/process.h"
#include "core/host/ptrace_stop.h"
#include "core/session/blockers.h"

namespace gpumig {
namespace {

constexpr int kMostLockRounds = 10;
constexpr std::chrono::seconds kKillLimit{30};
constexpr std::chrono::seconds kResumeLimit{30};
constexpr std::chrono::seconds kCriuEndLimit{60};

std::vector<GpuPair> Identity(const std::vector<GpuFacts>& gpus) {
  std::vector<GpuPair> map;
  for (const GpuFacts& gpu : gpus) map.push_back({gpu.uuid, gpu.uuid, "back where it was"});
  return map;
}

std::string CgroupBaseOf(const Workload& workload, const Site& site) {
  return workload.is_ours() ? workload.cgroup : fmt::format("{}/adopted-{}", site.cgroup, workload.root);
}

std::string HostName() {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return name;
}

}  // namespace

Result<void> InDriverWindow(DevicePort& device, const DriverWindow& window, const std::function<Result<void>()>& work) {
  ThreadStop::Options options;
  options.exempt_threads = GPUMIG_TRY(device.RestoreThreads(window.gpu_processes));
  options.limit = window.limit;
  options.kill_if_we_die = window.kill_if_we_die;
  ThreadStop stop = GPUMIG_TRY(ThreadStop::Acquire(window.processes, options));
  auto opened = [&]() -> Result<void> {
    GPUMIG_TRY(window.cgroup->Thaw());
    return work();
  };
  Result<void> worked = opened();
  if (worked && window.freeze_after) worked = window.cgroup->Freeze(window.limit);
  Result<void> released = stop.Release();
  return worked ? released : worked;
}

Result<WorkloadControl> WorkloadControl::Attach(const Workload& workload, const Site& site, const Criu& criu,
                                                DevicePort& device) {
  const ProcessStat stat = GPUMIG_TRY(ReadProcessStat(workload.root));
  if (stat.start_ticks != workload.start_ticks || stat.state == 'Z') {
    return MakeError(ErrorCode::kNotFound, "process {} has ended", workload.root);
  }
  GPUMIG_TRY(RefuseBlockers(FindBlockers(GPUMIG_TRY(ProcessTree(workload.root)))));
  Cgroup base = GPUMIG_TRY(Cgroup::Create(CgroupBaseOf(workload, site)));
  Result<WorkloadTree> tree =
      WorkloadTree::Take(workload.root, GPUMIG_TRY(Cgroup::Create(CgroupBaseOf(workload, site) + "/tree")));
  if (!tree) {
    if (!workload.is_ours()) GPUMIG_TRY(base.Remove());
    return tree.error();
  }
  return WorkloadControl(workload, site, criu, device, std::move(*tree));
}

Result<void> WorkloadControl::Stop(const StopLimits& limits, Timeline& timeline) {
  auto stop = [&]() -> Result<void> {
    timeline.Begin("quiesce");
    GPUMIG_TRY(LockGpus(limits), "quiesce the GPUs of {}", workload_.name);
    if (!gpu_processes_.empty()) {
      timeline.Begin("device_capture");
      GPUMIG_TRY(CaptureDevices(limits), "capture the device memory of {}", workload_.name);
    }
    timeline.Begin("freeze");
    return tree_.Freeze(limits.freeze);
  };
  Result<void> stopped = stop();
  timeline.End();
  if (stopped || stopped.error().code() == ErrorCode::kLost) return stopped;
  Result<void> resumed = Resume();
  if (!resumed) return resumed.error().AddContext(stopped.error().message() + "; then resume");
  return stopped;
}

// A process may begin to use a GPU while we lock the others, so the set is read again until it stays the same.
Result<void> WorkloadControl::LockGpus(const StopLimits& limits) {
  const auto deadline = std::chrono::steady_clock::now() + limits.gpu_lock;
  gpu_processes_.clear();
  for (int round = 0; round < kMostLockRounds; ++round) {
    std::vector<pid_t> fresh;
    for (const pid_t pid : GPUMIG_TRY(device_->GpuProcesses(GPUMIG_TRY(tree_.Processes())))) {
      if (std::find(gpu_processes_.begin(), gpu_processes_.end(), pid) == gpu_processes_.end()) fresh.push_back(pid);
    }
    if (fresh.empty()) return Ok();
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    GPUMIG_TRY(device_->Lock(fresh, std::max(left, std::chrono::milliseconds(1))));
    gpu_processes_.insert(gpu_processes_.end(), fresh.begin(), fresh.end());
  }
  return MakeError(ErrorCode::kFailedPrecondition, "it starts GPU processes faster than they can be locked");
}

// Only the driver's own threads run meanwhile: the driver may map its memory where a running thread had just mapped its
// own. Source: gvisor issue 14776; CRIU's CUDA plugin does likewise.
Result<void> WorkloadControl::CaptureDevices(const StopLimits& limits) {
  DriverWindow window;
  window.processes = GPUMIG_TRY(tree_.Processes());
  window.gpu_processes = gpu_processes_;
  window.cgroup = &tree_.cgroup();
  window.limit = limits.freeze;
  const std::vector<GpuFacts> before = GPUMIG_TRY(device_->Gpus());
  GPUMIG_TRY(InDriverWindow(*device_, window, [&]() -> Result<void> {
    device_bytes_ = GPUMIG_TRY(device_->Checkpoint(gpu_processes_));
    return Ok();
  }));
  // What a GPU must have free to take its part: what became free on the GPU that gave it.
  gpus_ = GPUMIG_TRY(device_->Gpus());
  for (std::size_t i = 0; i < gpus_.size() && i < before.size(); ++i) {
    const std::uint64_t given_up = gpus_[i].free_bytes - std::min(gpus_[i].free_bytes, before[i].free_bytes);
    gpus_[i].free_bytes = gpus_[i].total_bytes - std::min(given_up, gpus_[i].total_bytes);
  }
  return Ok();
}

Result<WorkloadFacts> WorkloadControl::Facts() const {
  WorkloadFacts facts;
  facts.name = workload_.name;
  facts.created = UtcNow();
  facts.node = HostName();
  utsname system{};
  uname(&system);
  facts.kernel = system.release;
  facts.machine = system.machine;
  facts.criu_version = criu_.version;
  facts.tree = GPUMIG_TRY(tree_.Facts());
  facts.output_file = workload_.output_file;
  if (gpu_processes_.empty()) return facts;
  facts.gpu.driver = device_->Describe();
  facts.gpu.device_bytes = device_bytes_;
  facts.gpu.gpus = gpus_;
  for (const pid_t pid : gpu_processes_) facts.gpu.inner_processes.push_back(GPUMIG_TRY(NamespacePids(pid)).back());
  return facts;
}

Result<MemoryMap> WorkloadControl::Dump(const std::filesystem::path& images, HostPath path, Timeline& timeline) {
  timeline.Begin("host_dump");
  const Cgroup criu_cgroup = GPUMIG_TRY(Cgroup::Create(CgroupBaseOf(workload_, site_) + "/criu"));
  Result<MemoryMap> dumped = tree_.Dump(criu_, criu_cgroup, images, path);
  timeline.End();
  if (!dumped) {
    const std::filesystem::path log = KeepCriuLog(site_, images, workload_.name);
    Error error = dumped.error();
    if (error.next_step().empty() && !log.empty())
      error.WithNextStep(fmt::format("CRIU's log is kept in {}", log.string()));
    return error;
  }
  GPUMIG_TRY(CarryOutput(images));
  return dumped;
}

Result<std::vector<UnwrittenFile>> WorkloadControl::DumpedMemory(const std::filesystem::path& images) const {
  return MemoryAsFiles(GPUMIG_TRY(ReadMemoryMap(images)), GPUMIG_TRY(tree_.Processes()));
}

Result<void> WorkloadControl::CarryOutput(const std::filesystem::path& images) const {
  // CRIU's own log and counters are not part of the image.
  std::error_code error;
  std::filesystem::remove(images / "dump.log", error);
  std::filesystem::remove(images / "stats-dump", error);
  if (workload_.output_file.empty()) return Ok();
  std::filesystem::copy_file(workload_.output_file, images / kOutputFileInImage, error);
  if (error) return Error::FromErrno(error.value(), fmt::format("copy {}", workload_.output_file.string()));
  return Ok();
}

bool WorkloadControl::HasEnded() const {
  const Result<ProcessStat> stat = ReadProcessStat(workload_.root);
  return !stat || stat->start_ticks != workload_.start_ticks || stat->state == 'Z';
}

Result<void> WorkloadControl::Resume() {
  // A CRIU that an earlier agent started goes on without it for a while, and freezes the tree again when it ends.
  const Cgroup criu_cgroup = GPUMIG_TRY(Cgroup::Create(CgroupBaseOf(workload_, site_) + "/criu"));
  GPUMIG_TRY(criu_cgroup.AwaitEmpty(kCriuEndLimit), "wait for CRIU to end");
  // What is left of a workload that has ended is not a workload, but it may be frozen in our cgroup.
  if (HasEnded()) {
    GPUMIG_TRY(tree_.Thaw());
    return PutBack();
  }
  const Result<std::vector<pid_t>> processes = tree_.Processes();
  if (!processes) return processes.error();
  GPUMIG_TRY(ResumeGpus(*processes), "resume {}", workload_.name);
  GPUMIG_TRY(tree_.Thaw(), "resume {}", workload_.name);
  return PutBack();
}

// A plain process goes back to the cgroup that it came from.
Result<void> WorkloadControl::PutBack() {
  if (workload_.is_ours()) return Ok();
  GPUMIG_TRY(tree_.Release());
  Cgroup all = GPUMIG_TRY(Cgroup::Create(CgroupBaseOf(workload_, site_)));
  return all.Remove();
}

Result<void> WorkloadControl::ResumeGpus(const std::vector<pid_t>& processes) {
  std::vector<pid_t> checkpointed;
  std::vector<pid_t> locked;
  for (const pid_t pid : GPUMIG_TRY(device_->GpuProcesses(processes))) {
    const GpuState state = GPUMIG_TRY(device_->State(pid));
    if (state == GpuState::kFailed) return MakeError(ErrorCode::kLost, "the driver gave up process {}", pid);
    if (state == GpuState::kCheckpointed) checkpointed.push_back(pid);
    if (state == GpuState::kCheckpointed || state == GpuState::kLocked) locked.push_back(pid);
  }
  if (locked.empty()) return Ok();
  DriverWindow window;
  window.processes = processes;
  window.gpu_processes = locked;
  window.cgroup = &tree_.cgroup();
  window.freeze_after = false;
  window.limit = kResumeLimit;
  return InDriverWindow(*device_, window, [&]() -> Result<void> {
    if (!checkpointed.empty()) GPUMIG_TRY(device_->Restore(checkpointed, Identity(GPUMIG_TRY(device_->Gpus()))));
    return device_->Unlock(locked);
  });
}

Result<void> WorkloadControl::Destroy(const Workload& workload, const Site& site) {
  Cgroup all = GPUMIG_TRY(Cgroup::Create(CgroupBaseOf(workload, site)));
  GPUMIG_TRY(all.Kill(kKillLimit), "end {}", workload.name);
  GPUMIG_TRY(all.Remove());
  if (workload.is_ours()) WorkloadRegistry(site).Remove(workload.name);
  return Ok();
}

}  // namespace gpumig
