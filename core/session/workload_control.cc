#include "core/session/workload_control.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/file.h"
#include "core/host/process.h"
#include "core/host/ptrace_stop.h"

namespace gpumig {
namespace {

constexpr int kMostLockRounds = 10;
constexpr int kMostResumeRounds = 3;
constexpr std::chrono::seconds kKillLimit{30};
constexpr std::chrono::seconds kResumeLimit{30};
constexpr std::chrono::seconds kCriuEndLimit{60};
constexpr const char* kAfterLoss = "only an earlier image can bring it back; end what is left of it";

std::vector<GpuPair> Identity(const std::vector<GpuFacts>& gpus) {
  std::vector<GpuPair> map;
  for (const GpuFacts& gpu : gpus) map.push_back({gpu.uuid, gpu.uuid, "back where it was"});
  return map;
}

std::string CgroupBaseOf(const Workload& workload, const Site& site) {
  return workload.is_ours() ? workload.cgroup : fmt::format("{}/adopted-{}", site.cgroup, workload.root);
}

// Its GPUs are quiesced, or about to be; where it is not empty, it says why the driver gave them up.
std::filesystem::path QuiescedFile(const Workload& workload, const Site& site) {
  return site.runtime_directory / "quiesced" / fmt::format("{}-{}", workload.root, workload.start_ticks);
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
  // Where it failed, the driver holds some of them half way: nobody may run until that is settled.
  Result<void> frozen;
  if (!worked || window.freeze_after) frozen = window.cgroup->Freeze(window.limit);
  Result<void> released = stop.Release();
  if (!worked) return worked;
  return frozen ? released : frozen;
}

Result<WorkloadControl> WorkloadControl::Attach(const Workload& workload, const Site& site, const Criu& criu,
                                                DevicePort& device) {
  const ProcessStat stat = GPUMIG_TRY(ReadProcessStat(workload.root));
  if (stat.start_ticks != workload.start_ticks || stat.state == 'Z') {
    return MakeError(ErrorCode::kNotFound, "process {} has ended", workload.root);
  }
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
    GPUMIG_TRY(tree_.Freeze(limits.freeze));
    if (gpu_processes_.empty()) GPUMIG_TRY(Hold(GPUMIG_TRY(tree_.Processes())));
    return CheckNoneIsGone();
  };
  Result<void> stopped = stop();
  timeline.End();
  if (stopped) return stopped;
  if (stopped.error().code() == ErrorCode::kLost) {
    [[maybe_unused]] const Result<void> noted =
        WriteFileDurably(QuiescedFile(workload_, site_), stopped.error().message());
    return stopped;
  }
  [[maybe_unused]] const Result<void> resumed = Resume();  // Whoever wants to know calls it again.
  return stopped;
}

// Those that have ended by now are not held.
Result<void> WorkloadControl::Hold(const std::vector<pid_t>& processes) {
  for (const pid_t pid : processes) {
    if (std::ranges::any_of(held_, [&](const HeldProcess& held) { return held.pid == pid; })) continue;
    const Result<ProcessStat> stat = ReadProcessStat(pid);
    if (!stat && stat.error().code() != ErrorCode::kNotFound) return stat.error();
    if (stat && stat->state != 'Z') held_.push_back({pid, stat->start_ticks});
  }
  return Ok();
}

std::vector<pid_t> WorkloadControl::GoneOfHeld() const {
  std::vector<pid_t> gone;
  for (const HeldProcess& held : held_) {
    const Result<ProcessStat> stat = ReadProcessStat(held.pid);
    if (!stat || stat->start_ticks != held.start_ticks || stat->state == 'Z' || stat->state == 'X')
      gone.push_back(held.pid);
  }
  return gone;
}

// An image without it would be restored into a workload that never was.
Result<void> WorkloadControl::CheckNoneIsGone() const {
  const std::vector<pid_t> gone = GoneOfHeld();
  if (gone.empty()) return Ok();
  return MakeError(ErrorCode::kNotFound, "process {} of {} was killed while it was captured", fmt::join(gone, ", "),
                   workload_.name);
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
    GPUMIG_TRY(MakeDirectories(QuiescedFile(workload_, site_).parent_path()));
    GPUMIG_TRY(OpenFile(QuiescedFile(workload_, site_), O_WRONLY | O_CREAT), "note that GPUs are quiesced");
    GPUMIG_TRY(Hold(fresh));
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
  const Result<std::vector<GpuFacts>> before = device_->Gpus();
  GPUMIG_TRY(InDriverWindow(*device_, window, [&]() -> Result<void> {
    GPUMIG_TRY(Hold(window.processes));  // From here on none of them runs, so none ends by itself.
    device_bytes_ = GPUMIG_TRY(device_->Checkpoint(gpu_processes_));
    return Ok();
  }));
  // What a GPU must have free to take its part: what became free on the GPU that gave it.
  if (!before) return before.error();
  gpus_ = GPUMIG_TRY(device_->Gpus());
  for (std::size_t i = 0; i < gpus_.size() && i < before->size(); ++i) {
    const std::uint64_t given_up = gpus_[i].free_bytes - std::min(gpus_[i].free_bytes, (*before)[i].free_bytes);
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
  GPUMIG_TRY(CheckNoneIsGone());
  GPUMIG_TRY(CarryOutput(images));
  return dumped;
}

Result<std::vector<UnwrittenFile>> WorkloadControl::DumpedMemory(const std::filesystem::path& images) const {
  const MemoryMap map = GPUMIG_TRY(ReadMemoryMap(images));
  for (const ProcessPages& pages : map.processes) {
    // It was cut as it was copied, which nobody knows any more.
    if (pages.layer() == 0) continue;
    return MakeError(ErrorCode::kFailedPrecondition, "memory of {} was copied while it ran, and cannot be read again",
                     workload_.name)
        .WithNextStep("migrate again");
  }
  return MemoryAsFiles(map, GPUMIG_TRY(tree_.Processes()));
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
  const auto nothing_is_left = [&] { return HasEnded() && !std::filesystem::exists(tree_.cgroup().path()); };
  if (nothing_is_left()) return Ok();
  // A plain process that was put back runs: its cgroup of ours went with that.
  if (!workload_.is_ours() && !std::filesystem::exists(tree_.cgroup().path())) return Ok();
  // A CRIU that an earlier agent started goes on without it for a while, and freezes the tree again when it ends.
  const Cgroup criu_cgroup = GPUMIG_TRY(Cgroup::Create(CgroupBaseOf(workload_, site_) + "/criu"));
  GPUMIG_TRY(criu_cgroup.AwaitEmpty(kCriuEndLimit), "wait for CRIU to end");
  for (const pid_t gone : GoneOfHeld()) vanished_.push_back(gone);
  held_.clear();
  Result<void> resumed = ResumeGpus();
  // What is left of a workload that has ended is not a workload, but it may be frozen in our cgroup.
  if (!resumed && !HasEnded()) return resumed.error().AddContext(fmt::format("resume {}", workload_.name));
  const Result<void> thawed = tree_.Thaw();
  if (!thawed && !nothing_is_left()) return Error(thawed.error()).AddContext(fmt::format("resume {}", workload_.name));
  std::error_code ignored;
  std::filesystem::remove(QuiescedFile(workload_, site_), ignored);
  return PutBack();
}

// A plain process goes back to the cgroup that it came from.
Result<void> WorkloadControl::PutBack() {
  if (workload_.is_ours()) return Ok();
  GPUMIG_TRY(tree_.Release());
  // Where it came from only that process knew which took it here; if that one was killed, it stays.
  if (!GPUMIG_TRY(tree_.cgroup().Processes()).empty()) return Ok();
  Cgroup all = GPUMIG_TRY(Cgroup::Create(CgroupBaseOf(workload_, site_)));
  return all.Remove();
}

// A call that another process made of the driver before it was killed may end only now, and processes may end at any
// time: then what was found out a moment ago is wrong, and is looked up again.
Result<void> WorkloadControl::ResumeGpus() {
  Result<void> resumed;
  for (int round = 0; round < kMostResumeRounds; ++round) {
    const std::vector<pid_t> processes = GPUMIG_TRY(tree_.cgroup().Processes());
    if (processes.empty()) return Ok();
    resumed = TryToResumeGpus(processes);
    if (resumed) return resumed;
    const ErrorCode code = resumed.error().code();
    const bool may_pass = code == ErrorCode::kFailedPrecondition || code == ErrorCode::kNotFound ||
                          code == ErrorCode::kUnavailable || code == ErrorCode::kIo;
    if (!may_pass) break;
  }
  return resumed;
}

Result<void> WorkloadControl::TryToResumeGpus(const std::vector<pid_t>& processes) {
  std::error_code ignored;
  if (device_->Describe().empty() && std::filesystem::exists(QuiescedFile(workload_, site_), ignored)) {
    const std::string why_lost = GPUMIG_TRY(ReadTextFile(QuiescedFile(workload_, site_)));
    if (!why_lost.empty()) return MakeError(ErrorCode::kLost, "{}", why_lost).WithNextStep(kAfterLoss);
    Result<void> refused = device_->Unlock(processes);
    if (!refused) {
      return std::move(refused).error().WithNextStep("its GPUs were quiesced and wait for their driver: bring that up");
    }
  }
  std::vector<pid_t> checkpointed;
  std::vector<pid_t> locked;
  std::vector<pid_t> failed;
  for (const pid_t pid : GPUMIG_TRY(device_->GpuProcesses(processes))) {
    const GpuState state = GPUMIG_TRY(device_->State(pid));
    if (state == GpuState::kFailed) failed.push_back(pid);
    if (state == GpuState::kCheckpointed) checkpointed.push_back(pid);
    if (state == GpuState::kCheckpointed || state == GpuState::kLocked) locked.push_back(pid);
  }
  if (!failed.empty()) {
    return MakeError(ErrorCode::kLost, "the driver gave up process {}", fmt::join(failed, ", "))
        .WithNextStep(kAfterLoss);
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

std::string WorkloadControl::WhyItStands(const Workload& workload, const Site& site) {
  const Result<std::filesystem::path> root = CgroupRoot();
  const Result<Cgroup> tree =
      root ? Cgroup::Open(*root / CgroupBaseOf(workload, site) / "tree") : Result<Cgroup>(root.error());
  const Result<bool> frozen = tree ? tree->IsFrozen() : Result<bool>(tree.error());
  const Result<std::string> quiesced = ReadTextFile(QuiescedFile(workload, site));
  if (quiesced && !quiesced->empty()) return "its GPU state has failed";
  if (frozen && *frozen) return "it stands frozen";
  return quiesced ? "its GPUs are quiesced" : "";
}

Result<void> WorkloadControl::Destroy(const Workload& workload, const Site& site) {
  Cgroup all = GPUMIG_TRY(Cgroup::Create(CgroupBaseOf(workload, site)));
  GPUMIG_TRY(all.Kill(kKillLimit), "end {}", workload.name);
  GPUMIG_TRY(all.Remove());
  std::error_code ignored;
  std::filesystem::remove(QuiescedFile(workload, site), ignored);
  if (workload.is_ours()) WorkloadRegistry(site).Remove(workload.name);
  return Ok();
}

}  // namespace gpumig
