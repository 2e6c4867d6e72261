// gpumig: the command line. Parses, calls one command, shows its outcome.
#include <csignal>
#include <functional>
#include <iostream>

#include <CLI/CLI.hpp>

#include "cli/agent_commands.h"
#include "cli/cache_commands.h"
#include "cli/local_commands.h"
#include "core/base/log.h"

namespace gpumig {
namespace {

using Command = std::function<CommandOutcome()>;

// One subcommand; what it does is put into `chosen` when the user names it.
CLI::App* AddCommand(CLI::App& app, Command& chosen, const std::string& name, const std::string& what,
                     Command command) {
  CLI::App* sub = app.add_subcommand(name, what);
  sub->fallthrough();
  sub->callback([&chosen, command = std::move(command)] { chosen = command; });
  return sub;
}

void AddHostPath(CLI::App* sub, std::string& host_path) {
  sub->add_option("--host-path", host_path, "How host memory travels: past CRIU, or through its files")
      ->check(CLI::IsMember({"direct", "criu"}));
}

void AddLocalCommands(CLI::App& app, Command& chosen) {
  AddCommand(app, chosen, "doctor", "What this host can do, and why not", [] { return Doctor(); });
  AddCommand(app, chosen, "ps", "Workloads, and other processes that use a GPU", [] { return ListWorkloads(); });

  auto run = std::make_shared<RunArguments>();
  CLI::App* sub = AddCommand(app, chosen, "run", "Start a workload in a cgroup and pid namespace of its own",
                             [run] { return RunWorkload(*run); });
  sub->add_option("--name", run->name, "What to call it");
  sub->add_option("--gpu", run->gpu, "Which GPU driver it finds")
      ->check(CLI::IsMember({"auto", "soft", "cuda", "none"}));
  sub->add_option("--output", run->output,
                  "File for its stdout and stderr; default: one in the state directory, which travels along");
  sub->add_option("command", run->command, "The command and its arguments, after --")->required();

  auto preflight = std::make_shared<PreflightArguments>();
  sub = AddCommand(app, chosen, "preflight", "Whether a workload could be captured now, and what it would take",
                   [preflight] { return Preflight(*preflight); });
  sub->add_option("workload", preflight->workload, "Name, pid or cgroup path")->required();
  sub->add_option("--gpu-map", preflight->gpu_map, "OLD-UUID=NEW-UUID for every GPU; default: chosen and explained")
      ->delimiter(',');

  auto checkpoint = std::make_shared<CheckpointArguments>();
  sub = AddCommand(app, chosen, "checkpoint", "Put a workload into an image",
                   [checkpoint] { return Checkpoint(*checkpoint); });
  sub->add_option("workload", checkpoint->workload, "Name, pid or cgroup path")->required();
  sub->add_option("--image", checkpoint->image, "Directory, empty or new")->required();
  auto* leave_running = sub->add_flag("--leave-running", checkpoint->leave_running, "Let it run on afterwards");
  sub->add_flag("--live", checkpoint->live, "Copy its memory while it runs, so that it stands still for less long")
      ->needs(leave_running);
  sub->add_option("--compress", checkpoint->compress, "auto (default), none, zstd or zstd:LEVEL");
  AddHostPath(sub, checkpoint->host_path);
  sub->add_option("--lock-timeout-ms", checkpoint->lock_timeout_ms, "How long GPU work that was begun may take to end")
      ->check(CLI::Range(1u, 3'600'000u));

  auto restore = std::make_shared<RestoreArguments>();
  sub = AddCommand(app, chosen, "restore", "Bring a workload back from an image",
                   [restore] { return Restore(*restore); });
  sub->add_option("image", restore->image, "Directory")->required();
  sub->add_option("--name", restore->name, "What to call it; default: as it was called");
  sub->add_option("--gpu-map", restore->gpu_map, "OLD-UUID=NEW-UUID for every GPU; default: chosen and printed")
      ->delimiter(',');

  auto workload = std::make_shared<std::string>();
  sub = AddCommand(app, chosen, "resume", "Let a workload that stands frozen after a failure run again",
                   [workload] { return ResumeWorkload(*workload); });
  sub->add_option("workload", *workload, "Name, pid or cgroup path")->required();

  auto image = std::make_shared<std::filesystem::path>();
  sub = AddCommand(app, chosen, "inspect", "What is in an image", [image] { return Inspect(*image); });
  sub->add_option("image", *image, "Directory")->required();
  auto full = std::make_shared<bool>(false);
  sub = AddCommand(app, chosen, "verify", "Whether every byte of an image is as written",
                   [image, full] { return Verify(*image, *full); });
  sub->add_option("image", *image, "Directory")->required();
  sub->add_flag("--full", *full, "Read and check every chunk");
}

void AddCertificateCommands(CLI::App& app, Command& chosen) {
  CLI::App* certs = app.add_subcommand("certs", "The site's certificate authority and the identities of its nodes");
  certs->require_subcommand(1);
  certs->fallthrough();
  auto directory = std::make_shared<std::filesystem::path>();
  CLI::App* sub = AddCommand(*certs, chosen, "init", "Make a certificate authority",
                             [directory] { return InitCertificates(*directory); });
  sub->add_option("directory", *directory, "Where to put ca.crt and ca.key")->required();
  auto issue = std::make_shared<IssueArguments>();
  sub =
      AddCommand(*certs, chosen, "issue", "Issue the identity of a node", [issue] { return IssueCertificate(*issue); });
  sub->add_option("authority", issue->authority, "Directory that `certs init` made")->required();
  sub->add_option("node", issue->node, "The node's name")->required();
  sub->add_option("--out", issue->out, "Directory for the identity")->required();
  sub->add_option("--days", issue->days, "How long it is valid")->check(CLI::Range(1u, 3650u));
  sub->add_option("--seconds", issue->seconds, "How long it is valid, for trying out what an expired one does");
}

void AddCacheCommands(CLI::App& app, Command& chosen) {
  CLI::App* cache = app.add_subcommand("cache", "What this node has already of workloads that may come");
  cache->require_subcommand(1);
  cache->fallthrough();
  auto paths = std::make_shared<std::vector<std::string>>();
  CLI::App* sub = AddCommand(*cache, chosen, "add", "Note which chunks files or images hold; they are not copied",
                             [paths] { return AddToCache(*paths); });
  sub->add_option("paths", *paths, "Files, or directories of images")->required();
  AddCommand(*cache, chosen, "list", "What was added, and what was kept of workloads that came",
             [] { return ListCache(); });
  auto names = std::make_shared<std::vector<std::string>>();
  sub = AddCommand(*cache, chosen, "remove", "Forget what was added, delete what was kept",
                   [names] { return RemoveFromCache(*names); });
  sub->add_option("names", *names, "Ids or paths, as `cache list` shows them")->required();
}

void AddAgentCommands(CLI::App& app, Command& chosen) {
  auto migrate = std::make_shared<MigrateArguments>();
  CLI::App* sub =
      AddCommand(app, chosen, "migrate", "Move a workload to another node", [migrate] { return Migrate(*migrate); });
  sub->add_option("workload", migrate->workload, "Name, pid or cgroup path")->required();
  sub->add_option("--to", migrate->to, "The node's name")->required();
  sub->add_option("--max-downtime", migrate->max_downtime_s, "Seconds it may stand still before it is resumed here")
      ->check(CLI::Range(1u, 86'400u));
  AddHostPath(sub, migrate->host_path);
  sub->add_flag("--live", migrate->live,
                "Copy memory while it runs, and only what it has written since while it stands still");
  sub->add_option("--compress", migrate->compress,
                  "auto, none, zstd or zstd:LEVEL; default: as the agent is configured");
  sub->add_option("--bandwidth", migrate->bandwidth,
                  "At most so many bytes (100M) or bits (800Mbit) per second; default: as the agent is configured");
  sub->add_option("--lock-timeout-ms", migrate->lock_timeout_ms, "How long GPU work that was begun may take to end")
      ->check(CLI::Range(1u, 3'600'000u));
  sub->add_option("--socket", migrate->socket, "The agent's socket");
  auto bench = std::make_shared<BenchArguments>();
  sub = AddCommand(app, chosen, "bench", "How fast this host and a link move bytes, and what bounds a move",
                   [bench] { return Bench(*bench); });
  sub->add_option("--to", bench->to, "Also measure the link to this node, through the agents");
  sub->add_option("--seconds", bench->seconds, "How long to measure, about")->check(CLI::Range(1u, 120u));
  sub->add_option("--gib", bench->gib, "Forecast a move of as much memory")->check(CLI::Range(1u, 1u << 20));
  sub->add_option("--socket", bench->socket, "The agent's socket");
  auto status = std::make_shared<StatusArguments>();
  sub = AddCommand(app, chosen, "status", "Migrations of this node: who may run, what is awaited",
                   [status] { return Status(*status); });
  sub->add_option("migration", status->migration, "Its id; default: all");
  sub->add_option("--socket", status->socket, "The agent's socket");
}

int Main(int argc, char** argv) {
  CLI::App app("Checkpoints, restores and migrates running GPU workloads.", "gpumig");
  app.require_subcommand(1);
  app.set_version_flag("--version", GPUMIG_VERSION);
  bool as_json = false;
  std::string log_level = "warn";
  app.add_flag("--json", as_json, "One JSON object on stdout, nothing else there");
  app.add_option("--log-level", log_level, "debug, info, warn, error or off");
  Command chosen;
  AddLocalCommands(app, chosen);
  AddCertificateCommands(app, chosen);
  AddCacheCommands(app, chosen);
  AddAgentCommands(app, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : static_cast<int>(ExitCode::kUsage);
  }
  SetUpLogging(log_level);
  std::signal(SIGPIPE, SIG_IGN);
  return Show(chosen(), as_json);
}

}  // namespace
}  // namespace gpumig

int main(int argc, char** argv) { return gpumig::Main(argc, argv); }
