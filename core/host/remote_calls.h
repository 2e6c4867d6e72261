// RemoteCalls: lets a thread of another process make system calls, and go on as if nothing had happened.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>

#include "core/base/result.h"

namespace gpumig {

// Makes the call in the other process and gives what the kernel gave: a negative errno where it failed.
// Errors: kNotFound, the process has ended; kDeadlineExceeded.
using RemoteCall = std::function<Result<std::int64_t>(long number, const std::array<std::uint64_t, 6>& arguments)>;

// Holds one thread of `pid` by ptrace, runs `work`, and lets it go on: its registers, its signal mask and a system call
// that it waited in are as before. For some tenths of a millisecond the thread stands where we put it: were we killed
// with SIGKILL just then, it would go on from there, and die.
//
// Errors: kUnsupported, it cannot be asked now (another debugger, seccomp, stopped or frozen, no vDSO, a processor
// other than x86-64); kNotFound, it has ended; kDeadlineExceeded, it did not answer within `limit`; those of `work`.
Result<void> WithRemoteCalls(pid_t pid, std::chrono::milliseconds limit,
                             const std::function<Result<void>(const RemoteCall& call)>& work);

}  // namespace gpumig
