#include "core/base/error.h"

#include <cerrno>
#include <cstring>

namespace gpumig {
namespace {

ErrorCode CodeOf(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return ErrorCode::kNoSpace;
    case EPERM:
    case EACCES:
      return ErrorCode::kPermissionDenied;
    case ENOENT:
    case ESRCH:
      return ErrorCode::kNotFound;
    case EEXIST:
      return ErrorCode::kAlreadyExists;
    case ENOMEM:
      return ErrorCode::kResourceExhausted;
    default:
      return ErrorCode::kIo;
  }
}

}  // namespace

std::string_view ErrorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid_argument";
    case ErrorCode::kNotFound:
      return "not_found";
    case ErrorCode::kAlreadyExists:
      return "already_exists";
    case ErrorCode::kFailedPrecondition:
      return "failed_precondition";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kPermissionDenied:
      return "permission_denied";
    case ErrorCode::kDeadlineExceeded:
      return "deadline_exceeded";
    case ErrorCode::kCancelled:
      return "cancelled";
    case ErrorCode::kUnavailable:
      return "unavailable";
    case ErrorCode::kResourceExhausted:
      return "resource_exhausted";
    case ErrorCode::kNoSpace:
      return "no_space";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kDamaged:
      return "damaged";
    case ErrorCode::kUntrusted:
      return "untrusted";
    case ErrorCode::kLost:
      return "lost";
    case ErrorCode::kInternal:
      return "internal";
  }
  return "internal";
}

Error Error::FromErrno(int error_number, std::string_view what) {
  return Error(CodeOf(error_number), fmt::format("{}: {} (errno {})", what, std::strerror(error_number), error_number));
}

Error& Error::AddContext(std::string_view context) {
  if (!context.empty()) message_ = fmt::format("{}: {}", context, message_);
  return *this;
}

}  // namespace gpumig
