// Messages: one JSON object there, one JSON object back. What they mean is not this layer's matter.
//
// A call that fails may have been served all the same, and its caller will repeat it: receivers must take each message
// as often as it comes.
#pragma once

#include <functional>
#include <stop_token>
#include <string>

#include "core/base/json.h"
#include "core/base/result.h"
#include "transport/http_client.h"
#include "transport/router.h"

namespace gpumig {

// Errors: those of HttpClient::Send(), with the receiver's own code, message and next step where it answered with an
//     error; kInvalidArgument, the message is above kMaxMessageBodyBytes; kDamaged, the reply is not JSON.
Result<Json> CallWithMessage(HttpClient& client, const std::string& path, const Json& message,
                             std::stop_token stop = {});

// Also for requests without a message: GET.
Result<Json> GetJson(HttpClient& client, const std::string& path, std::stop_token stop = {});

using MessageHandler = std::function<Result<Json>(const Json& message, const HttpRequest& request)>;

// Adds POST `pattern`. The handler gets a JSON object; anything else is refused with kInvalidArgument.
void AddMessageRoute(Router& router, std::string_view pattern, MessageHandler handler);

}  // namespace gpumig
