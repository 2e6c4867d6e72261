#include "cli/soft_gpu.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "cli/composition.h"
#include "core/base/child_process.h"
#include "core/base/file.h"

namespace gpumig {
namespace {

constexpr const char* kDefaultSocket = "/run/softgpu/softgpud.sock";
constexpr std::chrono::seconds kComeUpLimit{10};
constexpr std::chrono::milliseconds kPollPause{20};
constexpr std::size_t kMostLogBytes = 1 << 20;

bool Answers(const std::filesystem::path& socket_path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = socket_path;
  if (path.size() >= sizeof(address.sun_path)) return false;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  return fd.valid() && connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

Result<std::filesystem::path> DaemonProgram() {
  std::error_code error;
  const std::filesystem::path here = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  for (const char* candidate : {"../plugins/softgpu/softgpud", "softgpud"}) {
    const std::filesystem::path program = (here / candidate).lexically_normal();
    if (access(program.c_str(), X_OK) == 0) return program;
  }
  return MakeError(ErrorCode::kNotFound, "softgpud is not beside {}", here.string())
      .WithNextStep("install gpumig whole (cmake --install)");
}

std::string LastWords(const std::filesystem::path& log) {
  const Result<std::string> text = ReadTextFile(log, kMostLogBytes);
  if (!text || text->empty()) return std::string("it said nothing");
  const std::size_t end = text->find_last_not_of('\n');
  return text->substr(0, end == std::string::npos ? 0 : end + 1);
}

Result<pid_t> StartDaemon(const std::filesystem::path& socket_path) {
  GPUMIG_TRY(MakeDirectories(socket_path.parent_path(), 0755), "make the directory of the socket");
  const std::filesystem::path log = socket_path.parent_path() / "softgpud.log";
  const UniqueFd log_fd = GPUMIG_TRY(OpenFile(log, O_WRONLY | O_CREAT | O_APPEND));
  const UniqueFd null = GPUMIG_TRY(OpenFile("/dev/null", O_RDONLY));
  ChildProcess::Options options;
  options.arguments = {GPUMIG_TRY(DaemonProgram()).string(), "--socket", socket_path.string()};
  const char* config = std::getenv("GPUMIG_SOFTGPU_CONFIG");
  if (config != nullptr && config[0] != '\0') options.arguments.insert(options.arguments.end(), {"--config", config});
  options.descriptors = {{null.get(), 0}, {log_fd.get(), 1}, {log_fd.get(), 2}};
  options.working_directory = std::string("/");
  options.new_session = true;
  ChildProcess daemon = GPUMIG_TRY(ChildProcess::Start(options));
  const auto deadline = std::chrono::steady_clock::now() + kComeUpLimit;
  while (!Answers(socket_path)) {
    const Result<ExitStatus> ended = daemon.Wait(kPollPause);
    if (!ended && std::chrono::steady_clock::now() < deadline) continue;
    return MakeError(ErrorCode::kUnavailable, "softgpud {}: {}", ended ? "ended at once" : "does not come up",
                     LastWords(log))
        .WithNextStep(fmt::format("see {}", log.string()));
  }
  return daemon.Detach();
}

}  // namespace

Result<SoftGpu> EnsureSoftGpu() {
  const std::filesystem::path library = SoftGpuLibrary();
  if (library.empty()) {
    return MakeError(ErrorCode::kNotFound, "the software GPU's driver library is not installed")
        .WithNextStep("install gpumig whole (cmake --install)");
  }
  SoftGpu soft;
  soft.library_directory = library.parent_path();
  const char* named = std::getenv("SOFTGPU_SOCKET");
  soft.socket = named != nullptr && named[0] != '\0' ? named : kDefaultSocket;
  if (Answers(soft.socket)) return soft;
  soft.started_daemon = GPUMIG_TRY(StartDaemon(soft.socket), "start the software GPU at {}", soft.socket.string());
  return soft;
}

}  // namespace gpumig
