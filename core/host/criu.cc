#include "core/host/criu.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "core/base/child_process.h"
#include "core/base/exec_strings.h"
#include "core/base/file.h"
#include "core/host/criu_version.h"
#include "core/host/page_filter/notes.h"
#include "core/host/process.h"
#include "rpc.pb.h"

namespace gpumig {
namespace {

constexpr std::string_view kOldestVersion = "4.1";
constexpr int kRpcFd = 3;
constexpr int kImagesFd = 4;
constexpr int kPageServerFd = 5;
constexpr int kPageNotesFd = 6;
// CRIU 4.1.1 insists that the images directory it is given is a symbolic link (criu/cr-service.c, setup_opts_from_req);
// a descriptor of its own is one, and is there in every mount namespace.
constexpr const char* kImagesPath = "/proc/self/fd/4";
constexpr std::size_t kLargestMessageBytes = 1 << 20;
constexpr int kLogLevel = 4;
constexpr std::uintmax_t kNextToNothing = 16 << 10;
// Deleted files that are still open travel inside the image up to this size.
constexpr unsigned kGhostLimitBytes = 256u << 20;

// What the child between fork and exec needs, gathered before: it must not allocate.
struct ChildPlan {
  const char* program = nullptr;
  char* const* environment = nullptr;
  char pid_text[16] = {};
  int namespaces_fd = -1;
  int namespace_kinds = 0;
  pid_t pid = 0;
  int cgroup_fd = -1;
  int rpc_fd = -1;
  int images_fd = -1;
  int page_server_fd = -1;  // may be none
  int page_notes_fd = -1;   // may be none
  int report_fd = -1;
};

[[noreturn]] void BecomeCriu(const ChildPlan& plan) {
  const auto fail = [&](int error_number) {
    [[maybe_unused]] const ssize_t ignored = write(plan.report_fd, &error_number, sizeof(error_number));
    _exit(127);
  };
  if (plan.cgroup_fd >= 0 && write(plan.cgroup_fd, "0", 1) != 1) fail(errno);
  if (plan.pid > 0) {
    // CRIU's own children must keep clear of the pids that it restores too. A pid that was asked for does not move the
    // counter that other pids come from.
    const int counter = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
    if (counter < 0 || write(counter, plan.pid_text, strlen(plan.pid_text)) < 0) fail(errno);
  }
  setsid();
  const int null = open("/dev/null", O_RDWR);
  for (int fd = 0; fd <= 2; ++fd) dup2(null, fd);
  const int rpc = fcntl(plan.rpc_fd, F_DUPFD_CLOEXEC, 100);
  const int images = fcntl(plan.images_fd, F_DUPFD_CLOEXEC, 100);
  const int report = fcntl(plan.report_fd, F_DUPFD_CLOEXEC, 100);
  const int pages = plan.page_server_fd < 0 ? -1 : fcntl(plan.page_server_fd, F_DUPFD_CLOEXEC, 100);
  const int notes = plan.page_notes_fd < 0 ? -1 : fcntl(plan.page_notes_fd, F_DUPFD_CLOEXEC, 100);
  if (rpc < 0 || images < 0 || report < 0 || dup2(rpc, kRpcFd) < 0 || dup2(images, kImagesFd) < 0) fail(errno);
  int last_fd = kImagesFd;
  if (plan.page_server_fd >= 0) {
    if (pages < 0 || dup2(pages, kPageServerFd) < 0) fail(errno);
    last_fd = kPageServerFd;
  }
  if (plan.page_notes_fd >= 0) {
    if (notes < 0 || dup2(notes, kPageNotesFd) < 0) fail(errno);
    last_fd = kPageNotesFd;
  }
  // Whatever else is open would be found by CRIU in the tasks it restores.
  syscall(SYS_close_range, static_cast<unsigned>(last_fd) + 1, ~0u, CLOSE_RANGE_CLOEXEC);
  const char* argv[] = {"criu", "swrk", "3", nullptr};
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast): execve takes its arguments so.
  execve(plan.program, const_cast<char**>(argv), plan.environment);
  const int error_number = errno;
  [[maybe_unused]] const ssize_t ignored = write(report, &error_number, sizeof(error_number));
  _exit(127);
}

// We live as long as CRIU, which may be longer than the process we came from: the locks and connections that it had
// open must not live on in us.
void CloseAllBut(const ChildPlan& plan) {
  const int kept[] = {plan.namespaces_fd,  plan.cgroup_fd,     plan.rpc_fd,   plan.images_fd,
                      plan.page_server_fd, plan.page_notes_fd, plan.report_fd};
  const int highest = *std::max_element(std::begin(kept), std::end(kept));
  for (int fd = 3; fd < highest; ++fd) {
    if (std::find(std::begin(kept), std::end(kept), fd) == std::end(kept)) close(fd);
  }
  syscall(SYS_close_range, static_cast<unsigned>(highest) + 1, ~0u, 0);
}

// Enters the namespaces, starts CRIU there, and ends as it ends.
[[noreturn]] void StartCriuAndWait(const ChildPlan& plan) {
  const auto fail = [&](int error_number) {
    [[maybe_unused]] const ssize_t ignored = write(plan.report_fd, &error_number, sizeof(error_number));
    _exit(127);
  };
  CloseAllBut(plan);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  if (plan.namespaces_fd >= 0 && plan.namespace_kinds != 0 && setns(plan.namespaces_fd, plan.namespace_kinds) != 0) {
    fail(errno);
  }
  clone_args arguments{};
  arguments.exit_signal = SIGCHLD;
  if (plan.pid > 0) {
    arguments.set_tid = reinterpret_cast<std::uint64_t>(&plan.pid);
    arguments.set_tid_size = 1;
  }
  const auto child = static_cast<pid_t>(syscall(SYS_clone3, &arguments, sizeof(arguments)));
  if (child < 0) fail(errno);
  if (child == 0) BecomeCriu(plan);
  close(plan.rpc_fd);
  close(plan.report_fd);
  if (plan.page_server_fd >= 0) close(plan.page_server_fd);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

// One CRIU process, from its start to its own end.
class CriuProcess {
 public:
  static Result<CriuProcess> Start(const Criu& criu, const CriuPlace& place, const std::filesystem::path& images,
                                   UniqueFd page_server = {}, const PageFilter* page_filter = nullptr) {
    SocketPair rpc = GPUMIG_TRY(MakeSocketPair(SOCK_SEQPACKET));
    Pipe report = GPUMIG_TRY(MakePipe());
    ChildPlan plan;
    plan.program = criu.program.c_str();
    plan.rpc_fd = rpc.theirs.get();
    plan.report_fd = report.write_end.get();
    const UniqueFd images_directory = GPUMIG_TRY(OpenFile(images, O_RDONLY | O_DIRECTORY));
    plan.images_fd = images_directory.get();
    plan.page_server_fd = page_server.get();
    std::vector<std::string> environment = EnvironmentOf(page_filter);
    const std::vector<char*> environment_pointers = PointersInto(environment);
    plan.environment = environment_pointers.data();
    if (page_filter != nullptr) plan.page_notes_fd = page_filter->notes.get();
    UniqueFd cgroup;
    if (place.cgroup != nullptr) cgroup = GPUMIG_TRY(place.cgroup->OpenProcs());
    plan.cgroup_fd = cgroup.get();
    UniqueFd namespaces;
    if (place.namespaces_of) {
      namespaces = GPUMIG_TRY(OpenPidfd(*place.namespaces_of));
      plan.namespaces_fd = namespaces.get();
      plan.namespace_kinds = GPUMIG_TRY(DifferingNamespaces(*place.namespaces_of));
    }
    plan.pid = place.pid.value_or(0);
    snprintf(plan.pid_text, sizeof(plan.pid_text), "%d", plan.pid);

    const pid_t starter = fork();
    if (starter < 0) return Error::FromErrno(errno, "start criu: fork");
    if (starter == 0) StartCriuAndWait(plan);
    rpc.theirs.Reset();
    report.write_end.Reset();
    int error_number = 0;
    if (read(report.read_end.get(), &error_number, sizeof(error_number)) > 0) {
      waitpid(starter, nullptr, 0);
      return Error::FromErrno(error_number, fmt::format("start {}", criu.program.string()));
    }
    return CriuProcess(std::move(rpc.ours), starter);
  }

  CriuProcess(CriuProcess&& other) noexcept
      : rpc_(std::move(other.rpc_)), starter_(std::exchange(other.starter_, -1)) {}
  CriuProcess& operator=(CriuProcess&&) = delete;
  // Closing the RPC socket is how CRIU is told to end; it is waited for, never signalled.
  ~CriuProcess() { AwaitEnd(); }

  Result<void> Send(const criu_req& request) {
    std::string bytes;
    request.SerializeToString(&bytes);
    if (send(rpc_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(bytes.size())) {
      return Error::FromErrno(errno, "send to criu");
    }
    return Ok();
  }

  Result<criu_resp> Receive() {
    std::vector<char> buffer(kLargestMessageBytes);
    ssize_t count = 0;
    do {
      count = recv(rpc_.get(), buffer.data(), buffer.size(), 0);
    } while (count < 0 && errno == EINTR);
    if (count < 0) return Error::FromErrno(errno, "receive from criu");
    if (count == 0) return MakeError(ErrorCode::kInternal, "criu ended without an answer ({})", AwaitEnd().ToString());
    criu_resp response;
    if (!response.ParseFromArray(buffer.data(), static_cast<int>(count))) {
      return MakeError(ErrorCode::kInternal, "criu's answer of {} bytes is not one", count);
    }
    return response;
  }

  ExitStatus AwaitEnd() {
    rpc_.Reset();
    if (starter_ <= 0) return ended_;
    int status = 0;
    while (waitpid(starter_, &status, 0) < 0 && errno == EINTR) {
    }
    starter_ = -1;
    ended_ = WIFSIGNALED(status) ? ExitStatus{0, WTERMSIG(status)} : ExitStatus{WEXITSTATUS(status), 0};
    return ended_;
  }

 private:
  CriuProcess(UniqueFd rpc, pid_t starter) : rpc_(std::move(rpc)), starter_(starter) {}

  static std::vector<std::string> EnvironmentOf(const PageFilter* page_filter) {
    if (page_filter == nullptr) return EnvironmentWith({});
    return EnvironmentWith(
        {{"LD_PRELOAD", page_filter->library.string()}, {kPageNotesVariable, std::to_string(kPageNotesFd)}});
  }

  static Result<int> DifferingNamespaces(pid_t pid) {
    static constexpr std::array<std::pair<const char*, int>, 5> kKinds = {{{"pid", CLONE_NEWPID},
                                                                           {"mnt", CLONE_NEWNS},
                                                                           {"net", CLONE_NEWNET},
                                                                           {"ipc", CLONE_NEWIPC},
                                                                           {"uts", CLONE_NEWUTS}}};
    int differing = 0;
    for (const auto& [name, flag] : kKinds) {
      if (!GPUMIG_TRY(SharesNamespace(getpid(), pid, name))) differing |= flag;
    }
    return differing;
  }

  UniqueFd rpc_;
  pid_t starter_ = -1;
  ExitStatus ended_;
};

// Sends `request`, answers notifications, and gives the final response, whatever it says.
Result<criu_resp> Converse(CriuProcess& process, const criu_req& request, const CriuNotify& notify) {
  GPUMIG_TRY(process.Send(request));
  std::optional<Error> refused;
  while (true) {
    criu_resp response = GPUMIG_TRY(process.Receive());
    if (response.type() != NOTIFY) {
      if (!response.success() && refused) return *refused;
      return response;
    }
    Result<void> answer = notify ? notify(response.notify().script()) : Ok();
    if (!answer && !refused) refused = answer.error();
    criu_req acknowledgement;
    acknowledgement.set_type(NOTIFY);
    acknowledgement.set_notify_success(answer.has_value());
    GPUMIG_TRY(process.Send(acknowledgement));
  }
}

criu_opts* CommonOptions(criu_req& request, bool session_outside, const char* log_file) {
  criu_opts* options = request.mutable_opts();
  options->set_images_dir_fd(-1);
  options->set_images_dir(kImagesPath);
  options->set_log_level(kLogLevel);
  options->set_log_file(log_file);
  options->set_notify_scripts(true);
  options->set_shell_job(session_outside);
  options->set_file_locks(true);
  options->set_ghost_limit(kGhostLimitBytes);
  options->set_manage_cgroups(true);
  options->set_manage_cgroups_mode(IGNORE);
  return options;
}

Error Explain(const criu_resp& response, const std::filesystem::path& log, std::string_view what) {
  // A full disk may have swallowed the very line that says so.
  std::error_code ignored;
  if (const auto space = std::filesystem::space(log.parent_path(), ignored);
      !ignored && space.available < kNextToNothing) {
    return MakeError(ErrorCode::kNoSpace, "criu {}: no space left in {}", what, log.parent_path().string())
        .WithNextStep("free space there, or name another staging directory");
  }
  const Result<std::string> text = ReadTextFile(log, 64 << 20);
  const std::string line = text ? FirstCriuError(*text) : std::string();
  if (!line.empty()) return MakeError(ErrorCode::kUnsupported, "criu {}: {}", what, line);
  if (response.cr_errno() != 0) return Error::FromErrno(response.cr_errno(), fmt::format("criu {}", what));
  return MakeError(ErrorCode::kInternal, "criu {} failed and its log {} names no error", what, log.string());
}

}  // namespace

Result<Criu> FindCriu() {
  std::vector<std::filesystem::path> candidates;
  if (const char* named = std::getenv("GPUMIG_CRIU"); named != nullptr) {
    candidates.emplace_back(named);
  } else {
    std::istringstream path(std::getenv("PATH") != nullptr ? std::getenv("PATH") : "");
    for (std::string directory; std::getline(path, directory, ':');)
      candidates.push_back(std::filesystem::path(directory) / "criu");
    for (const char* directory : {"/usr/local/sbin", "/usr/sbin"})
      candidates.push_back(std::filesystem::path(directory) / "criu");
    candidates.emplace_back(std::filesystem::path(kPrivateCriuPrefix) / "sbin/criu");
  }
  Criu newest;
  std::string looked_at;
  for (const std::filesystem::path& program : candidates) {
    if (access(program.c_str(), X_OK) != 0) continue;
    const Result<CommandOutput> output = RunCommand({program, "--version"}, std::chrono::seconds(10));
    if (!output) continue;
    const std::string version = CriuVersionIn(output->standard_output);
    if (IsAtLeast(version, kOldestVersion)) {
      if (newest.version.empty() || !IsAtLeast(newest.version, version)) newest = Criu{program, version};
      continue;
    }
    looked_at += fmt::format("; {} is {}", program.string(), version.empty() ? "of unknown version" : version);
  }
  if (!newest.version.empty()) return newest;
  return MakeError(ErrorCode::kUnsupported, "no CRIU of version {} or newer{}", kOldestVersion, looked_at)
      .WithNextStep("run scripts/bootstrap, install the criu package of Debian 13, or set GPUMIG_CRIU to its path");
}

Result<void> DumpWithCriu(const Criu& criu, const CriuPlace& place, CriuDump dump, const CriuNotify& notify) {
  criu_req request;
  request.set_type(DUMP);
  criu_opts* options = CommonOptions(request, dump.session_outside, "dump.log");
  options->set_pid(dump.root);
  options->set_leave_running(true);  // It was frozen before, and CRIU puts that back.
  options->set_freeze_cgroup(dump.freeze_cgroup);
  if (dump.page_server.valid()) options->mutable_ps()->set_fd(kPageServerFd);

  CriuProcess process =
      GPUMIG_TRY(CriuProcess::Start(criu, place, dump.images, std::move(dump.page_server), dump.page_filter));
  const criu_resp response = GPUMIG_TRY(Converse(process, request, notify), "criu dump");
  if (!response.success()) return Explain(response, dump.images / "dump.log", "dump");
  const ExitStatus ended = process.AwaitEnd();
  if (!ended.ok()) return MakeError(ErrorCode::kInternal, "criu dump answered, then ended with {}", ended.ToString());
  return Ok();
}

Result<pid_t> RestoreWithCriu(const Criu& criu, const CriuPlace& place, const CriuRestore& restore,
                              const CriuNotify& notify) {
  criu_req request;
  request.set_type(RESTORE);
  CommonOptions(request, restore.session_outside, "restore.log");

  CriuProcess process = GPUMIG_TRY(CriuProcess::Start(criu, place, restore.images));
  if (place.on_started) GPUMIG_TRY(place.on_started(place.pid.value_or(0)));
  const criu_resp response = GPUMIG_TRY(Converse(process, request, notify), "criu restore");
  if (!response.success()) return Explain(response, restore.images / "restore.log", "restore");
  const ExitStatus ended = process.AwaitEnd();
  if (!ended.ok())
    return MakeError(ErrorCode::kInternal, "criu restore answered, then ended with {}", ended.ToString());
  return static_cast<pid_t>(response.restore().pid());
}

std::string FirstCriuError(std::string_view log) {
  while (!log.empty()) {
    const std::size_t end = log.find('\n');
    const std::string_view line = log.substr(0, end);
    log.remove_prefix(end == std::string_view::npos ? log.size() : end + 1);
    const std::size_t error = line.find("Error (");
    if (error == std::string_view::npos) continue;
    // Said without CAP_SYS_RESOURCE on every run, and harmless.
    if (line.find("Can't setup RLIMIT_NOFILE") != std::string_view::npos) continue;
    const std::size_t text = line.find("): ", error);
    return std::string(text == std::string_view::npos ? line.substr(error) : line.substr(text + 3));
  }
  return std::string();
}

Result<std::string> CheckCriu(const Criu& criu) {
  const CommandOutput output = GPUMIG_TRY(RunCommand({criu.program, "check"}, std::chrono::seconds(30)));
  if (output.status.ok()) return std::string();
  std::string said = FirstCriuError(output.standard_error);
  return said.empty() ? output.status.ToString() : said;
}

}  // namespace gpumig
