// WorkloadControl: stops one workload of this host, CPU and GPUs, and makes it run again.
#pragma once

#include <chrono>
#include <filesystem>
#include <vector>

#include "core/base/result.h"
#include "core/host/criu.h"
#include "core/host/workload_tree.h"
#include "core/session/device_port.h"
#include "core/session/host_memory.h"
#include "core/session/registry.h"
#include "core/session/site.h"
#include "core/session/timeline.h"
#include "core/session/workload_facts.h"

namespace gpumig {

struct StopLimits {
  std::chrono::milliseconds gpu_lock{10'000};  // for GPU work that was begun to end
  std::chrono::milliseconds freeze{10'000};
};

// States: running -Stop-> stopped (frozen whole; device memory in host memory) -Dump-> stopped -Resume-> running, or
// -Destroy-> gone. Resume() and Destroy() look at what is, so they can be called in any state, by another process than
// the one that stopped it, and again.
//
// From the first lock on, a file in the runtime directory says that its GPUs wait for a Resume(): a driver that does
// not come up cannot be asked.
//
// Ownership: borrows `device`. Destroying this changes nothing: whoever stops a workload must see to it that it is
// resumed. Thread safety: one thread at a time.
class WorkloadControl {
 public:
  // Gathers the workload's processes in its cgroup; they run on. Errors: those of WorkloadTree::Take().
  static Result<WorkloadControl> Attach(const Workload& workload, const Site& site, const Criu& criu,
                                        DevicePort& device);

  const Workload& workload() const { return workload_; }
  WorkloadTree& tree() { return tree_; }

  // Where it fails, the workload runs on, save where the error is kLost, or where that failed as well: Resume() says
  // so. Times go to
  // `timeline` as "quiesce", "device_capture" and "freeze".
  Result<void> Stop(const StopLimits& limits, Timeline& timeline);

  // What the stopped workload is. REQUIRES: stopped
  Result<WorkloadFacts> Facts() const;

  // CRIU's files, and the output log that travels along, into the empty directory `images`. The workload stays stopped.
  // Errors: kNotFound, somebody killed a process of it since it was stopped: what is there is not all of it. The time
  // goes to `timeline` as "host_dump". Gives what memory is not there, but is to be read out of the workload
  // (MemoryAsFiles()): it must stay stopped as long as anybody does.
  Result<MemoryMap> Dump(const std::filesystem::path& images, HostPath path, Timeline& timeline);

  // Those files again, of what an earlier process of ours dumped into `images`.
  Result<std::vector<UnwrittenFile>> DumpedMemory(const std::filesystem::path& images) const;

  // Gives GPUs back, unlocks them, thaws; puts a plain process back to where it came from. A workload that has ended is
  // none to resume, and no error; what is left of it is let go. After an error it stands frozen.
  // Errors: kLost, the driver gave a process up; kUnavailable, there is no driver to give its GPUs back.
  Result<void> Resume();

  // Of those that Stop() held still: who was killed before Resume() let them go.
  const std::vector<pid_t>& Vanished() const { return vanished_; }

  // Why `workload` does not run though its root lives: a session that stopped it has not resumed it, and may be at
  // work. Empty: it runs.
  static std::string WhyItStands(const Workload& workload, const Site& site);

  // Whether its root process has ended, by itself or by somebody's hand.
  bool HasEnded() const;

  // Kills what is left of it and removes what it had here. Of a workload that is gone already, too.
  static Result<void> Destroy(const Workload& workload, const Site& site);
  Result<void> Destroy() { return Destroy(workload_, site_); }

 private:
  WorkloadControl(Workload workload, Site site, Criu criu, DevicePort& device, WorkloadTree tree)
      : workload_(std::move(workload)),
        site_(std::move(site)),
        criu_(std::move(criu)),
        device_(&device),
        tree_(std::move(tree)) {}
  struct HeldProcess {
    pid_t pid = 0;
    std::uint64_t start_ticks = 0;
  };
  Result<void> Hold(const std::vector<pid_t>& processes);
  std::vector<pid_t> GoneOfHeld() const;
  Result<void> CheckNoneIsGone() const;
  Result<void> LockGpus(const StopLimits& limits);
  Result<void> CaptureDevices(const StopLimits& limits);
  Result<void> PutBack();
  Result<void> ResumeGpus();
  Result<void> TryToResumeGpus(const std::vector<pid_t>& processes);
  Result<void> CarryOutput(const std::filesystem::path& images) const;

  Workload workload_;
  Site site_;
  Criu criu_;
  DevicePort* device_;
  WorkloadTree tree_;
  std::vector<pid_t> gpu_processes_;  // as locked by Stop()
  std::vector<HeldProcess> held_;     // none of them may end by itself before Resume()
  std::vector<pid_t> vanished_;
  std::uint64_t device_bytes_ = 0;
  std::vector<GpuFacts> gpus_;  // of this host, each with as much in use as this workload had there
};

// Runs `work` while of `processes`, frozen in `cgroup` or not, only those threads can run that the driver needs to
// serve `gpu_processes`. On return the cgroup is frozen again if `freeze_after` or `work` failed, and the threads are
// let go. `kill_if_we_die`: the kernel kills the processes if this one ends meanwhile.
struct DriverWindow {
  std::vector<pid_t> processes;
  std::vector<pid_t> gpu_processes;
  Cgroup* cgroup = nullptr;
  bool kill_if_we_die = false;
  bool freeze_after = true;
  std::chrono::milliseconds limit{10'000};
};
Result<void> InDriverWindow(DevicePort& device, const DriverWindow& window, const std::function<Result<void>()>& work);

}  // namespace gpumig
