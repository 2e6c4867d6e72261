// Error: why something that a correct program must expect did not happen.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

namespace gpumig {

// What a caller can do about it. The text of an Error is for people; code branches on these only.
enum class ErrorCode {
  kInvalidArgument,     // the request makes no sense; asking again will not help
  kNotFound,            // no such process, file, workload, node
  kAlreadyExists,       // the name, directory or migration is taken
  kFailedPrecondition,  // right request, wrong moment or state
  kUnsupported,         // this host, driver or CRIU cannot do it, now or later
  kPermissionDenied,    // root, a capability or a policy is missing
  kDeadlineExceeded,    // the time given ran out; what was begun has been undone
  kCancelled,           // somebody asked to stop
  kUnavailable,         // the peer or server cannot be reached now; trying again may help
  kResourceExhausted,   // memory, device memory or a quota is too small
  kNoSpace,             // the disk is full
  kIo,                  // the system refused a read or write
  kDamaged,             // bytes are not what was written: truncated, flipped, inconsistent
  kUntrusted,           // certificate or signature does not hold
  kLost,                // it can neither run on nor be captured
  kInternal,            // a bug of ours or of a program that we drive
};

std::string_view ErrorCodeName(ErrorCode code);

// A code, a message that reads from what was asked to what the system said, and, where one is known, the next step:
// what state things are in and what the user can do.
class Error {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}

  // From errno, right after the call: kNoSpace for ENOSPC and EDQUOT, kPermissionDenied for EPERM and EACCES, kNotFound
  // for ENOENT and ESRCH, kAlreadyExists for EEXIST, kResourceExhausted for ENOMEM, else kIo.
  static Error FromErrno(int error_number, std::string_view what);

  ErrorCode code() const { return code_; }
  const std::string& message() const { return message_; }
  const std::string& next_step() const { return next_step_; }

  Error& WithNextStep(std::string next_step) & {
    next_step_ = std::move(next_step);
    return *this;
  }
  Error&& WithNextStep(std::string next_step) && {
    next_step_ = std::move(next_step);
    return std::move(*this);
  }

  // Puts "context: " before the message: what the layer above was doing.
  Error& AddContext(std::string_view context);

 private:
  ErrorCode code_;
  std::string message_;
  std::string next_step_;
};

template <typename... Args>
Error MakeError(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace gpumig
