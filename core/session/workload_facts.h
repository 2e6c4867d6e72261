// WorkloadFacts: what an image tells of its workload beside the bytes. Carried as JSON in the image's manifest.
//
// Facts describe; they grant nothing. Whoever restores checks them against this host.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/json.h"
#include "core/base/result.h"
#include "core/host/workload_tree.h"
#include "core/session/device_port.h"

namespace gpumig {

struct GpuUse {
  std::string driver;  // as DevicePort::Describe() said
  std::uint64_t device_bytes = 0;
  std::vector<pid_t> inner_processes;  // that use GPUs, as their own pid namespace numbers them
  std::vector<GpuFacts> gpus;          // all that the capturing host had; in use on each: by this workload
};

struct WorkloadFacts {
  std::string name;
  std::string created;  // RFC 3339, UTC
  std::string node;     // host name where it was captured
  std::string kernel;
  std::string machine;  // "x86_64"
  std::string criu_version;
  TreeFacts tree;
  GpuUse gpu;               // no inner_processes: it uses no GPU
  std::string output_file;  // absolute path of the output log that gpumig made for it and that travels along; or empty

  bool uses_gpu() const { return !gpu.inner_processes.empty(); }
  std::string_view device_path() const { return uses_gpu() ? "host" : "none"; }
};

std::string ToJson(const WorkloadFacts& facts);
// Errors: kDamaged, naming the member; counts have limits.
Result<WorkloadFacts> ParseWorkloadFacts(std::string_view json);

Json GpuToJson(const GpuFacts& gpu);
Result<GpuFacts> GpuFromJson(const Json& json);

// 1 to 64 of letters, digits, '.', '_', '-', beginning with a letter or digit.
bool IsWorkloadName(std::string_view name);

// Name under which the output log travels among CRIU's files.
inline constexpr const char* kOutputFileInImage = "workload-output.log";

}  // namespace gpumig
