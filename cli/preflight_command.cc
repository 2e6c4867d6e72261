// gpumig preflight: whether a workload could be captured now, where it would land, and what it would take. Touches
// nothing.
#include <algorithm>

#include "cli/composition.h"
#include "cli/local_commands.h"
#include "cli/timed_parts.h"
#include "core/host/process.h"
#include "core/session/blockers.h"
#include "core/session/pause_forecast.h"
#include "core/session/registry.h"
#include "device_state/gpu_map.h"

namespace gpumig {
namespace {

struct Findings {
  Json blockers = Json::array();
  Json warnings = Json::array();
  std::vector<GpuPair> map;
  std::uint64_t host_bytes = 0;
  std::uint64_t device_bytes = 0;
  std::string text;

  void Block(pid_t process, const std::string& what, const std::string& cure) {
    blockers.push_back({{"process", process}, {"what", what}, {"cure", cure}});
    text += process > 0 ? fmt::format("  NO   process {} {}\n", process, what) : fmt::format("  NO   {}\n", what);
    if (!cure.empty()) text += fmt::format("       {}\n", cure);
  }
  void Warn(const std::string& what) {
    warnings.push_back({{"what", what}});
    text += fmt::format("  note {}\n", what);
  }
};

void LookAtStates(DevicePort& device, const std::vector<pid_t>& users, Findings& findings) {
  for (const pid_t pid : users) {
    const Result<GpuState> state = device.State(pid);
    if (!state) {
      findings.Block(pid, state.error().message(), state.error().next_step());
    } else if (*state == GpuState::kFailed) {
      findings.Block(pid, "was given up by its GPU driver", "only an earlier image can bring the job back");
    } else if (*state != GpuState::kRunning) {
      findings.Block(pid, fmt::format("is {} already", GpuStateName(*state)),
                     "see that no other checkpoint program is at work; after a failure: gpumig resume");
    }
  }
}

// What of a GPU is in use is not told by process, so that all of it counts as the job's: rather too much than too
// little.
void LookAtGpus(DevicePort& device, const std::vector<GpuPair>& asked, Findings& findings) {
  const Result<std::vector<GpuFacts>> gpus = device.Gpus();
  if (!gpus) {
    findings.Block(0, gpus.error().message(), gpus.error().next_step());
    return;
  }
  std::vector<GpuFacts> after = *gpus;  // when the job has left its GPUs
  for (GpuFacts& gpu : after) {
    findings.device_bytes += gpu.total_bytes - gpu.free_bytes;
    gpu.free_bytes = gpu.total_bytes;
  }
  const Result<std::vector<GpuPair>> map = SolveGpuMap(*gpus, after, asked);
  if (map) {
    findings.map = *map;
  } else {
    findings.Block(0, map.error().message(), map.error().next_step());
  }
}

Result<Findings> Look(const PreflightArguments& arguments, const Workload& workload, DevicePort& device) {
  Findings findings;
  const std::vector<GpuPair> asked = GPUMIG_TRY(ParseGpuMap(arguments.gpu_map));
  const std::vector<pid_t> tree = GPUMIG_TRY(ProcessTree(workload.root));
  findings.host_bytes = MemoryOf(tree).anonymous_bytes;
  for (const Blocker& blocker : FindBlockers(tree)) findings.Block(blocker.process, blocker.what, blocker.cure);
  const std::vector<pid_t> users = GPUMIG_TRY(device.GpuProcesses(tree));
  LookAtStates(device, users, findings);
  if (users.empty()) {
    findings.Warn("it uses no GPU");
  } else {
    LookAtGpus(device, asked, findings);
    findings.Warn("device bytes are all that is in use on this host's GPUs, by whomever");
  }
  return findings;
}

// To the node with the slowest link that `gpumig bench` measured: where it goes is not known yet.
Result<PauseForecast> Forecast(const HostRates& rates, const Findings& findings, std::string& node) {
  const auto slowest =
      std::ranges::min_element(rates.links, {}, [](const auto& link) { return link.second.bytes_per_second; });
  if (slowest == rates.links.end()) {
    return MakeError(ErrorCode::kFailedPrecondition, "no link was ever measured")
        .WithNextStep("measure with: gpumig bench --to NODE");
  }
  node = slowest->first;
  return PredictPause(rates, {.host_bytes = findings.host_bytes,
                              .device_bytes = findings.device_bytes,
                              .node = node,
                              .connection_count = slowest->second.connection_count});
}

// Into the outcome, for people too.
void AddForecast(const Site& site, const Findings& findings, CommandOutcome& outcome) {
  outcome.json["predicted_downtime_ms"] = nullptr;
  const Result<HostRates> rates = LoadHostRates(site.state_directory);
  if (!rates && rates.error().code() == ErrorCode::kNotFound) {
    outcome.text += "  time how long it would stand still is not known; measure with: gpumig bench --to NODE\n";
    return;
  }
  std::string node;
  const Result<PauseForecast> forecast =
      rates ? Forecast(*rates, findings, node) : Result<PauseForecast>(rates.error());
  outcome.json["forecast"] = ForecastToJson(forecast);
  if (!forecast) {
    outcome.text += fmt::format("  time how long it would stand still is not known: {}\n", forecast.error().message());
    return;
  }
  outcome.json["predicted_downtime_ms"] = Milliseconds(forecast->total);
  outcome.json["forecast"]["to"] = node;
  outcome.json["forecast"]["measured_at"] = rates->links.at(node).measured_at;
  outcome.text +=
      fmt::format("  time about {:.1f} s of standing still on a move to {} (link measured {}), bound by: {}\n",
                  Milliseconds(forecast->total) / 1000, node, rates->links.at(node).measured_at, forecast->bound_by);
}

}  // namespace

CommandOutcome Preflight(const PreflightArguments& arguments) {
  if (Result<void> root = CheckRoot(); !root) return Refusal(root.error());
  const Site site = Site::FromEnvironment();
  const Result<Workload> workload = WorkloadRegistry(site).Resolve(arguments.workload);
  if (!workload) return Refusal(workload.error());
  const Result<Composition> composition = Compose(site);
  if (!composition) return Refusal(composition.error());
  const Result<Findings> findings = Look(arguments, *workload, *composition->device);
  if (!findings) return Refusal(findings.error());

  const bool able = findings->blockers.empty();
  CommandOutcome outcome;
  outcome.json = {{"name", workload->name},
                  {"pid", workload->root},
                  {"blockers", findings->blockers},
                  {"warnings", findings->warnings},
                  {"gpu_map", GpuMapToJson(findings->map)},
                  {"predicted_bytes", {{"host", findings->host_bytes}, {"device", findings->device_bytes}}}};
  outcome.text = fmt::format("{} (process {}) {}\n", workload->name, workload->root,
                             able ? "can be captured now" : "cannot be captured now") +
                 findings->text;
  for (const GpuPair& pair : findings->map)
    outcome.text += fmt::format("  gpu  {} -> {}: {}\n", pair.old_uuid, pair.new_uuid, pair.why);
  outcome.text += fmt::format("  size {} of host memory, at most {} of device memory\n",
                              HumanBytes(findings->host_bytes), HumanBytes(findings->device_bytes));
  AddForecast(site, *findings, outcome);
  if (able) return outcome;
  outcome.code = ExitCode::kRefused;
  outcome.standing = "nothing was touched";
  outcome.error = MakeError(ErrorCode::kUnsupported, "{} cannot be captured now: {} blocker(s)", workload->name,
                            findings->blockers.size());
  return outcome;
}

}  // namespace gpumig
