#include "transport/message_client.h"

#include <utility>

#include "transport/protocol.h"

namespace gpumig {

Result<Json> CallWithMessage(HttpClient& client, const std::string& path, const Json& message, std::stop_token stop) {
  const std::string text = ToText(message);
  if (text.size() > kMaxMessageBodyBytes) {
    return MakeError(ErrorCode::kInvalidArgument, "a message to {} has {} bytes; at most {} can be sent", path,
                     text.size(), kMaxMessageBodyBytes);
  }
  const HttpReply reply =
      GPUMIG_TRY(client.Send("POST", path, "application/json", std::as_bytes(std::span(text)), std::move(stop)));
  return ParseJson(reply.body);
}

Result<Json> GetJson(HttpClient& client, const std::string& path, std::stop_token stop) {
  const HttpReply reply = GPUMIG_TRY(client.Send("GET", path, "application/json", {}, std::move(stop)));
  return ParseJson(reply.body);
}

void AddMessageRoute(Router& router, std::string_view pattern, MessageHandler handler) {
  router.Add(
      "POST", pattern,
      [handler = std::move(handler)](const HttpRequest& request) -> Result<HttpResponse> {
        const Result<Json> message = ParseJson(request.BodyText());
        if (!message || !message->is_object()) {
          return MakeError(ErrorCode::kInvalidArgument, "{}: the message is not a JSON object", request.path);
        }
        return HttpResponse::OfJson(GPUMIG_TRY(handler(*message, request)));
      },
      kMaxMessageBodyBytes);
}

}  // namespace gpumig
