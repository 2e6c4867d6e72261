#include "transport/http_message.h"

#include <algorithm>

namespace gpumig {
namespace {

constexpr std::size_t kMaxErrorTextBytes = 4096;

std::string Printable(std::string text) {
  if (text.size() > kMaxErrorTextBytes) text.resize(kMaxErrorTextBytes);
  std::ranges::replace_if(
      text, [](char c) { return (static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == 0x7f; }, '?');
  return text;
}

}  // namespace

std::string HttpPeer::ToString() const {
  if (!is_local()) return fmt::format("{} ({})", node, address);
  return fmt::format("pid {} of uid {}", pid, uid);
}

int HttpStatusOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return 400;
    case ErrorCode::kPermissionDenied:
    case ErrorCode::kUntrusted:
      return 403;
    case ErrorCode::kNotFound:
      return 404;
    case ErrorCode::kAlreadyExists:
    case ErrorCode::kFailedPrecondition:
    case ErrorCode::kCancelled:
      return 409;
    case ErrorCode::kLost:
      return 410;
    case ErrorCode::kDamaged:
      return 422;
    case ErrorCode::kResourceExhausted:
      return 429;
    case ErrorCode::kIo:
    case ErrorCode::kInternal:
      return 500;
    case ErrorCode::kUnsupported:
      return 501;
    case ErrorCode::kUnavailable:
      return 503;
    case ErrorCode::kDeadlineExceeded:
      return 504;
    case ErrorCode::kNoSpace:
      return 507;
  }
  return 500;
}

std::optional<ErrorCode> ErrorCodeOfName(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(ErrorCode::kInternal); ++i) {
    const auto code = static_cast<ErrorCode>(i);
    if (ErrorCodeName(code) == name) return code;
  }
  return std::nullopt;
}

HttpResponse ToHttpResponse(const Error& error) {
  HttpResponse response = HttpResponse::OfJson(
      Json{{"code", ErrorCodeName(error.code())}, {"message", error.message()}, {"next_step", error.next_step()}});
  response.status = HttpStatusOf(error.code());
  return response;
}

Error ErrorOf(int status, std::string_view body) {
  struct Parts {
    ErrorCode code;
    std::string message;
    std::string next_step;
  };
  const auto parse = [&]() -> Result<Parts> {
    const Json json = GPUMIG_TRY(ParseJson(body));
    const std::optional<ErrorCode> code = ErrorCodeOfName(GPUMIG_TRY(StringMember(json, "code")));
    if (!code) return MakeError(ErrorCode::kDamaged, "unknown error code");
    std::string message = GPUMIG_TRY(StringMember(json, "message"));
    std::string next_step = GPUMIG_TRY(StringMember(json, "next_step"));
    return Parts{*code, Printable(std::move(message)), Printable(std::move(next_step))};
  };
  Result<Parts> parts = parse();
  if (parts) return Error(parts->code, std::move(parts->message)).WithNextStep(std::move(parts->next_step));
  return MakeError(ErrorCode::kInternal, "answered with HTTP status {} and no error that gpumig knows", status);
}

}  // namespace gpumig
