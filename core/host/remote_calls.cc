#include "core/host/remote_calls.h"

#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/base/file.h"
#include "core/host/process.h"

namespace gpumig {
namespace {

using std::chrono::steady_clock;

constexpr std::size_t kLargestMapsBytes = std::size_t{64} << 20;
constexpr int kOurTracee = static_cast<int>(__WALL);

Error Unsupported(pid_t pid, std::string_view why) {
  return MakeError(ErrorCode::kUnsupported, "process {} cannot be asked to make system calls: {}", pid, why);
}

// Where a `syscall` instruction stands that every process has.
Result<std::uint64_t> SyscallInstruction(pid_t pid) {
  const std::string maps = GPUMIG_TRY(ReadTextFile(fmt::format("/proc/{}/maps", pid), kLargestMapsBytes));
  const std::size_t name = maps.find("[vdso]");
  if (name == std::string::npos) return Unsupported(pid, "it has no vDSO");
  const std::size_t line = maps.rfind('\n', name) == std::string::npos ? 0 : maps.rfind('\n', name) + 1;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  const char* const text = maps.data() + line;
  const auto [dash, first] = std::from_chars(text, maps.data() + name, begin, 16);
  if (first != std::errc() || std::from_chars(dash + 1, maps.data() + name, end, 16).ec != std::errc() ||
      end <= begin || end - begin > (1 << 20)) {
    return Unsupported(pid, "its vDSO is not as we know it");
  }
  std::vector<std::byte> code(end - begin);
  const UniqueFd mem = GPUMIG_TRY(OpenFile(fmt::format("/proc/{}/mem", pid), O_RDONLY));
  GPUMIG_TRY(ReadExactlyAt(mem.get(), code, begin));
  constexpr std::array kSyscall = {std::byte{0x0f}, std::byte{0x05}};
  const auto found = std::ranges::search(code, kSyscall);
  if (found.empty()) return Unsupported(pid, "its vDSO has no system call in it");
  return begin + static_cast<std::uint64_t>(found.begin() - code.begin());
}

std::string StatusField(const std::string& status, std::string_view key) {
  const std::size_t at = status.find(key);
  if (at == std::string::npos) return {};
  const std::size_t from = status.find_first_not_of(" \t", at + key.size());
  return status.substr(from, status.find('\n', from) - from);
}

// What would make it fail half way, looked at before anything is touched.
Result<void> CheckCanBeAsked(pid_t pid) {
  const std::string status = GPUMIG_TRY(ReadTextFile(fmt::format("/proc/{}/status", pid)));
  if (StatusField(status, "\nTracerPid:") != "0") return Unsupported(pid, "another process traces it");
  if (const std::string seccomp = StatusField(status, "\nSeccomp:"); !seccomp.empty() && seccomp != "0")
    return Unsupported(pid, "it has a seccomp filter");
  const std::string state = StatusField(status, "\nState:");
  if (state.starts_with('T') || state.starts_with('t')) return Unsupported(pid, "it is stopped");
  const Result<std::string> cgroup = CgroupPathOf(pid);
  if (cgroup && !cgroup->empty()) {
    const Result<std::string> events = ReadTextFile(fmt::format("/sys/fs/cgroup{}/cgroup.events", *cgroup));
    if (events && events->find("frozen 1") != std::string::npos) return Unsupported(pid, "its cgroup is frozen");
  }
  return Ok();
}

// A thread that has not exited; the first may have.
Result<pid_t> LiveThread(pid_t pid) {
  std::error_code error;
  std::vector<pid_t> threads;
  for (std::filesystem::directory_iterator entry(fmt::format("/proc/{}/task", pid), error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    pid_t thread = 0;
    const std::string name = entry->path().filename();
    if (std::from_chars(name.data(), name.data() + name.size(), thread).ec == std::errc()) threads.push_back(thread);
  }
  std::ranges::sort(threads);
  for (const pid_t thread : threads) {
    const Result<std::string> status = ReadTextFile(fmt::format("/proc/{}/task/{}/status", pid, thread));
    if (status && !StatusField(*status, "\nState:").starts_with('Z')) return thread;
  }
  return MakeError(ErrorCode::kNotFound, "process {} has ended", pid);
}

#if defined(__x86_64__)

class Tracee {
 public:
  Tracee(pid_t thread, std::uint64_t syscall_address, steady_clock::time_point deadline)
      : thread_(thread), syscall_address_(syscall_address), deadline_(deadline) {}
  Tracee(const Tracee&) = delete;
  Tracee& operator=(const Tracee&) = delete;
  ~Tracee() { LetGo(); }

  Result<void> Hold() {
    if (ptrace(PTRACE_SEIZE, thread_, nullptr, reinterpret_cast<void*>(PTRACE_O_TRACESYSGOOD)) != 0) {
      if (errno == ESRCH) return MakeError(ErrorCode::kNotFound, "thread {} has ended", thread_);
      return Unsupported(thread_, "it cannot be traced");
    }
    seized_ = true;
    GPUMIG_TRY(Interrupt());
    if (ptrace(PTRACE_GETREGS, thread_, nullptr, &before_) != 0 ||
        ptrace(PTRACE_GETSIGMASK, thread_, reinterpret_cast<void*>(sizeof(mask_)), &mask_) != 0) {
      return Error::FromErrno(errno, fmt::format("read the registers of thread {}", thread_));
    }
    GPUMIG_TRY(LeaveSequence(), "see where thread {} is", thread_);
    std::uint64_t all = ~std::uint64_t{0};
    if (ptrace(PTRACE_SETSIGMASK, thread_, reinterpret_cast<void*>(sizeof(all)), &all) != 0)
      return Error::FromErrno(errno, fmt::format("block the signals of thread {}", thread_));
    changed_ = true;
    return Ok();
  }

  Result<std::int64_t> Call(long number, const std::array<std::uint64_t, 6>& arguments) {
    user_regs_struct registers = before_;
    registers.rip = syscall_address_;
    registers.rax = static_cast<unsigned long long>(number);
    registers.orig_rax = ~0ull;  // it is in no system call that would have to be begun again
    registers.rdi = arguments[0];
    registers.rsi = arguments[1];
    registers.rdx = arguments[2];
    registers.r10 = arguments[3];
    registers.r8 = arguments[4];
    registers.r9 = arguments[5];
    if (ptrace(PTRACE_SETREGS, thread_, nullptr, &registers) != 0)
      return Error::FromErrno(errno, fmt::format("set the registers of thread {}", thread_));
    // Into the call, and out of it.
    for (int i = 0; i < 2; ++i) {
      if (ptrace(PTRACE_SYSCALL, thread_, nullptr, nullptr) != 0)
        return Error::FromErrno(errno, fmt::format("let thread {} make a system call", thread_));
      stopped_ = false;
      const int status = GPUMIG_TRY(AwaitStop());
      if (WSTOPSIG(status) != (SIGTRAP | 0x80)) return Unsupported(thread_, "it stopped for another reason");
    }
    if (ptrace(PTRACE_GETREGS, thread_, nullptr, &registers) != 0)
      return Error::FromErrno(errno, fmt::format("read the registers of thread {}", thread_));
    return static_cast<std::int64_t>(registers.rax);
  }

 private:
  Result<void> Interrupt() {
    if (ptrace(PTRACE_INTERRUPT, thread_, nullptr, nullptr) != 0)
      return Error::FromErrno(errno, fmt::format("interrupt thread {}", thread_));
    while (true) {
      const int status = GPUMIG_TRY(AwaitStop());
      if (status >> 16 == PTRACE_EVENT_STOP) return Ok();
      // A signal on its way, or the end of one of our calls: it goes on, and then stops as told.
      const int signal = WSTOPSIG(status) == (SIGTRAP | 0x80) ? 0 : WSTOPSIG(status);
      if (ptrace(PTRACE_CONT, thread_, nullptr, reinterpret_cast<void*>(static_cast<long>(signal))) != 0)
        return Error::FromErrno(errno, fmt::format("let thread {} go on", thread_));
      stopped_ = false;
    }
  }

  Result<int> AwaitStop() {
    for (auto pause = std::chrono::microseconds(10);; pause = std::min(2 * pause, std::chrono::microseconds(1000))) {
      int status = 0;
      const pid_t waited = waitpid(thread_, &status, WNOHANG | kOurTracee);
      if (waited == thread_ && WIFSTOPPED(status)) {
        stopped_ = true;
        return status;
      }
      if (waited == thread_ || (waited < 0 && errno == ECHILD)) {
        seized_ = false;
        return MakeError(ErrorCode::kNotFound, "thread {} has ended", thread_);
      }
      if (steady_clock::now() > deadline_)
        return MakeError(ErrorCode::kDeadlineExceeded, "thread {} did not stop in time", thread_);
      std::this_thread::sleep_for(pause);
    }
  }

  // The registers are put back in the stop of an interrupt: only on its way out of one the kernel looks whether the
  // system call that the thread was in must be begun again.
  void LetGo() {
    if (!seized_) return;
    // A thread that waits for a disk stops when that is done. To leave it traced, or where we put it, would kill it.
    deadline_ = steady_clock::now() + std::chrono::minutes(10);
    int caught_signal = 0;
    const auto stop_again = [&]() -> Result<void> {
      if (stopped_ && !changed_) return Ok();
      if (ptrace(PTRACE_INTERRUPT, thread_, nullptr, nullptr) != 0) return Error::FromErrno(errno, "interrupt");
      while (true) {
        if (stopped_ && ptrace(PTRACE_CONT, thread_, nullptr, nullptr) != 0) return Error::FromErrno(errno, "go on");
        stopped_ = false;
        const int status = GPUMIG_TRY(AwaitStop());
        if (status >> 16 == PTRACE_EVENT_STOP) return Ok();
        if (WSTOPSIG(status) != (SIGTRAP | 0x80)) caught_signal = WSTOPSIG(status);
      }
    };
    [[maybe_unused]] const Result<void> stopped = stop_again();
    if (changed_) {
      ptrace(PTRACE_SETREGS, thread_, nullptr, &before_);
      ptrace(PTRACE_SETSIGMASK, thread_, reinterpret_cast<void*>(sizeof(mask_)), &mask_);
    }
    ptrace(PTRACE_DETACH, thread_, nullptr, reinterpret_cast<void*>(static_cast<long>(caught_signal)));
  }

  // Where it was within a restartable sequence (rseq), it must not go on in it: it goes to that sequence's own way out,
  // as after any other interruption. Source: rseq(2), <linux/rseq.h>.
  Result<void> LeaveSequence() {
    struct {
      std::uint64_t pointer;
      std::uint32_t size;
      std::uint32_t signature;
      std::uint32_t flags;
      std::uint32_t pad;
    } area{};
    constexpr auto kGetRseqConfiguration = static_cast<__ptrace_request>(0x420f);
    if (ptrace(kGetRseqConfiguration, thread_, reinterpret_cast<void*>(sizeof(area)), &area) < 0 || area.pointer == 0)
      return Ok();
    struct {
      std::uint32_t version;
      std::uint32_t flags;
      std::uint64_t start;
      std::uint64_t length;
      std::uint64_t abort;
    } sequence{};
    std::uint64_t pointer = 0;
    const UniqueFd mem = GPUMIG_TRY(OpenFile(fmt::format("/proc/{}/mem", thread_), O_RDONLY));
    GPUMIG_TRY(ReadExactlyAt(mem.get(), std::as_writable_bytes(std::span(&pointer, 1)), area.pointer + 8));
    if (pointer == 0) return Ok();
    GPUMIG_TRY(ReadExactlyAt(mem.get(), std::as_writable_bytes(std::span(&sequence, 1)), pointer));
    if (before_.rip - sequence.start < sequence.length) before_.rip = sequence.abort;
    return Ok();
  }

  const pid_t thread_;
  const std::uint64_t syscall_address_;
  steady_clock::time_point deadline_;
  bool seized_ = false;
  bool stopped_ = false;
  bool changed_ = false;
  user_regs_struct before_{};
  std::uint64_t mask_ = 0;
};

#endif

}  // namespace

Result<void> WithRemoteCalls(pid_t pid, std::chrono::milliseconds limit,
                             const std::function<Result<void>(const RemoteCall& call)>& work) {
#if defined(__x86_64__)
  const steady_clock::time_point deadline = steady_clock::now() + limit;
  GPUMIG_TRY(CheckCanBeAsked(pid));
  const std::uint64_t instruction = GPUMIG_TRY(SyscallInstruction(pid));
  const pid_t thread = GPUMIG_TRY(LiveThread(pid));
  Tracee tracee(thread, instruction, deadline);
  GPUMIG_TRY(tracee.Hold());
  return work(
      [&](long number, const std::array<std::uint64_t, 6>& arguments) { return tracee.Call(number, arguments); });
#else
  return Unsupported(pid, "this processor's system calls are not known");
#endif
}

}  // namespace gpumig
