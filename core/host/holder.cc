#include "core/host/holder.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "core/base/exec_strings.h"
#include "core/base/file.h"
#include "core/host/init/control.h"

namespace gpumig {
namespace {

Result<std::filesystem::path> FindInit() {
  if (const char* named = std::getenv("GPUMIG_INIT"); named != nullptr) return std::filesystem::path(named);
  std::error_code error;
  const std::filesystem::path here = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  for (const auto& candidate : {here / "gpumig-init", here / "../" GPUMIG_LIBEXECDIR "/gpumig/gpumig-init"}) {
    if (access(candidate.c_str(), X_OK) == 0) return candidate.lexically_normal();
  }
  return MakeError(ErrorCode::kNotFound, "gpumig-init is not beside {}", here.string())
      .WithNextStep("install gpumig whole (cmake --install), or set GPUMIG_INIT to the path of gpumig-init");
}

// Gathered before fork: the child must not allocate.
struct InitPlan {
  const char* program;
  char* const* arguments;
  char* const* environment;
  int control_fd;
  int init_cgroup_fd;
  int tree_cgroup_fd;
  int stdio[3];
};

[[noreturn]] void BecomeInit(const InitPlan& plan) {
  const auto fail = [&](int error_number) {
    const InitMessage message{InitMessageKind::kFailed, error_number};
    [[maybe_unused]] const ssize_t ignored = write(plan.control_fd, &message, sizeof(message));
    _exit(127);
  };
  setsid();
  if (write(plan.init_cgroup_fd, "0", 1) != 1) fail(errno);
  const int wanted[] = {plan.stdio[0], plan.stdio[1], plan.stdio[2], plan.control_fd, plan.tree_cgroup_fd};
  int parked[5];
  for (int i = 0; i < 5; ++i) {
    parked[i] = fcntl(wanted[i], F_DUPFD_CLOEXEC, 100);
    if (parked[i] < 0) fail(errno);
  }
  for (int i = 0; i < 5; ++i) {
    if (dup2(parked[i], i) < 0) fail(errno);
  }
  syscall(SYS_close_range, 5u, ~0u, CLOSE_RANGE_CLOEXEC);
  execve(plan.program, plan.arguments, plan.environment);
  const InitMessage message{InitMessageKind::kFailed, errno};
  [[maybe_unused]] const ssize_t ignored = write(3, &message, sizeof(message));
  _exit(127);
}

[[noreturn]] void StartInit(const InitPlan& plan, int report_fd) {
  std::int32_t answer = 0;
  if (unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) {
    answer = -errno;
  } else {
    const pid_t init = fork();
    if (init == 0) BecomeInit(plan);
    answer = init < 0 ? -errno : init;
  }
  [[maybe_unused]] const ssize_t ignored = write(report_fd, &answer, sizeof(answer));
  _exit(0);
}

}  // namespace

Result<Holder> Holder::Start(const Cgroup& init_cgroup, const Cgroup& tree_cgroup,
                             const std::filesystem::path& exit_file, const std::optional<Command>& command) {
  const std::filesystem::path program = GPUMIG_TRY(FindInit());
  std::vector<std::string> arguments = {"gpumig-init", exit_file, init_cgroup.path().parent_path()};
  if (command) arguments.insert(arguments.end(), command->arguments.begin(), command->arguments.end());
  std::vector<std::string> environment =
      EnvironmentWith(command ? command->environment : std::vector<std::pair<std::string, std::string>>());
  const std::vector<char*> argument_pointers = PointersInto(arguments);
  const std::vector<char*> environment_pointers = PointersInto(environment);

  SocketPair control = GPUMIG_TRY(MakeSocketPair(SOCK_SEQPACKET));
  Pipe report = GPUMIG_TRY(MakePipe());
  const UniqueFd null = GPUMIG_TRY(OpenFile("/dev/null", O_RDWR));
  const UniqueFd init_procs = GPUMIG_TRY(init_cgroup.OpenProcs());
  const UniqueFd tree_procs = GPUMIG_TRY(tree_cgroup.OpenProcs());
  const auto stdio = [&](int fd) { return fd >= 0 ? fd : null.get(); };
  const InitPlan plan{program.c_str(),
                      argument_pointers.data(),
                      environment_pointers.data(),
                      control.theirs.get(),
                      init_procs.get(),
                      tree_procs.get(),
                      {stdio(command ? command->input_fd : -1), stdio(command ? command->output_fd : -1),
                       stdio(command ? command->error_fd : -1)}};

  const pid_t starter = fork();
  if (starter < 0) return Error::FromErrno(errno, "start gpumig-init: fork");
  if (starter == 0) StartInit(plan, report.write_end.get());
  control.theirs.Reset();
  report.write_end.Reset();
  std::int32_t answer = 0;
  const ssize_t count = read(report.read_end.get(), &answer, sizeof(answer));
  while (waitpid(starter, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (count != sizeof(answer)) return MakeError(ErrorCode::kInternal, "start gpumig-init: its starter died");
  if (answer < 0) return Error::FromErrno(-answer, "start gpumig-init in namespaces of its own");

  Holder holder(std::move(control.ours), answer);
  holder.inner_pid_ =
      GPUMIG_TRY(holder.AwaitAnswer(), "start {}", command ? command->arguments.front() : "gpumig-init");
  return holder;
}

Result<void> Holder::WatchCriu(pid_t inner_pid) {
  const InitMessage message{InitMessageKind::kWatchCriu, inner_pid};
  GPUMIG_TRY(WriteAll(control_.get(), std::as_bytes(std::span(&message, 1))));
  GPUMIG_TRY(AwaitAnswer());
  return Ok();
}

Result<void> Holder::PassGate(pid_t inner_main_process) {
  const InitMessage message{InitMessageKind::kGatePassed, inner_main_process};
  GPUMIG_TRY(WriteAll(control_.get(), std::as_bytes(std::span(&message, 1))));
  GPUMIG_TRY(AwaitAnswer());
  return Ok();
}

Result<std::int32_t> Holder::AwaitAnswer() {
  InitMessage message{};
  ssize_t count = 0;
  do {
    count = read(control_.get(), &message, sizeof(message));
  } while (count < 0 && errno == EINTR);
  if (count != sizeof(message)) return MakeError(ErrorCode::kInternal, "gpumig-init died");
  if (message.kind == InitMessageKind::kFailed) return Error::FromErrno(message.value, "gpumig-init");
  return message.value;
}

}  // namespace gpumig
