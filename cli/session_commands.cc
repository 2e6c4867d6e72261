// gpumig checkpoint, restore and resume.
#include "cli/composition.h"
#include "cli/live_report.h"
#include "cli/local_commands.h"
#include "cli/timed_parts.h"
#include "core/base/log.h"
#include "core/session/registry.h"
#include "core/session/staging.h"
#include "core/session/workload_control.h"

namespace gpumig {

Result<std::vector<GpuPair>> ParseGpuMap(const std::vector<std::string>& texts) {
  std::vector<GpuPair> map;
  for (const std::string& text : texts) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
      return MakeError(ErrorCode::kInvalidArgument, "'{}' is not OLD-UUID=NEW-UUID", text);
    }
    map.push_back({text.substr(0, equals), text.substr(equals + 1), "as asked"});
  }
  return map;
}

Json GpuMapToJson(const std::vector<GpuPair>& map) {
  Json json = Json::array();
  for (const GpuPair& pair : map) json.push_back({{"old", pair.old_uuid}, {"new", pair.new_uuid}, {"why", pair.why}});
  return json;
}

namespace {

std::string PartsToText(const std::vector<TimedPart>& parts) {
  std::string text;
  for (const TimedPart& part : parts)
    text += fmt::format("  {:<16} {:>10.1f} ms\n", part.name, Milliseconds(part.duration));
  return text;
}

void LogPart(std::string_view part, std::optional<std::chrono::microseconds> took) {
  if (took) {
    spdlog::info("{} took {:.1f} ms", part, Milliseconds(*took));
  } else {
    spdlog::info("{} began", part);
  }
}

PhaseProgressFn ShowOn(ProgressBar& bar) {
  return [&bar](std::string_view phase, double done) { bar.Update(phase, done); };
}

}  // namespace

CommandOutcome Checkpoint(const CheckpointArguments& arguments) {
  const Result<CompressionChoice> compression = CompressionChoice::Parse(arguments.compress);
  if (!compression) return Refusal(compression.error());
  const Result<HostPath> host_path = ParseHostPath(arguments.host_path);
  if (!host_path) return Refusal(host_path.error());
  if (Result<void> path = arguments.live ? CheckLivePath(*host_path) : Ok(); !path) return Refusal(path.error());
  if (Result<void> root = CheckRoot(); !root) return Refusal(root.error());
  const Site site = Site::FromEnvironment();
  const Result<Workload> workload = WorkloadRegistry(site).Resolve(arguments.workload);
  if (!workload) return Refusal(workload.error());
  const Result<Composition> composition = Compose(site);
  if (!composition) return Refusal(composition.error());

  CheckpointRequest request;
  request.workload = *workload;
  request.image = arguments.image;
  request.leave_running = arguments.leave_running;
  request.live = arguments.live;
  request.compression = *compression;
  request.capture.host_path = *host_path;
  request.on_part = LogPart;
  request.capture.limits.gpu_lock = std::chrono::milliseconds(arguments.lock_timeout_ms);
  Outcome<CheckpointReport> done = [&] {
    ProgressBar bar;
    return CheckpointWorkload(composition->context, request, ShowOn(bar));
  }();
  if (!done.result) {
    done.result.error().AddContext(fmt::format("checkpoint {} to {}", workload->name, arguments.image.string()));
    return Failure(done.result.error(), done.aftermath);
  }
  const CheckpointReport& report = *done.result;
  CommandOutcome outcome;
  outcome.json = {{"name", workload->name},
                  {"pid", workload->root},
                  {"image", arguments.image.string()},
                  {"image_digest", report.image_digest},
                  {"left_running", arguments.leave_running},
                  {"downtime_ms", Milliseconds(report.downtime)},
                  {"downtime_parts_ms", PartsToJson(report.downtime_parts)},
                  {"total_ms", Milliseconds(report.total)},
                  {"host_bytes", report.host_bytes},
                  {"device_bytes", report.device_bytes},
                  {"direct_bytes", report.direct_bytes},
                  {"stored_bytes", report.stored_bytes},
                  {"device_path", report.device_path}};
  if (report.live) outcome.json["live"] = LiveToJson(*report.live);
  outcome.text =
      fmt::format("{} is in {} ({} host, {} device, {} stored)\n", workload->name, arguments.image.string(),
                  HumanBytes(report.host_bytes), HumanBytes(report.device_bytes), HumanBytes(report.stored_bytes)) +
      fmt::format("it {} {:.1f} ms:\n", arguments.leave_running ? "stood still for" : "was stopped and written in",
                  Milliseconds(report.downtime)) +
      PartsToText(report.downtime_parts) + (report.live ? LiveText(outcome.json["live"]) : "") +
      (arguments.leave_running ? "it runs on\n"
                               : fmt::format("bring it back with: gpumig restore {}\n", arguments.image.string()));
  return outcome;
}

