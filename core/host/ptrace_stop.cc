#include "core/host/ptrace_stop.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <filesystem>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>

#include "core/base/check.h"
#include "core/base/file.h"

namespace gpumig {
namespace {

using std::chrono::steady_clock;

// Not in every <sys/wait.h>; see waitpid(2).
constexpr int kAllOurTracees = static_cast<int>(__WALL) | static_cast<int>(__WNOTHREAD);

// What /proc says of a thread.
struct ThreadStatus {
  char state = '?';
  pid_t tracer = 0;
  pid_t parent = 0;

  bool exiting() const { return state == 'Z' || state == 'X'; }
};

pid_t NumberAfter(std::string_view text, std::string_view key) {
  const std::size_t start = text.find(key);
  if (start == std::string_view::npos) return 0;
  std::string_view rest = text.substr(start + key.size());
  rest.remove_prefix(std::min(rest.find_first_not_of(" \t"), rest.size()));
  pid_t number = 0;
  std::from_chars(rest.data(), rest.data() + rest.size(), number);
  return number;
}

// Empty: the thread is gone.
std::optional<ThreadStatus> StatusOf(pid_t process, pid_t thread) {
  const Result<std::string> text = ReadTextFile(fmt::format("/proc/{}/task/{}/status", process, thread));
  if (!text) return std::nullopt;
  ThreadStatus status;
  constexpr std::string_view kStateKey = "\nState:\t";
  const std::size_t state = text->find(kStateKey);
  if (state != std::string::npos && state + kStateKey.size() < text->size())
    status.state = (*text)[state + kStateKey.size()];
  status.tracer = NumberAfter(*text, "\nTracerPid:");
  status.parent = NumberAfter(*text, "\nPPid:");
  return status;
}

std::string NameOf(pid_t process) {
  Result<std::string> name = ReadTextFile(fmt::format("/proc/{}/comm", process));
  if (!name) return "gone";
  while (name->ends_with('\n')) name->pop_back();
  return *name;
}

Result<std::vector<pid_t>> ThreadsOf(pid_t process) {
  std::vector<pid_t> threads;
  std::error_code error;
  std::filesystem::directory_iterator entry(fmt::format("/proc/{}/task", process), error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename();
    pid_t thread = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), thread).ec == std::errc()) threads.push_back(thread);
  }
  if (error == std::errc::no_such_file_or_directory || error == std::errc::no_such_process) {
    return MakeError(ErrorCode::kNotFound, "process {} is gone", process);
  }
  if (error) return Error::FromErrno(error.value(), fmt::format("list threads of process {}", process));
  return threads;
}

long Trace(__ptrace_request request, pid_t thread, long data) {
  // The C library's prototype is variadic, and takes pointers.
  return ptrace(request, thread, nullptr, reinterpret_cast<void*>(data));
}

// The ptrace calls for one stop. All from one thread.
class Tracer {
 public:
  Tracer(std::vector<pid_t> processes, ThreadStop::Options options)
      : processes_(std::move(processes)),
        options_(std::move(options)),
        deadline_(steady_clock::now() + options_.limit) {}

  Result<void> StopAll();
  Result<void> ReleaseAll();
  // Takes note of threads that died while held, so that their parents hear of it.
  void ReapDead();
  std::size_t thread_count() const { return threads_.size(); }

 private:
  struct Thread {
    pid_t process = 0;
    bool stopped = false;
    int caught_signal = 0;   // was on its way to the thread when it stopped; 0: none
    bool our_child = false;  // the leader of a process whose exit code another thread of ours awaits
  };
  enum class Event { kNone, kStopped, kDied };

  Result<void> CheckExempt() const;
  // How many threads it met that it did not know. They are told to stop, and not waited for.
  Result<std::size_t> SeizeNew();
  Result<bool> Seize(pid_t process, pid_t thread);
  Result<void> WaitUntilAllStopped();
  Event NextEvent(pid_t id, Thread& thread);
  Error NotStopped() const;

  const std::vector<pid_t> processes_;
  const ThreadStop::Options options_;
  const steady_clock::time_point deadline_;
  std::map<pid_t, Thread> threads_;  // by thread id; only those that we trace
};

Result<void> Tracer::CheckExempt() const {
  std::set<pid_t> left(options_.exempt_threads.begin(), options_.exempt_threads.end());
  for (const pid_t process : processes_) {
    GPUMIG_CHECK(process != getpid());
    for (const pid_t thread : GPUMIG_TRY(ThreadsOf(process))) left.erase(thread);
  }
  if (left.empty()) return Ok();
  return MakeError(ErrorCode::kInvalidArgument, "thread {} belongs to none of the processes to stop", *left.begin());
}

