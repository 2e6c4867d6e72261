// gpumig doctor: what this host can do, and why not.
#include <sys/utsname.h>
#include <unistd.h>

#include <filesystem>

#include "cli/composition.h"
#include "cli/local_commands.h"
#include "core/base/file.h"
#include "core/host/cgroup.h"
#include "core/host/criu.h"
#include "core/session/site.h"

namespace gpumig {
namespace {

struct Finding {
  std::string what;
  bool ok = true;
  bool needed = true;  // without it no workload can be captured or restored
  std::string detail;
  std::string cure;
};

Finding FromResult(std::string what, const Result<std::string>& result, bool needed = true) {
  if (result) return {std::move(what), true, needed, *result, ""};
  return {std::move(what), false, needed, result.error().message(), result.error().next_step()};
}

Finding CheckUser() {
  if (geteuid() == 0) return {"user", true, true, "root", ""};
  return {"user", false, true, fmt::format("uid {}", geteuid()), "run gpumig as root, or with sudo"};
}

Finding CheckKernel() {
  utsname system{};
  uname(&system);
  return {"kernel", true, true, fmt::format("{} {}", system.release, system.machine), ""};
}

Finding CheckCriuProgram() {
  return FromResult("criu", [&]() -> Result<std::string> {
    const Criu criu = GPUMIG_TRY(FindCriu());
    const std::string said = GPUMIG_TRY(CheckCriu(criu));
    if (!said.empty())
      return MakeError(ErrorCode::kUnsupported, "{} {}: criu check: {}", criu.program.string(), criu.version, said);
    return fmt::format("{} at {}", criu.version, criu.program.string());
  }());
}

Finding CheckCgroup() {
  return FromResult("cgroup v2", [&]() -> Result<std::string> {
    const std::filesystem::path root = GPUMIG_TRY(CgroupRoot());
    Cgroup probe = GPUMIG_TRY(Cgroup::Create(Site::FromEnvironment().NewCgroup("doctor")));
    const bool freezer = std::filesystem::exists(probe.path() / "cgroup.freeze");
    const bool kill = std::filesystem::exists(probe.path() / "cgroup.kill");
    GPUMIG_TRY(probe.Remove());
    if (!freezer || !kill) {
      return MakeError(ErrorCode::kUnsupported, "the cgroups of this kernel cannot be {}",
                       freezer ? "killed" : "frozen")
          .WithNextStep("use a kernel of version 5.14 or newer");
    }
    return root.string();
  }());
}

Finding CheckGpus(const Site& site) {
  return FromResult(
      "gpu",
      [&]() -> Result<std::string> {
        const Composition composition = GPUMIG_TRY(Compose(site));
        const std::vector<GpuFacts> gpus = GPUMIG_TRY(composition.device->Gpus());
        if (gpus.empty()) return MakeError(ErrorCode::kUnsupported, "none: {}", composition.why_no_gpu);
        std::string text = composition.device->Describe();
        for (const GpuFacts& gpu : gpus)
          text += fmt::format("; {} {} {} free", gpu.uuid, gpu.chip, HumanBytes(gpu.free_bytes));
        return text;
      }(),
      /*needed=*/false);
}

Finding CheckDirectory(const char* what, const std::filesystem::path& directory) {
  return FromResult(what, [&]() -> Result<std::string> {
    GPUMIG_TRY(MakeDirectories(directory));
    if (access(directory.c_str(), W_OK) != 0)
      return MakeError(ErrorCode::kPermissionDenied, "cannot write to {}", directory.string());
    std::error_code error;
    const auto space = std::filesystem::space(directory, error);
    return fmt::format("{}, {} free", directory.string(), HumanBytes(space.available));
  }());
}

}  // namespace

CommandOutcome Doctor() {
  const Site site = Site::FromEnvironment();
  const std::vector<Finding> findings = {CheckUser(),
                                         CheckKernel(),
                                         CheckCriuProgram(),
                                         CheckCgroup(),
                                         CheckGpus(site),
                                         CheckDirectory("runtime", site.runtime_directory),
                                         CheckDirectory("state", site.state_directory),
                                         CheckDirectory("staging", site.staging_directory)};
  CommandOutcome outcome;
  Json list = Json::array();
  bool able = true;
  for (const Finding& finding : findings) {
    able = able && (finding.ok || !finding.needed);
    list.push_back({{"what", finding.what},
                    {"ok", finding.ok},
                    {"needed", finding.needed},
                    {"detail", finding.detail},
                    {"cure", finding.cure}});
    outcome.text += fmt::format("{:<4} {:<10} {}\n",
                                finding.ok       ? "ok"
                                : finding.needed ? "NO"
                                                 : "-",
                                finding.what, finding.detail);
    if (!finding.ok && !finding.cure.empty()) outcome.text += fmt::format("     {:<10} {}\n", "", finding.cure);
  }
  outcome.json = {{"able", able}, {"findings", list}};
  if (!able) {
    outcome.code = ExitCode::kRefused;
    outcome.error = MakeError(ErrorCode::kUnsupported,
                              "this host cannot capture or restore workloads yet; see the lines marked NO");
  }
  return outcome;
}

}  // namespace gpumig
