// ThreadStop: holds the threads of other processes still, save chosen ones, so that those can work in peace.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "core/base/result.h"

namespace gpumig {

// While one lives, no thread of `processes` takes a step, save `exempt_threads` and threads that these start.
//
// It holds them by ptrace, so it also holds them where the cgroup v2 freezer holds them first: stop, thaw the cgroup,
// and only the exempt ones run; freeze the cgroup, release, and none ever ran. (Version 1's freezer does not let ptrace
// in: the stop then runs out of time.) Threads that are stopped already (SIGSTOP) stay so after the release, and a
// signal caught on its way to a thread is delivered then. Blocking system calls go on where they were, save the few
// that a stop by SIGSTOP cuts short as well, with EINTR (epoll_wait, semop, sigtimedwait, sockets with a timeout; see
// signal(7)).
//
// A process killed meanwhile dies at once; its parent hears of it within kReapInterval.
//
// Ownership: move-only; destroying it releases. Thread safety: one thread at a time, any thread: the ptrace calls,
// which Linux wants all from one thread, are made by a thread of its own. Errors: kNotFound, a process is gone;
// kFailedPrecondition, a debugger holds a thread; kPermissionDenied;
//     kDeadlineExceeded, a thread did not stop, as it does not while it waits for a disk or for its vfork() child.
//     After an error all run as before.
class ThreadStop {
 public:
  static constexpr std::chrono::milliseconds kReapInterval{50};

  struct Options {
    std::vector<pid_t> exempt_threads{};      // thread ids, each of one of the processes
    std::chrono::milliseconds limit{10'000};  // for all together
    bool kill_if_we_die = false;              // where this process ends without a release, the kernel kills theirs
  };

  // `processes` are process ids in our pid namespace, none of them our own; their children are not included.
  // Errors: also kInvalidArgument, an exempt thread belongs to none of them.
  static Result<ThreadStop> Acquire(std::span<const pid_t> processes, const Options& options);

  ThreadStop(ThreadStop&&) noexcept;
  ThreadStop& operator=(ThreadStop&&) noexcept;
  ~ThreadStop();

  // How many threads are held.
  std::size_t thread_count() const { return thread_count_; }

  // All run on; none is held any more when it returns, also where it fails. Threads that died are no error. Later calls
  // do nothing.
  Result<void> Release();

 private:
  class Holder;
  ThreadStop(std::unique_ptr<Holder> holder, std::size_t thread_count);

  std::unique_ptr<Holder> holder_;
  std::size_t thread_count_;
};

}  // namespace gpumig