Result<bool> Tracer::Seize(pid_t process, pid_t thread) {
  // No options yet: PTRACE_O_EXITKILL now would turn a failure half way into a kill.
  if (Trace(PTRACE_SEIZE, thread, 0) != 0) {
    const int error_number = errno;
    const std::optional<ThreadStatus> status = StatusOf(process, thread);
    if (error_number == ESRCH || !status || status->exiting()) return false;
    if (status->tracer != 0) {
      return MakeError(ErrorCode::kFailedPrecondition, "thread {} is traced by process {} ({})", thread, status->tracer,
                       NameOf(status->tracer))
          .WithNextStep(fmt::format("detach process {} from it, then try again", status->tracer));
    }
    return Error::FromErrno(error_number, fmt::format("PTRACE_SEIZE thread {}", thread));
  }
  Thread entry;
  entry.process = process;
  if (thread == process) {
    const std::optional<ThreadStatus> status = StatusOf(process, thread);
    entry.our_child = status && status->parent == getpid();
  }
  threads_.emplace(thread, entry);
  // ESRCH: it died since, which the wait will tell.
  if (Trace(PTRACE_INTERRUPT, thread, 0) != 0 && errno != ESRCH) {
    return Error::FromErrno(errno, fmt::format("PTRACE_INTERRUPT thread {}", thread));
  }
  return true;
}

Result<std::size_t> Tracer::SeizeNew() {
  std::size_t new_count = 0;
  for (const pid_t process : processes_) {
    bool alive = false;
    for (const pid_t thread : GPUMIG_TRY(ThreadsOf(process))) {
      const bool exempt = std::ranges::find(options_.exempt_threads, thread) != options_.exempt_threads.end();
      if (exempt || threads_.contains(thread)) {
        alive = true;
      } else if (GPUMIG_TRY(Seize(process, thread), "stop process {}", process)) {
        alive = true;
        ++new_count;
      }
    }
    // A leader that has exited stays in the list while others of its threads live, and while its parent does not reap
    // it.
    if (!alive) return MakeError(ErrorCode::kNotFound, "process {} has exited", process);
  }
  return new_count;
}

Tracer::Event Tracer::NextEvent(pid_t id, Thread& thread) {
  // Look first, then take: whether a death is ours to take depends on whose child it is. The other way round would not
  // do either, since a wait for exits alone reports stops of traced threads as well.
  siginfo_t info{};
  constexpr int kLook = WSTOPPED | WEXITED | WNOHANG | WNOWAIT | kAllOurTracees;
  if (waitid(P_PID, static_cast<id_t>(id), &info, kLook) != 0) {
    // ECHILD: exec() of another thread of its process has taken its id away.
    return errno == ECHILD ? Event::kDied : Event::kNone;
  }
  if (info.si_pid != id) return Event::kNone;
  if (info.si_code == CLD_TRAPPED || info.si_code == CLD_STOPPED) {
    // For ptrace, si_status is signal | event << 8. PTRACE_EVENT_STOP is the answer to our interrupt, or the report of
    // a stop by SIGSTOP and its like, which the kernel reinstates at detach; without an event it is a signal on its
    // way.
    if (waitid(P_PID, static_cast<id_t>(id), &info, WSTOPPED | WNOHANG | kAllOurTracees) != 0) return Event::kNone;
    if (info.si_pid != id) return Event::kNone;  // killed in between
    thread.caught_signal = info.si_status >> 8 == 0 ? info.si_status : 0;
    thread.stopped = true;
    return Event::kStopped;
  }
  if (!thread.our_child) waitid(P_PID, static_cast<id_t>(id), &info, WEXITED | WNOHANG | kAllOurTracees);
  return Event::kDied;
}

Error Tracer::NotStopped() const {
  for (const auto& [id, thread] : threads_) {
    if (thread.stopped) continue;
    const std::optional<ThreadStatus> status = StatusOf(thread.process, id);
    return MakeError(ErrorCode::kDeadlineExceeded,
                     "thread {} of process {} did not stop within {} ms (its state is {})", id, thread.process,
                     options_.limit.count(), status ? status->state : '?');
  }
  return MakeError(ErrorCode::kDeadlineExceeded, "new threads came up faster than they could be stopped, for {} ms",
                   options_.limit.count());
}

Result<void> Tracer::WaitUntilAllStopped() {
  // waitid() knows no deadline, and SIGCHLD belongs to the program we are part of. Most threads stop within the first
  // pause.
  std::chrono::microseconds pause(20);
  while (true) {
    bool all_stopped = true;
    for (auto entry = threads_.begin(); entry != threads_.end();) {
      const Event event = entry->second.stopped ? Event::kNone : NextEvent(entry->first, entry->second);
      if (event == Event::kDied) {
        entry = threads_.erase(entry);
        continue;
      }
      all_stopped = all_stopped && entry->second.stopped;
      ++entry;
    }
    if (all_stopped) return Ok();
    if (steady_clock::now() >= deadline_) return NotStopped();
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(2000));
  }
}

