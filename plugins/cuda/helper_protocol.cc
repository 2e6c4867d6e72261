#include "plugins/cuda/helper_protocol.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace gpumig {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::array kCodes = {ErrorCode::kInvalidArgument,
                               ErrorCode::kNotFound,
                               ErrorCode::kAlreadyExists,
                               ErrorCode::kFailedPrecondition,
                               ErrorCode::kUnsupported,
                               ErrorCode::kPermissionDenied,
                               ErrorCode::kDeadlineExceeded,
                               ErrorCode::kCancelled,
                               ErrorCode::kUnavailable,
                               ErrorCode::kResourceExhausted,
                               ErrorCode::kNoSpace,
                               ErrorCode::kIo,
                               ErrorCode::kDamaged,
                               ErrorCode::kUntrusted,
                               ErrorCode::kLost,
                               ErrorCode::kInternal};

Error Gone() { return MakeError(ErrorCode::kUnavailable, "the other end of the GPU helper's socket is closed"); }

}  // namespace

Result<void> SendHelperMessage(int socket, const Json& message) {
  const std::string text = ToText(message);
  if (text.size() > kMaxHelperMessageBytes)
    return MakeError(ErrorCode::kInternal, "a message of {} bytes", text.size());
  ssize_t sent = 0;
  do {
    sent = send(socket, text.data(), text.size(), MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent == static_cast<ssize_t>(text.size())) return Ok();
  return Gone();
}

Result<Json> ReceiveHelperMessage(int socket, std::optional<steady_clock::time_point> deadline) {
  for (;;) {
    int wait_ms = -1;
    if (deadline) {
      const auto left = std::chrono::ceil<milliseconds>(*deadline - steady_clock::now()).count();
      wait_ms = static_cast<int>(std::clamp<std::int64_t>(left, 0, 3'600'000));
    }
    pollfd ready{socket, POLLIN, 0};
    const int count = poll(&ready, 1, wait_ms);
    if (count < 0 && errno == EINTR) continue;
    if (count == 0 && deadline && steady_clock::now() < *deadline) continue;
    if (count == 0) return MakeError(ErrorCode::kDeadlineExceeded, "the GPU helper gave no answer in time");
    break;
  }
  std::string text(kMaxHelperMessageBytes, '\0');
  ssize_t received = 0;
  do {
    received = recv(socket, text.data(), text.size(), 0);
  } while (received < 0 && errno == EINTR);
  if (received <= 0) return Gone();
  text.resize(static_cast<std::size_t>(received));
  Json message = GPUMIG_TRY(ParseJson(text), "message of the GPU helper");
  if (!message.is_object()) return MakeError(ErrorCode::kDamaged, "message of the GPU helper: not an object");
  return message;
}

std::string HelperIdentity(const std::string& library, const std::string& software_library) {
  constexpr int kFormatVersion = 1;
  std::error_code error;
  Json identity = {{"version", kFormatVersion},
                   {"library", library},
                   {"software_library", software_library},
                   {"pids", std::filesystem::read_symlink("/proc/self/ns/pid", error).string()}};
  for (const char* name : {"GPUMIG_LIBCUDA", "LD_LIBRARY_PATH", "SOFTGPU_SOCKET", "CUDA_VISIBLE_DEVICES"}) {
    const char* value = std::getenv(name);
    identity[name] = value != nullptr ? value : "";
  }
  return ToText(identity);
}

Json HelperOk() { return {{"ok", true}}; }

Json HelperFailure(const Error& error) {
  return {{"ok", false},
          {"code", ErrorCodeName(error.code())},
          {"message", error.message()},
          {"next_step", error.next_step()}};
}

Result<void> CheckHelperAnswer(const Json& answer) {
  if (GPUMIG_TRY(BoolMember(answer, "ok"), "answer of the GPU helper")) return Ok();
  const std::string name = GPUMIG_TRY(StringMember(answer, "code"), "answer of the GPU helper");
  const auto code = std::ranges::find(kCodes, name, ErrorCodeName);
  return Error(code == kCodes.end() ? ErrorCode::kInternal : *code, GPUMIG_TRY(StringMember(answer, "message")))
      .WithNextStep(GPUMIG_TRY(StringMember(answer, "next_step")));
}

}  // namespace gpumig
