// gpumig run: starts a workload in a cgroup and namespaces of its own.
#include <fcntl.h>

#include <filesystem>

#include "cli/composition.h"
#include "cli/local_commands.h"
#include "cli/soft_gpu.h"
#include "core/base/file.h"
#include "core/host/holder.h"
#include "core/host/process.h"
#include "core/session/registry.h"
#include "core/session/workload_facts.h"

namespace gpumig {
namespace {

constexpr int kMostNameTries = 1000;

// The command's own name, with a number behind it where that is taken.
Result<std::string> ChooseName(WorkloadRegistry& registry, const RunArguments& arguments) {
  if (!arguments.name.empty()) {
    GPUMIG_TRY(registry.CheckFree(arguments.name));
    return arguments.name;
  }
  const std::string base = std::filesystem::path(arguments.command.front()).filename();
  if (!IsWorkloadName(base))
    return MakeError(ErrorCode::kInvalidArgument, "'{}' cannot be a workload's name; give one with --name", base);
  std::string name = base;
  for (int i = 2; i < kMostNameTries && GPUMIG_TRY(registry.Find(name)); ++i) name = fmt::format("{}-{}", base, i);
  return name;
}

Result<std::vector<std::pair<std::string, std::string>>> GpuEnvironment(const std::string& gpu, pid_t& softgpud) {
  std::vector<std::pair<std::string, std::string>> environment;
  if (gpu == "soft") {
    const SoftGpu soft = GPUMIG_TRY(EnsureSoftGpu());
    softgpud = soft.started_daemon;
    const char* before = std::getenv("LD_LIBRARY_PATH");
    const std::string directory = soft.library_directory;
    environment.emplace_back("LD_LIBRARY_PATH",
                             before == nullptr ? directory : fmt::format("{}:{}", directory, before));
    environment.emplace_back("SOFTGPU_SOCKET", soft.socket);
  } else if (gpu == "none") {
    environment.emplace_back("CUDA_VISIBLE_DEVICES", "");
  }
  return environment;
}

Result<pid_t> OuterPid(const Cgroup& tree, pid_t inner) {
  for (const pid_t pid : GPUMIG_TRY(tree.Processes())) {
    if (GPUMIG_TRY(NamespacePids(pid)).back() == inner) return pid;
  }
  return MakeError(ErrorCode::kFailedPrecondition, "it ended at once");
}

Result<Workload> Run(const RunArguments& arguments, pid_t& softgpud) {
  GPUMIG_TRY(CheckRoot());
  const Site site = Site::FromEnvironment();
  WorkloadRegistry registry(site);
  Workload workload;
  workload.name = GPUMIG_TRY(ChooseName(registry, arguments));
  workload.gpu = arguments.gpu;
  workload.started = UtcNow();
  workload.cgroup = site.NewCgroup(workload.name);

  std::filesystem::path output = arguments.output;
  if (output.empty()) {
    GPUMIG_TRY(MakeDirectories(site.outputs()));
    output = site.outputs() / fmt::format("{}-{}.log", workload.name, RandomSuffix());
    workload.output_file = output;
  }
  const UniqueFd output_fd = GPUMIG_TRY(OpenFile(output, O_WRONLY | O_CREAT | O_APPEND));
  GPUMIG_TRY(MakeDirectories(site.workloads()));

  Holder::Command command;
  command.arguments = arguments.command;
  command.environment = GPUMIG_TRY(GpuEnvironment(arguments.gpu, softgpud));
  command.output_fd = output_fd.get();
  command.error_fd = output_fd.get();
  Cgroup all = GPUMIG_TRY(Cgroup::Create(workload.cgroup));
  const Cgroup init = GPUMIG_TRY(Cgroup::Create(workload.cgroup + "/init"));
  const Cgroup tree = GPUMIG_TRY(Cgroup::Create(workload.cgroup + "/tree"));
  const Result<Holder> holder = Holder::Start(init, tree, site.workloads() / (workload.name + ".exit"), command);
  const auto enter = [&]() -> Result<void> {
    if (!holder) return holder.error();
    workload.init = holder->init_pid();
    workload.root = GPUMIG_TRY(OuterPid(tree, holder->inner_pid()));
    workload.start_ticks = GPUMIG_TRY(ReadProcessStat(workload.root)).start_ticks;
    return registry.Put(workload);
  };
  Result<void> entered = enter();
  if (!entered) {
    [[maybe_unused]] Result<void> cleaned = all.Kill(std::chrono::seconds(10));
    cleaned = all.Remove();
    return entered.error()
        .AddContext(fmt::format("run {}", workload.name))
        .WithNextStep(fmt::format("its output is in {}", output.string()));
  }
  return workload;
}

}  // namespace

CommandOutcome RunWorkload(const RunArguments& arguments) {
  pid_t softgpud = -1;
  const Result<Workload> workload = Run(arguments, softgpud);
  if (!workload) return Refusal(workload.error());
  CommandOutcome outcome;
  outcome.json = {{"name", workload->name}, {"pid", workload->root}, {"output_file", workload->output_file.string()}};
  outcome.text = fmt::format("{} runs as process {}\n", workload->name, workload->root);
  if (softgpud > 0) {
    outcome.json["started_softgpud"] = softgpud;
    outcome.text += fmt::format("started the software GPU's daemon, process {}\n", softgpud);
  }
  if (!workload->output_file.empty())
    outcome.text += fmt::format("its output goes to {}\n", workload->output_file.string());
  return outcome;
}

}  // namespace gpumig