Result<void> Tracer::StopAll() {
  GPUMIG_TRY(CheckExempt());
  // A thread that was not yet stopped may have started another after the list was read, and one that ended may have
  // made the kernel skip a neighbour: so twice without news.
  for (int quiet_scans = 0; quiet_scans < 2;) {
    const std::size_t new_count = GPUMIG_TRY(SeizeNew());
    GPUMIG_TRY(WaitUntilAllStopped());
    quiet_scans = new_count == 0 ? quiet_scans + 1 : 0;
    if (new_count != 0 && steady_clock::now() >= deadline_) return NotStopped();
  }
  if (!options_.kill_if_we_die) return Ok();
  for (const auto& [id, thread] : threads_) {
    if (Trace(PTRACE_SETOPTIONS, id, PTRACE_O_EXITKILL) == 0) continue;
    if (errno == ESRCH) return MakeError(ErrorCode::kNotFound, "process {} was killed", thread.process);
    return Error::FromErrno(errno, fmt::format("PTRACE_SETOPTIONS thread {}", id));
  }
  return Ok();
}

Result<void> Tracer::ReleaseAll() {
  std::optional<Error> first_error;
  // First the options of all: while one of a process has PTRACE_O_EXITKILL, our end is the end of that process.
  if (options_.kill_if_we_die) {
    for (const auto& [id, thread] : threads_) Trace(PTRACE_SETOPTIONS, id, 0);
  }
  for (const auto& [id, thread] : threads_) {
    if (Trace(PTRACE_DETACH, id, thread.caught_signal) == 0) continue;
    // ESRCH: it was killed; or it never stopped, and then the end of this thread, which follows, frees it.
    if (errno != ESRCH && !first_error)
      first_error = Error::FromErrno(errno, fmt::format("PTRACE_DETACH thread {}", id));
  }
  ReapDead();
  threads_.clear();
  if (first_error) return *first_error;
  return Ok();
}

void Tracer::ReapDead() {
  for (auto entry = threads_.begin(); entry != threads_.end();) {
    const bool died = NextEvent(entry->first, entry->second) == Event::kDied;
    entry = died ? threads_.erase(entry) : std::next(entry);
  }
}

}  // namespace

// The thread that traces, from the stop to the release.
class ThreadStop::Holder {
 public:
  Holder(std::span<const pid_t> processes, const Options& options)
      : tracer_(std::vector<pid_t>(processes.begin(), processes.end()), options) {
    // The thread inherits our signal mask: no handler of the program shall run in it.
    sigset_t all;
    sigset_t ours;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &ours);
    thread_ = std::thread([this] { Run(); });
    pthread_sigmask(SIG_SETMASK, &ours, nullptr);
  }
  ~Holder() {
    if (thread_.joinable()) static_cast<void>(Release());
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;

  Result<std::size_t> AwaitStop() { return stopped_.get_future().get(); }

  Result<void> Release() {
    if (!thread_.joinable()) return Ok();
    {
      const std::lock_guard lock(mutex_);
      release_wanted_ = true;
    }
    changed_.notify_all();
    thread_.join();
    return released_;
  }

 private:
  void Run() {
    const Result<void> stopped = tracer_.StopAll();
    if (!stopped) {
      static_cast<void>(tracer_.ReleaseAll());
      stopped_.set_value(stopped.error());
      return;
    }
    stopped_.set_value(tracer_.thread_count());
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, kReapInterval, [&] { return release_wanted_; })) tracer_.ReapDead();
    released_ = tracer_.ReleaseAll();
  }

  Tracer tracer_;  // used by thread_ alone
  std::promise<Result<std::size_t>> stopped_;
  Result<void> released_;  // written by thread_ before it ends, read after
  std::mutex mutex_;
  std::condition_variable changed_;
  bool release_wanted_ = false;  // guarded by mutex_
  std::thread thread_;
};

Result<ThreadStop> ThreadStop::Acquire(std::span<const pid_t> processes, const Options& options) {
  auto holder = std::make_unique<Holder>(processes, options);
  const std::size_t thread_count = GPUMIG_TRY(holder->AwaitStop());
  return ThreadStop(std::move(holder), thread_count);
}

ThreadStop::ThreadStop(std::unique_ptr<Holder> holder, std::size_t thread_count)
    : holder_(std::move(holder)), thread_count_(thread_count) {}
ThreadStop::ThreadStop(ThreadStop&&) noexcept = default;
ThreadStop& ThreadStop::operator=(ThreadStop&&) noexcept = default;
ThreadStop::~ThreadStop() = default;

Result<void> ThreadStop::Release() {
  if (!holder_) return Ok();
  return holder_->Release();
}

}  // namespace gpumig
