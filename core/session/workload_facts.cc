#include "core/session/workload_facts.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "core/base/json.h"

namespace gpumig {
namespace {

constexpr std::uint64_t kFactsVersion = 1;
constexpr std::size_t kMostIds = 1 << 20;
constexpr std::size_t kMostGpus = 1024;
constexpr std::uint64_t kHighestPid = 1 << 22;

}  // namespace

Json GpuToJson(const GpuFacts& gpu) {
  return {{"uuid", gpu.uuid},
          {"chip", gpu.chip},
          {"pci_bus_id", gpu.pci_bus_id},
          {"total_bytes", gpu.total_bytes},
          {"free_bytes", gpu.free_bytes},
          {"numa_node", gpu.numa_node}};
}

Result<GpuFacts> GpuFromJson(const Json& json) {
  GpuFacts gpu;
  gpu.uuid = GPUMIG_TRY(StringMember(json, "uuid"));
  gpu.chip = GPUMIG_TRY(StringMember(json, "chip"));
  gpu.pci_bus_id = GPUMIG_TRY(StringMember(json, "pci_bus_id"));
  gpu.total_bytes = GPUMIG_TRY(UnsignedMember(json, "total_bytes"));
  gpu.free_bytes = GPUMIG_TRY(UnsignedMember(json, "free_bytes"));
  // Older images do not tell it.
  if (json.contains("numa_node")) {
    gpu.numa_node =
        static_cast<int>(std::clamp<std::int64_t>(GPUMIG_TRY(IntegerMember(json, "numa_node")), -1, 1 << 16));
  }
  return gpu;
}

namespace {

Result<std::vector<pid_t>> PidsFromJson(const Json& object, const char* key) {
  const Json array = GPUMIG_TRY(ArrayMember(object, key));
  if (array.size() > kMostIds) return MakeError(ErrorCode::kDamaged, "'{}' lists {} ids", key, array.size());
  std::vector<pid_t> pids;
  for (const Json& item : array) {
    if (!item.is_number_unsigned() || item.get<std::uint64_t>() == 0 || item.get<std::uint64_t>() > kHighestPid) {
      return MakeError(ErrorCode::kDamaged, "'{}' holds something that is no process id", key);
    }
    pids.push_back(item.get<pid_t>());
  }
  return pids;
}

Result<TreeFacts> TreeFromJson(const Json& json) {
  TreeFacts tree;
  const std::uint64_t root = GPUMIG_TRY(UnsignedMember(json, "inner_root"));
  if (root == 0 || root > kHighestPid) return MakeError(ErrorCode::kDamaged, "'inner_root' is no process id");
  tree.inner_root = static_cast<pid_t>(root);
  tree.inner_ids = GPUMIG_TRY(PidsFromJson(json, "inner_ids"));
  tree.session_outside = GPUMIG_TRY(BoolMember(json, "session_outside"));
  tree.process_count = GPUMIG_TRY(UnsignedMember(json, "process_count"));
  tree.resident_bytes = GPUMIG_TRY(UnsignedMember(json, "resident_bytes"));
  if (tree.process_count == 0 || tree.process_count > tree.inner_ids.size()) {
    return MakeError(ErrorCode::kDamaged, "'process_count' does not fit 'inner_ids'");
  }
  return tree;
}

Result<GpuUse> GpuUseFromJson(const Json& json) {
  GpuUse use;
  use.driver = GPUMIG_TRY(StringMember(json, "driver"));
  use.device_bytes = GPUMIG_TRY(UnsignedMember(json, "device_bytes"));
  use.inner_processes = GPUMIG_TRY(PidsFromJson(json, "inner_processes"));
  const Json gpus = GPUMIG_TRY(ArrayMember(json, "gpus"));
  if (gpus.size() > kMostGpus) return MakeError(ErrorCode::kDamaged, "'gpus' lists {} GPUs", gpus.size());
  for (const Json& gpu : gpus) use.gpus.push_back(GPUMIG_TRY(GpuFromJson(gpu)));
  return use;
}

}  // namespace

bool IsWorkloadName(std::string_view name) {
  if (name.empty() || name.size() > 64 || std::isalnum(static_cast<unsigned char>(name.front())) == 0) return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '_' || c == '-';
  });
}

std::string ToJson(const WorkloadFacts& facts) {
  Json gpus = Json::array();
  for (const GpuFacts& gpu : facts.gpu.gpus) gpus.push_back(GpuToJson(gpu));
  return ToText({{"version", kFactsVersion},
                 {"name", facts.name},
                 {"created", facts.created},
                 {"node", facts.node},
                 {"kernel", facts.kernel},
                 {"machine", facts.machine},
                 {"criu_version", facts.criu_version},
                 {"tree",
                  {{"inner_root", facts.tree.inner_root},
                   {"inner_ids", facts.tree.inner_ids},
                   {"session_outside", facts.tree.session_outside},
                   {"process_count", facts.tree.process_count},
                   {"resident_bytes", facts.tree.resident_bytes}}},
                 {"gpu",
                  {{"driver", facts.gpu.driver},
                   {"device_bytes", facts.gpu.device_bytes},
                   {"inner_processes", facts.gpu.inner_processes},
                   {"gpus", gpus}}},
                 {"output_file", facts.output_file}});
}

Result<WorkloadFacts> ParseWorkloadFacts(std::string_view text) {
  const Json json = GPUMIG_TRY(ParseJson(text), "workload facts");
  const std::uint64_t version = GPUMIG_TRY(UnsignedMember(json, "version"), "workload facts");
  if (version != kFactsVersion) {
    return MakeError(ErrorCode::kUnsupported, "workload facts are of version {}, this gpumig reads version {}", version,
                     kFactsVersion);
  }
  WorkloadFacts facts;
  facts.name = GPUMIG_TRY(StringMember(json, "name"));
  if (!IsWorkloadName(facts.name)) return MakeError(ErrorCode::kDamaged, "workload facts hold an impossible name");
  facts.created = GPUMIG_TRY(StringMember(json, "created"));
  facts.node = GPUMIG_TRY(StringMember(json, "node"));
  facts.kernel = GPUMIG_TRY(StringMember(json, "kernel"));
  facts.machine = GPUMIG_TRY(StringMember(json, "machine"));
  facts.criu_version = GPUMIG_TRY(StringMember(json, "criu_version"));
  facts.tree = GPUMIG_TRY(TreeFromJson(GPUMIG_TRY(ObjectMember(json, "tree"))), "workload facts: tree");
  facts.gpu = GPUMIG_TRY(GpuUseFromJson(GPUMIG_TRY(ObjectMember(json, "gpu"))), "workload facts: gpu");
  facts.output_file = GPUMIG_TRY(StringMember(json, "output_file"));
  return facts;
}

}  // namespace gpumig
