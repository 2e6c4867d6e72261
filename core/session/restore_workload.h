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

// A restored workload at the gate: frozen by the kernel, its device memory back on GPUs, its GPU calls allowed, and not
// yet run a step. Killing us or CRIU changes nothing about that.
//
// Ownership: it lives on in its cgroup when this goes.
// Thread safety: one thread at a time.
class GatedWorkload {
 public:
  // Times go to `timeline` as "host_restore" and "device_restore". What fails leaves nothing behind.
  // Errors: kUnsupported with CRIU's first error line; kResourceExhausted, a GPU is too small or too full;
  // kAlreadyExists, the
  //     name is taken; kFailedPrecondition, this node keeps output logs elsewhere.
  static Result<GatedWorkload> Restore(const std::filesystem::path& images, const WorkloadFacts& facts,
                                       const std::string& name, const std::vector<GpuPair>& gpu_map, const Site& site,
                                       const Criu& criu, DevicePort& device, Timeline& timeline);

  // One that an earlier process of ours restored. Errors: kNotFound, its cgroup is gone.
  static Result<GatedWorkload> FindAgain(const Workload& workload, const std::vector<pid_t>& gpu_processes,
                                         const Site& site, DevicePort& device);

  const Workload& workload() const { return workload_; }
  const std::vector<pid_t>& gpu_processes() const { return gpu_processes_; }

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

}  // namespace gpumig
