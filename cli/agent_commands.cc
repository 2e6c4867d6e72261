// gpumig migrate and status: ask the local agent, and show what it says.
#include "cli/agent_commands.h"

#include <algorithm>
#include <thread>

#include "cli/local_commands.h"
#include "core/session/site.h"
#include "transport/http_client.h"
#include "transport/message_client.h"

namespace gpumig {
namespace {

constexpr std::chrono::milliseconds kPollEvery{50};

Result<HttpClient> Connect(const std::string& socket) {
  const std::filesystem::path path =
      socket.empty() ? Site::FromEnvironment().runtime_directory / "gpumigd.sock" : std::filesystem::path(socket);
  if (!std::filesystem::exists(path)) {
    return MakeError(ErrorCode::kUnavailable, "no agent runs here: there is no {}", path.string())
        .WithNextStep("start one with: gpumigd --config FILE (docs/gpumigd.toml is a sample)");
  }
  return HttpClient::ToUnixSocket(path);
}

std::optional<Error> ErrorIn(const Json& report) {
  if (!report.contains("error")) return std::nullopt;
  const Json& json = report["error"];
  const std::optional<ErrorCode> code = ErrorCodeOfName(json.value("code", ""));
  Error error(code.value_or(ErrorCode::kInternal), json.value("message", ""));
  return std::move(error).WithNextStep(json.value("next_step", ""));
}

// Where the GPUs of a moved workload are, before and after: for a report that can be read without a manual.
void AddGpus(const Json& report, Json& json) {
  if (!report.contains("at_target")) return;
  const Json map = report["at_target"].value("gpu_map", Json::array());
  json["gpu_map"] = map;
  if (map.empty()) return;
  json["gpu_uuid_source"] = map[0].value("old", "");
  json["gpu_uuid_target"] = map[0].value("new", "");
}

std::string PartsText(const Json& parts) {
  std::string text;
  for (const auto& [name, value] : parts.items())
    text += fmt::format("  {:<16} {:>10.1f} ms\n", name, value.get<double>());
  return text;
}

CommandOutcome Report(const Json& report) {
  const std::string ending = report.value("ending", "");
  CommandOutcome outcome;
  for (const char* key :
       {"migration", "name", "source", "target", "downtime_ms", "downtime_parts_ms", "target_parts_ms", "total_ms",
        "host_bytes", "device_bytes", "direct_bytes", "sent_bytes", "known_bytes", "sending", "device_path", "live"}) {
    if (report.contains(key)) outcome.json[key] = report[key];
  }
  outcome.json["bytes_sent"] = report.value("sent_bytes", std::uint64_t{0});
  if (report.contains("at_target")) outcome.json["pid"] = report["at_target"].value("pid", 0);
  AddGpus(report, outcome.json);
  const std::optional<Error> error = ErrorIn(report);
  if (ending == "moved" && !error) {
    outcome.text =
        fmt::format("{} runs on {}; it stood still for {:.1f} ms:\n", report.value("name", ""),
                    report.value("target", ""), report.value("downtime_ms", 0.0)) +
        PartsText(report["downtime_parts_ms"]) +
        fmt::format("{} host, {} device, {} sent, {} known there already, {:.1f} ms in all\n",
                    HumanBytes(report.value("host_bytes", std::uint64_t{0})),
                    HumanBytes(report.value("device_bytes", std::uint64_t{0})),
                    HumanBytes(report.value("sent_bytes", std::uint64_t{0})),
                    HumanBytes(report.value("known_bytes", std::uint64_t{0})), report.value("total_ms", 0.0)) +
        (report.contains("live") ? LiveText(report["live"]) : "");
    return outcome;
  }
  Aftermath aftermath = Aftermath::kRunsOn;
  if (ending == "frozen here" || ending == "in doubt") aftermath = Aftermath::kFrozen;
  if (ending == "lost") aftermath = Aftermath::kLost;
  CommandOutcome failed = Failure(error.value_or(Error(ErrorCode::kInternal, "the agent gave no reason")), aftermath);
  if (ending == "moved") failed.standing = fmt::format("the workload runs on {}", report.value("target", ""));
  failed.json = std::move(outcome.json);
  return failed;
}

Result<CommandOutcome> TryMigrate(const MigrateArguments& arguments) {
  HttpClient client = GPUMIG_TRY(Connect(arguments.socket));
  Json request = {{"workload", arguments.workload},
                  {"to", arguments.to},
                  {"max_downtime_ms", std::uint64_t{arguments.max_downtime_s} * 1000},
                  {"lock_timeout_ms", arguments.lock_timeout_ms},
                  {"host_path", arguments.host_path},
                  {"live", arguments.live}};
  if (!arguments.compress.empty()) request["compress"] = arguments.compress;
  if (!arguments.bandwidth.empty()) request["bandwidth"] = arguments.bandwidth;
  const Json begun = GPUMIG_TRY(CallWithMessage(client, "/v1/migrations", request));
  const std::string id = GPUMIG_TRY(StringMember(begun, "migration"));
  ProgressBar bar;
  while (true) {
    Result<Json> status = GetJson(client, "/v1/migrations/" + id);
    if (!status) {
      CommandOutcome outcome =
          Failure(MakeError(ErrorCode::kUnavailable, "lost the agent while {} is being migrated: {}",
                            arguments.workload, status.error().message())
                      .WithNextStep(fmt::format(
                          "the migration goes on when gpumigd runs again; look with: gpumig status {}", id)),
                  Aftermath::kFrozen);
      outcome.standing = "who runs it is in the agent's journal";
      return outcome;
    }
    if (status->contains("report")) return Report((*status)["report"]);
    bar.Update(status->value("phase", ""), status->value("progress", 0.0));
    std::this_thread::sleep_for(kPollEvery);
  }
}

}  // namespace

CommandOutcome Migrate(const MigrateArguments& arguments) {
  Result<CommandOutcome> outcome = TryMigrate(arguments);
  if (outcome) return *std::move(outcome);
  Error error = outcome.error();
  error.AddContext(fmt::format("migrate {} to {}", arguments.workload, arguments.to));
  CommandOutcome refused = Refusal(std::move(error));
  refused.code = ExitCode::kRefused;  // Of a certificate, say: no image is at fault.
  refused.standing = "nothing was touched";
  return refused;
}

CommandOutcome Status(const StatusArguments& arguments) {
  const auto ask = [&]() -> Result<CommandOutcome> {
    HttpClient client = GPUMIG_TRY(Connect(arguments.socket));
    CommandOutcome outcome;
    if (!arguments.migration.empty()) {
      const Json status = GPUMIG_TRY(GetJson(client, "/v1/migrations/" + arguments.migration));
      outcome.json = {{"migration", status}};
      outcome.text = status.dump(2) + "\n";
      return outcome;
    }
    const Json all = GPUMIG_TRY(GetJson(client, "/v1/migrations"));
    outcome.json = all;
    outcome.text = fmt::format("{:<32}  {:<4} {:<20} {:<12} {:<12} {:<20} {}\n", "MIGRATION", "WAY", "WORKLOAD",
                               "STATE", "PHASE", "ENDED", "ALARM");
    for (const char* way : {"out", "in"}) {
      for (const Json& one : all[way]) {
        outcome.text += fmt::format("{:<32}  {:<4} {:<20} {:<12} {:<12} {:<20} {}\n", one.value("id", ""), way,
                                    one.value("workload", "-"), one.value("state", ""), one.value("phase", "-"),
                                    one.value("ended", "-"), one.value("alarm", ""));
      }
    }
    return outcome;
  };
  Result<CommandOutcome> outcome = ask();
  return outcome ? *std::move(outcome) : Refusal(outcome.error());
}

namespace {

double PartOf(const Json& report, const char* parts, const char* name) {
  return report.contains(parts) ? report[parts].value(name, 0.0) : 0.0;
}

std::uint64_t BytesPerSecond(std::uint64_t bytes, double milliseconds) {
  return milliseconds > 0 ? static_cast<std::uint64_t>(static_cast<double>(bytes) / milliseconds * 1000) : 0;
}

void LearnFrom(const Json& report, HostRates& rates) {
  const std::uint64_t device_bytes = report.value("device_bytes", std::uint64_t{0});
  if (const auto rate = BytesPerSecond(device_bytes, PartOf(report, "downtime_parts_ms", "device_capture")); rate > 0)
    rates.gpu_capture = rate;
  if (const auto rate = BytesPerSecond(device_bytes, PartOf(report, "target_parts_ms", "device_restore")); rate > 0)
    rates.gpu_restore = rate;
  double fixed_ms = 0;
  for (const char* part : {"quiesce", "freeze", "seal", "prepare", "commit", "thaw"})
    fixed_ms += PartOf(report, "downtime_parts_ms", part);
  // Restoring GPUs is within prepare.
  fixed_ms = std::max(0.0, fixed_ms - PartOf(report, "target_parts_ms", "device_restore"));
  rates.fixed = std::chrono::microseconds(static_cast<std::int64_t>(fixed_ms * 1000));
}

}  // namespace

Result<LinkRate> AskForLinkRate(const std::string& socket, const std::string& node, std::chrono::milliseconds span) {
  HttpClient client = GPUMIG_TRY(Connect(socket));
  const Json answer = GPUMIG_TRY(
      CallWithMessage(client, "/v1/link-rate", {{"to", node}, {"span_ms", static_cast<std::uint64_t>(span.count())}}));
  LinkRate rate;
  rate.bytes_per_second = GPUMIG_TRY(UnsignedMember(answer, "bytes_per_second"));
  rate.connection_count = static_cast<std::uint32_t>(GPUMIG_TRY(UnsignedMember(answer, "connections")));
  rate.measured_at = UtcNow();
  return rate;
}

Result<void> LearnFromMoves(const std::string& socket, HostRates& rates) {
  HttpClient client = GPUMIG_TRY(Connect(socket));
  const Json all = GPUMIG_TRY(GetJson(client, "/v1/migrations"));
  for (const Json& one : GPUMIG_TRY(ArrayMember(all, "out"))) {
    if (one.contains("report") && one["report"].value("ending", "") == "moved") LearnFrom(one["report"], rates);
  }
  return Ok();
}

}  // namespace gpumig
