// Brings a workload back from CRIU's files: up to the gate, and through it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/host/criu.h"
#include "core/host/restored_tree.h"
#include "core/session/device_port.h"
#include "core/session/handoff_types.h"
#include "core/session/registry.h"
#include "core/session/site.h"
#include "core/session/timeline.h"
#include "core/session/workload_facts.h"

namespace gpumig {

// A restored workload at the gate: frozen by the kernel, and, once RestoreDevices() is done, its device memory back on
// GPUs and its GPU calls allowed; and not yet run a step. Killing us or CRIU changes nothing about that.
//
// Ownership: it lives on in its cgroup when this goes.
// Thread safety: one thread at a time.
class GatedWorkload {
 public:
  // What CRIU restores. Memory that is to come past it may be filled in from now on, and must be before
  // RestoreDevices(). The time goes to `timeline` as "host_restore". What fails leaves nothing behind.
  // Errors: kUnsupported with CRIU's first error line; kAlreadyExists, the name is taken; kFailedPrecondition, this
  // node keeps output logs elsewhere.
  struct Order {
    std::filesystem::path images;
    std::string name;
    std::string cgroup;  // Site::NewCgroup(); known beforehand, so that it can be found whatever happens
  };
  static Result<GatedWorkload> Restore(const Order& order, const WorkloadFacts& facts, const Site& site,
                                       const Criu& criu, DevicePort& device, Timeline& timeline);

  // The time goes to `timeline` as "device_restore". After an error: Discard().
  // Errors: kResourceExhausted, a GPU is too small or too full.
  Result<void> RestoreDevices(const std::vector<GpuPair>& gpu_map, Timeline& timeline);

  // One that an earlier process of ours restored. Errors: kNotFound, its cgroup is gone.
  static Result<GatedWorkload> FindAgain(const Workload& workload, const std::vector<pid_t>& gpu_processes,
                                         const Site& site, DevicePort& device);

  const Workload& workload() const { return workload_; }
  const std::vector<pid_t>& gpu_processes() const { return gpu_processes_; }
  Result<std::vector<pid_t>> Processes() const { return tree_.Processes(); }

  // What the kernel shows now.
  Result<CopyState> Look() const;

  // Lets it run, and enters it into the registry.
  Result<void> Open();

  // Ends it and frees what it held, GPUs first.
  Result<void> Discard();

 private:
  GatedWorkload(Workload workload, Site site, DevicePort& device, RestoredTree tree, std::vector<pid_t> gpu_processes)
      : workload_(std::move(workload)),
        site_(std::move(site)),
        device_(&device),
        tree_(std::move(tree)),
        gpu_processes_(std::move(gpu_processes)) {}
  Result<void> RestoreGpus(const std::vector<GpuPair>& gpu_map);
  Result<void> FreeGpus();

  Workload workload_;
  Site site_;
  DevicePort* device_;
  RestoredTree tree_;
  std::vector<pid_t> gpu_processes_;
};

// Kills whatever is in a cgroup that a restore was given, and removes it. Of one that is not there, too.
Result<void> RemoveRestored(const std::string& cgroup);

}  // namespace gpumig
