// gpumig ps: workloads, and other processes that use a GPU.
#include <algorithm>
#include <filesystem>

#include "cli/composition.h"
#include "cli/local_commands.h"
#include "core/host/process.h"
#include "core/session/registry.h"
#include "core/session/workload_control.h"

namespace gpumig {
namespace {

// As the kernel cuts it.
constexpr std::string_view kHelperCommand = "gpumig-gpu-help";

struct Row {
  Workload workload;
  std::vector<pid_t> gpu_processes;
  std::uint64_t host_bytes = 0;
  std::optional<std::uint64_t> device_bytes;  // where it uses a GPU, and the driver tells
  std::string cannot_move;                    // why; empty: it can
};

// gpumig and gpumigd, which open the driver only to ask it about others, use a GPU in its eyes.
bool IsOneOfUs(pid_t pid) {
  std::error_code error;
  const std::filesystem::path us = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path exe = std::filesystem::read_symlink(fmt::format("/proc/{}/exe", pid), error);
  const std::string name = exe.filename();
  return !exe.empty() && exe.parent_path() == us.parent_path() && (name == "gpumig" || name == "gpumigd");
}

// What it can say of GPUs goes into `row`, up to an error.
Result<void> AskForGpus(const std::vector<pid_t>& tree, DevicePort& device, Row& row) {
  row.gpu_processes = GPUMIG_TRY(device.GpuProcesses(tree));
  if (!row.gpu_processes.empty()) row.device_bytes = device.HeldBytes(row.gpu_processes);
  for (const pid_t pid : row.gpu_processes) {
    const GpuState state = GPUMIG_TRY(device.State(pid));
    if (state != GpuState::kRunning) row.cannot_move = fmt::format("process {} is {}", pid, GpuStateName(state));
  }
  return Ok();
}

Result<Row> Describe(const Workload& workload, const Site& site, DevicePort& device) {
  Row row;
  row.workload = workload;
  const std::vector<pid_t> tree = GPUMIG_TRY(ProcessTree(workload.root));
  row.host_bytes = MemoryOf(tree).resident_bytes;
  const Result<void> asked = AskForGpus(tree, device, row);
  if (!asked) row.cannot_move = asked.error().message();
  const std::string stands = WorkloadControl::WhyItStands(workload, site);
  if (!stands.empty()) {
    row.cannot_move = fmt::format("{}{}{}; if no session is at work on it: gpumig resume {}", stands,
                                  row.cannot_move.empty() ? "" : ", ", row.cannot_move, workload.name);
  }
  return row;
}

Result<std::vector<Row>> Rows(const Site& site, DevicePort& device) {
  std::vector<Row> rows;
  std::vector<pid_t> seen;
  for (const Workload& workload : GPUMIG_TRY(WorkloadRegistry(site).List())) {
    Result<Row> row = Describe(workload, site, device);
    if (!row) continue;  // It ended while we looked.
    seen.insert(seen.end(), row->gpu_processes.begin(), row->gpu_processes.end());
    rows.push_back(std::move(*row));
  }
  for (const ProcessStat& stat : GPUMIG_TRY(ListProcesses())) {
    if (std::find(seen.begin(), seen.end(), stat.pid) != seen.end() || IsOneOfUs(stat.pid)) continue;
    if (stat.command == kHelperCommand) continue;  // an agent's hold on the driver is nobody's workload
    // One that we may not look into, such as the first of a container, is not ours to list.
    const Result<GpuState> state = device.State(stat.pid);
    if (!state || *state == GpuState::kNone) continue;
    const Result<Workload> plain = WorkloadRegistry(site).Resolve(std::to_string(stat.pid));
    if (!plain) continue;
    Result<Row> row = Describe(*plain, site, device);
    if (row) rows.push_back(std::move(*row));
  }
  return rows;
}

}  // namespace

CommandOutcome ListWorkloads() {
  if (Result<void> root = CheckRoot(); !root) return Refusal(root.error());
  const Site site = Site::FromEnvironment();
  const Result<Composition> composition = Compose(site);
  if (!composition) return Refusal(composition.error());
  const Result<std::vector<Row>> rows = Rows(site, *composition->device);
  if (!rows) return Refusal(rows.error());

  CommandOutcome outcome;
  Json list = Json::array();
  outcome.text =
      fmt::format("{:<20} {:>8}  {:>6}  {:>10}  {:>10}  {}\n", "NAME", "PID", "GPU", "HOST", "DEVICE", "CAN MOVE");
  for (const Row& row : *rows) {
    list.push_back({{"name", row.workload.name},
                    {"pid", row.workload.root},
                    {"gpu_processes", row.gpu_processes},
                    {"host_bytes", row.host_bytes},
                    {"started_by_gpumig", row.workload.is_ours()},
                    {"can_move", row.cannot_move.empty()},
                    {"why_not", row.cannot_move}});
    if (row.device_bytes) list.back()["device_bytes"] = *row.device_bytes;
    outcome.text += fmt::format("{:<20} {:>8}  {:>6}  {:>10}  {:>10}  {}\n", row.workload.name, row.workload.root,
                                row.gpu_processes.empty() ? "-" : std::to_string(row.gpu_processes.size()),
                                HumanBytes(row.host_bytes), row.device_bytes ? HumanBytes(*row.device_bytes) : "",
                                row.cannot_move.empty() ? "yes" : "no: " + row.cannot_move);
  }
  outcome.json = {{"workloads", list}};
  return outcome;
}

}  // namespace gpumig
