// gpumigd: the agent of a node.
#include <malloc.h>
#include <signal.h>

#include <iostream>

#include <CLI/CLI.hpp>

#include "cli/agent/agent.h"
#include "core/base/log.h"

namespace gpumig {
namespace {

// Chunks of 4 MiB come and go by the thousand. glibc would give each back to the kernel and fetch it again, zeroed,
// which cost more than hashing it (measured: 4 s of system time for 1 GiB received). Kept is at most what was in use at
// once.
void KeepChunkMemory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_ARENA_MAX, 2);
}

int Run(const std::filesystem::path& config_file) {
  // Blocked before any thread starts, so that only sigwait() below gets them.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  signal(SIGPIPE, SIG_IGN);

  const auto start = [&]() -> Result<std::unique_ptr<Agent>> {
    return Agent::Start(GPUMIG_TRY(LoadAgentConfig(config_file)));
  };
  Result<std::unique_ptr<Agent>> agent = start();
  if (!agent) {
    spdlog::error("gpumigd cannot start: {}", agent.error().message());
    if (!agent.error().next_step().empty()) spdlog::error("{}", agent.error().next_step());
    return 1;
  }
  spdlog::info("gpumigd is {}", (*agent)->Describe());
  int signal_number = 0;
  sigwait(&ends, &signal_number);
  spdlog::info("gpumigd ends: signal {}", signal_number);
  return 0;
}

}  // namespace

int Main(const std::filesystem::path& config_file) {
  KeepChunkMemory();
  return Run(config_file);
}

}  // namespace gpumig

int main(int argc, char** argv) {
  CLI::App app("The agent of a node: moves GPU workloads from and to it.", "gpumigd");
  app.set_version_flag("--version", GPUMIG_VERSION);
  std::filesystem::path config = "/etc/gpumig/gpumigd.toml";
  std::string log_level = "info";
  app.add_option("--config", config, "Its configuration; docs/gpumigd.toml is a sample");
  app.add_option("--log-level", log_level, "debug, info, warn, error or off");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  gpumig::SetUpLogging(log_level);
  return gpumig::Main(config);
}
