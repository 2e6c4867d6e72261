// gpumig bench: how fast this host moves bytes, what that means for a move, and the rates kept for later forecasts.
#include <algorithm>
#include <thread>

#include "cli/agent_commands.h"
#include "cli/composition.h"
#include "cli/local_commands.h"
#include "cli/timed_parts.h"
#include "core/base/file.h"
#include "core/session/host_meter.h"
#include "core/session/pause_forecast.h"

namespace gpumig {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr int kMeasurementCount = 7;  // the link's is two of them

// What cannot be measured is left at 0, with the reason.
struct Findings {
  HostRates rates;
  Json skipped = Json::object();

  void Take(const char* name, std::uint64_t HostRates::* member, const Result<std::uint64_t>& rate) {
    if (rate) {
      rates.*member = *rate;
    } else {
      skipped[name] = rate.error().message();
    }
  }
};

void MeasureHost(const Site& site, std::chrono::milliseconds span, Findings& findings) {
  ProgressBar bar;
  const HostMeter meter(span);
  findings.rates.thread_count = meter.thread_count();
  bar.Update("copy", 0.0);
  findings.rates.copy = meter.Copy();
  bar.Update("read", 0.15);
  findings.Take("read", &HostRates::read, meter.ReadProcess());
  bar.Update("digest", 0.3);
  findings.rates.digest = meter.Digest();
  bar.Update("encode", 0.45);
  findings.rates.encode = meter.Encode(CompressionChoice::Zstd());
  bar.Update("disk", 0.6);
  findings.Take("state_disk", &HostRates::state_disk, meter.WriteAndSync(site.state_directory));
  bar.Update("staging", 0.8);
  findings.Take("staging", &HostRates::staging, meter.WriteAndSync(site.staging_directory));
}

std::string RateText(std::uint64_t rate) {
  return rate == 0 ? std::string("not known") : fmt::format("{:.2f} GB/s", static_cast<double>(rate) / 1e9);
}

std::string RatesText(const HostRates& rates) {
  std::string text = fmt::format("with {} thread(s):\n", rates.thread_count);
  const auto line = [&](const char* what, std::uint64_t rate) {
    text += fmt::format("  {:<42} {}\n", what, RateText(rate));
  };
  line("copy memory", rates.copy);
  line("read memory of another process", rates.read);
  line("digest (BLAKE3)", rates.digest);
  line("encode (zstd:1, bf16 weights)", rates.encode);
  line("write and sync the state directory", rates.state_disk);
  line("write and sync the staging directory", rates.staging);
  line("GPU memory to host, at the last move", rates.gpu_capture);
  line("host to GPU memory, at the last move", rates.gpu_restore);
  for (const auto& [node, link] : rates.links) {
    text += fmt::format("  {:<42} {} over {} connection(s), {}\n", "send to " + node, RateText(link.bytes_per_second),
                        link.connection_count, link.measured_at);
  }
  return text;
}

}  // namespace

Json ForecastToJson(const Result<PauseForecast>& forecast) {
  if (!forecast) return {{"downtime_ms", nullptr}, {"why_not", forecast.error().message()}};
  return {{"downtime_ms", Milliseconds(forecast->total)},
          {"parts_ms", PartsToJson(forecast->parts)},
          {"bound_by", forecast->bound_by},
          {"left_out", forecast->left_out}};
}

CommandOutcome Bench(const BenchArguments& arguments) {
  if (Result<void> root = CheckRoot(); !root) return Refusal(root.error());
  const Site site = Site::FromEnvironment();
  const auto span = std::chrono::milliseconds(arguments.seconds * 1000 / kMeasurementCount);
  Findings findings;
  if (const Result<HostRates> earlier = LoadHostRates(site.state_directory)) {
    // Of other nodes, and of moves: they hold until they are measured again.
    findings.rates.links = earlier->links;
    findings.rates.gpu_capture = earlier->gpu_capture;
    findings.rates.gpu_restore = earlier->gpu_restore;
    findings.rates.fixed = earlier->fixed;
  }
  findings.rates.measured_at = UtcNow();
  if (const Result<void> made = MakeDirectories(site.state_directory); !made) return Refusal(made.error());
  MeasureHost(site, span, findings);
  if (!arguments.to.empty()) {
    Result<LinkRate> link = AskForLinkRate(arguments.socket, arguments.to, 2 * span);
    if (!link) return Refusal(link.error());
    findings.rates.links[arguments.to] = *std::move(link);
  }
  const Result<void> learned = LearnFromMoves(arguments.socket, findings.rates);
  if (!learned) findings.skipped["gpu"] = learned.error().message();
  if (const Result<void> saved = SaveHostRates(site.state_directory, findings.rates); !saved)
    return Refusal(saved.error());

  CommandOutcome outcome;
  outcome.json = ToJson(findings.rates);
  outcome.json["skipped"] = findings.skipped;
  outcome.text = RatesText(findings.rates);
  Json forecasts = Json::object();
  for (const auto& [node, link] : findings.rates.links) {
    const Result<PauseForecast> forecast = PredictPause(findings.rates, {.host_bytes = arguments.gib * kGiB,
                                                                         .device_bytes = 0,
                                                                         .node = node,
                                                                         .connection_count = link.connection_count});
    forecasts[node] = ForecastToJson(forecast);
    if (forecast) {
      outcome.text += fmt::format("a move of {} GiB to {} would stop a job for about {:.1f} s; bound by: {}\n",
                                  arguments.gib, node, Milliseconds(forecast->total) / 1000, forecast->bound_by);
    }
  }
  outcome.json["forecast"] = {{"gib", arguments.gib}, {"to", forecasts}};
  if (findings.rates.links.empty()) {
    outcome.text += "no link was measured, which a forecast needs: gpumig bench --to NODE\n";
  }
  return outcome;
}

}  // namespace gpumig
