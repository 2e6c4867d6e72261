// The commands that work alone, as root, without an agent.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cli/command.h"
#include "core/session/pause_forecast.h"

namespace gpumig {

struct RunArguments {
  std::string name;          // empty: made from the command's
  std::string gpu = "auto";  // auto, soft, cuda, none
  std::string output;        // file; empty: one of ours
  std::vector<std::string> command;
};
CommandOutcome RunWorkload(const RunArguments& arguments);

CommandOutcome ListWorkloads();

struct PreflightArguments {
  std::string workload;
  std::vector<std::string> gpu_map;  // "OLD=NEW"
};
CommandOutcome Preflight(const PreflightArguments& arguments);

struct BenchArguments {
  std::string to;  // node whose link is measured; empty: none
  std::uint32_t seconds = 4;
  std::uint32_t gib = 1;  // of a move that is forecast
  std::string socket;     // of the agent; empty: as for migrate
};
CommandOutcome Bench(const BenchArguments& arguments);

Json ForecastToJson(const Result<PauseForecast>& forecast);

// "OLD=NEW" for each GPU.
Result<std::vector<GpuPair>> ParseGpuMap(const std::vector<std::string>& texts);
Json GpuMapToJson(const std::vector<GpuPair>& map);

struct CheckpointArguments {
  std::string workload;
  std::filesystem::path image;
  bool leave_running = false;
  bool live = false;
  std::string compress = "auto";
  std::uint32_t lock_timeout_ms = 10'000;
  std::string host_path = "direct";
};
CommandOutcome Checkpoint(const CheckpointArguments& arguments);

struct RestoreArguments {
  std::filesystem::path image;
  std::string name;
  std::vector<std::string> gpu_map;  // "OLD=NEW"
};
CommandOutcome Restore(const RestoreArguments& arguments);

// Makes a workload that stands frozen after a failure run again.
CommandOutcome ResumeWorkload(const std::string& workload);

CommandOutcome Inspect(const std::filesystem::path& image);
CommandOutcome Verify(const std::filesystem::path& image, bool full);
CommandOutcome Doctor();

struct IssueArguments {
  std::filesystem::path authority;
  std::string node;
  std::filesystem::path out;
  std::uint32_t days = 90;
  std::uint32_t seconds = 0;  // where not 0, instead of days
};
CommandOutcome InitCertificates(const std::filesystem::path& directory);
CommandOutcome IssueCertificate(const IssueArguments& arguments);

}  // namespace gpumig
