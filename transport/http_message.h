// What travels between nodes: requests, responses, and how an Error crosses the wire and stays the same Error.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/byte_buffer.h"
#include "core/base/json.h"
#include "core/base/result.h"

namespace gpumig {

// Who sent a request: a node whose certificate was checked, or a process of this host on the unix socket.
struct HttpPeer {
  std::string node;                    // empty for a local process
  std::string address;                 // for messages: "10.0.0.1:51522", "unix socket"
  std::string serial_number;           // of the node's certificate
  uid_t uid = static_cast<uid_t>(-1);  // of the local process
  pid_t pid = -1;

  bool is_local() const { return node.empty(); }
  std::string ToString() const;  // "node-a (10.0.0.1:51522)", "pid 812 of uid 0"
};

struct HttpRequest {
  std::string method;
  std::string path;
  std::map<std::string, std::string, std::less<>> parameters;  // of the path, as the route names them
  std::multimap<std::string, std::string> query;
  ByteBuffer body;
  HttpPeer peer;
  std::stop_token stop;  // of the server: a handler that takes long must end soon after

  std::string_view BodyText() const { return {reinterpret_cast<const char*>(body.data()), body.size()}; }
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/octet-stream";
  std::string body;

  static HttpResponse OfJson(const Json& json) { return {200, "application/json", ToText(json)}; }
  static HttpResponse OfBytes(std::span<const std::byte> bytes) {
    return {200, "application/octet-stream", std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())};
  }
};

// Runs in a thread of the server, several at once. An Error becomes an error response.
using HttpHandler = std::function<Result<HttpResponse>(const HttpRequest&)>;

// Format: {"code": "not_found", "message": "...", "next_step": "..."}, with an HTTP status that matches the code.
HttpResponse ToHttpResponse(const Error& error);
int HttpStatusOf(ErrorCode code);

// The Error that a response of status 400 and above carries. The peer's texts are cut to 4 KiB each and control
// characters in them replaced, for they will reach a terminal. A body that is no error of ours gives kInternal.
Error ErrorOf(int status, std::string_view body);

std::optional<ErrorCode> ErrorCodeOfName(std::string_view name);

}  // namespace gpumig
