// gpumig inspect and verify.
#include <thread>

#include "cli/local_commands.h"
#include "core/image/image_reader.h"
#include "core/session/workload_facts.h"

namespace gpumig {
namespace {

Json TotalsToJson(const ImageTotals& totals) {
  return {{"plain_bytes", totals.plain_bytes},
          {"zero_bytes", totals.zero_bytes},
          {"stored_bytes", totals.stored_bytes},
          {"chunks", totals.chunks}};
}

}  // namespace

CommandOutcome Inspect(const std::filesystem::path& image) {
  const auto inspect = [&]() -> Result<CommandOutcome> {
    const ImageDescription description = GPUMIG_TRY(InspectImage(image), "inspect {}", image.string());
    const WorkloadFacts facts =
        GPUMIG_TRY(ParseWorkloadFacts(description.manifest.facts_json), "inspect {}", image.string());
    Json kinds = Json::object();
    std::string text = fmt::format(
        "image    {} (format {}.{})\n         {}\nworkload {}, {} processes, captured {} on {}\n         kernel {}, "
        "CRIU {}\n",
        image.string(), description.major, description.minor, description.summary.image_digest.ToHex(), facts.name,
        facts.tree.process_count, facts.created, facts.node, facts.kernel, facts.criu_version);
    if (facts.uses_gpu()) {
      text += fmt::format("GPU      {} of device memory, {} processes, {}\n", HumanBytes(facts.gpu.device_bytes),
                          facts.gpu.inner_processes.size(), facts.gpu.driver);
      for (const GpuFacts& gpu : facts.gpu.gpus) text += fmt::format("         {} {}\n", gpu.uuid, gpu.chip);
    }
    text += fmt::format("bytes    {} in {} files, {} of them zero; {} stored in {} chunks\n",
                        HumanBytes(description.summary.total.plain_bytes), description.manifest.files.size(),
                        HumanBytes(description.summary.total.zero_bytes),
                        HumanBytes(description.summary.total.stored_bytes), description.summary.total.chunks);
    for (std::size_t kind = 0; kind < kChunkKinds; ++kind) {
      const ImageTotals& totals = description.summary.by_kind[kind];
      const std::string_view name = ChunkKindName(static_cast<ChunkKind>(kind));
      kinds[std::string(name)] = TotalsToJson(totals);
      if (totals.plain_bytes > 0)
        text += fmt::format("         {:<12} {:>12}, {} stored\n", name, HumanBytes(totals.plain_bytes),
                            HumanBytes(totals.stored_bytes));
    }
    // Not within the list below, for the reason given in cli/agent/agent.cc.
    const Json workload = GPUMIG_TRY(ParseJson(description.manifest.facts_json));
    CommandOutcome outcome;
    outcome.json = {{"image_digest", description.summary.image_digest.ToHex()},
                    {"format", fmt::format("{}.{}", description.major, description.minor)},
                    {"workload", workload},
                    {"files", description.manifest.files.size()},
                    {"total", TotalsToJson(description.summary.total)},
                    {"by_kind", kinds},
                    {"device_bytes", facts.gpu.device_bytes},
                    {"device_path", facts.device_path()}};
    outcome.text = std::move(text);
    return outcome;
  };
  Result<CommandOutcome> outcome = inspect();
  return outcome ? *std::move(outcome) : Refusal(outcome.error());
}

CommandOutcome Verify(const std::filesystem::path& image, bool full) {
  ProgressBar bar;
  ParallelOptions parallel;
  parallel.workers = std::max(1u, std::thread::hardware_concurrency());
  parallel.progress = [&](std::uint64_t done, std::uint64_t total) {
    bar.Update("verifying", total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total));
  };
  const Result<VerifyReport> report = VerifyImage(image, full ? VerifyDepth::kFull : VerifyDepth::kQuick, parallel);
  if (!report) {
    Error error = report.error();
    return Refusal(error.AddContext(fmt::format("verify {}", image.string())));
  }
  CommandOutcome outcome;
  Json damaged = Json::array();
  for (const DamagedChunk& chunk : report->damaged) {
    damaged.push_back({{"chunk", chunk.digest.ToHex()}, {"reason", chunk.reason}, {"files", chunk.files}});
  }
  outcome.json = {{"image_digest", report->image_digest.ToHex()},
                  {"depth", full ? "full" : "quick"},
                  {"chunks_checked", report->chunks_checked},
                  {"bytes_checked", report->bytes_checked},
                  {"damaged", damaged}};
  if (report->ok()) {
    outcome.text = fmt::format("{}: {} chunks, {}, all as written{}\n", image.string(), report->chunks_checked,
                               HumanBytes(report->bytes_checked), full ? "" : " (sizes only; --full reads every byte)");
    return outcome;
  }
  const DamagedChunk& first = report->damaged.front();
  outcome.code = ExitCode::kDamagedImage;
  outcome.error =
      MakeError(ErrorCode::kDamaged, "verify {}: {} of {} chunks are damaged; the first is {}: {}", image.string(),
                report->damaged.size(), report->chunks_checked, first.digest.ToHex(), first.reason)
          .WithNextStep("take another copy of the image; this one cannot be restored");
  return outcome;
}

}  // namespace gpumig