CommandOutcome Restore(const RestoreArguments& arguments) {
  const Result<std::vector<GpuPair>> map = ParseGpuMap(arguments.gpu_map);
  if (!map) return Refusal(map.error());
  if (Result<void> root = CheckRoot(); !root) return Refusal(root.error());
  const Result<Composition> composition = Compose(Site::FromEnvironment());
  if (!composition) return Refusal(composition.error());

  RestoreRequest request;
  request.image = arguments.image;
  request.name = arguments.name;
  request.asked_map = *map;
  Outcome<RestoreReport> done = [&] {
    ProgressBar bar;
    return RestoreImage(composition->context, request, ShowOn(bar));
  }();
  if (!done.result) return Failure(done.result.error(), done.aftermath);
  const RestoreReport& report = *done.result;
  CommandOutcome outcome;
  outcome.json = {{"name", report.workload.name},
                  {"pid", report.workload.root},
                  {"image_digest", report.image_digest},
                  {"gpu_map", GpuMapToJson(report.gpu_map)},
                  {"downtime_ms", Milliseconds(report.total)},
                  {"downtime_parts_ms", PartsToJson(report.parts)},
                  {"total_ms", Milliseconds(report.total)},
                  {"host_bytes", report.host_bytes},
                  {"device_bytes", report.device_bytes},
                  {"stored_bytes", report.stored_bytes},
                  {"device_path", report.device_path}};
  outcome.text = fmt::format("{} runs as process {}, restored in {:.1f} ms:\n", report.workload.name,
                             report.workload.root, Milliseconds(report.total)) +
                 PartsToText(report.parts);
  for (const GpuPair& pair : report.gpu_map)
    outcome.text += fmt::format("  {} -> {}: {}\n", pair.old_uuid, pair.new_uuid, pair.why);
  return outcome;
}

CommandOutcome ResumeWorkload(const std::string& text) {
  if (Result<void> root = CheckRoot(); !root) return Refusal(root.error());
  const Site site = Site::FromEnvironment();
  const Result<Workload> workload = WorkloadRegistry(site).Resolve(text);
  if (!workload) return Refusal(workload.error());
  const Result<Composition> composition = Compose(site);
  if (!composition) return Refusal(composition.error());
  Result<WorkloadControl> control =
      WorkloadControl::Attach(*workload, site, composition->context.criu, *composition->device);
  if (!control) return Refusal(control.error());
  Result<void> resumed = control->Resume();
  RemoveStaleStaging(site);
  if (!resumed) {
    Error& error = resumed.error();
    if (error.code() == ErrorCode::kLost) return Failure(std::move(error), Aftermath::kLost);
    const std::string first = error.next_step().empty() ? "" : error.next_step() + "; then ";
    error.WithNextStep(fmt::format("{}gpumig resume {}", first, workload->name));
    return Failure(std::move(error), Aftermath::kFrozen);
  }
  if (control->HasEnded()) {
    return Failure(MakeError(ErrorCode::kNotFound, "resume {}: process {} has ended", workload->name, workload->root),
                   Aftermath::kEnded);
  }
  CommandOutcome outcome;
  outcome.json = {{"name", workload->name}, {"pid", workload->root}};
  outcome.text = fmt::format("{} runs\n", workload->name);
  return outcome;
}

}  // namespace gpumig
