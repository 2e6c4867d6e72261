// HttpClient: requests to one peer, over mutual TLS 1.3 to a node or over the unix socket of the local agent.
//
// The server must prove to be the node that was asked for; a certificate of the same authority that names another node
// is refused before a byte of the request goes out. Connections are kept and used again. A request with a body goes
// out once per Send(); where Send() fails, the peer may have served it all the same.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>

#include "core/base/result.h"
#include "transport/identity.h"

namespace gpumig {

struct HttpClientOptions {
  std::chrono::milliseconds connect_limit = std::chrono::seconds(10);  // TCP and TLS
  std::chrono::milliseconds total_limit = std::chrono::seconds(120);   // of one request
  // A request that moves less than this many bytes per second for so long has met a dead peer. 0: no such limit, for
  // requests whose answer takes long.
  std::size_t slowest_bytes_per_second = 0;
  std::chrono::seconds slow_limit = std::chrono::seconds(15);
  std::size_t max_reply_bytes = 16 << 20;
};

struct NodeAddress {
  std::string node;  // the name its certificate must carry
  std::string host;  // name or address
  std::uint16_t port = 0;

  std::string ToString() const;  // "node-b at 10.0.0.2:7443"
};

struct HttpReply {
  int status = 0;
  std::string body;
};

// Thread safety: one thread at a time. The process ignores SIGPIPE once there is one.
// Errors of Send(): kUnavailable, cannot reach it, or it went away: another try may help; kDeadlineExceeded;
// kCancelled;
//     kUntrusted, a certificate does not hold: whose, why and what to do is said; else what the peer answered, as its
//     own code, message and next step.
class HttpClient {
 public:
  // Errors: kInvalidArgument, the name or the host makes no sense.
  static Result<HttpClient> ToNode(const NodeAddress& address, const NodeIdentity& identity,
                                   const HttpClientOptions& options = {});
  static Result<HttpClient> ToUnixSocket(const std::filesystem::path& path, const HttpClientOptions& options = {});
  HttpClient(HttpClient&&) noexcept;
  HttpClient& operator=(HttpClient&&) noexcept;
  ~HttpClient();

  // `target` is the path with its query, already escaped.
  Result<HttpReply> Send(std::string_view method, const std::string& target, std::string_view content_type,
                         std::span<const std::byte> body, std::stop_token stop = {});

  // For the requests to come: all of one must be over within `limit`.
  void set_total_limit(std::chrono::milliseconds limit);

  // Bytes of bodies that went out, whole or not, and connections made, since the start.
  std::uint64_t bytes_sent() const;
  std::uint64_t connection_count() const;

 private:
  class Transfer;
  explicit HttpClient(std::unique_ptr<Transfer> transfer);

  std::unique_ptr<Transfer> transfer_;
};

}  // namespace gpumig
