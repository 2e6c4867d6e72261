// HttpServer: serves a Router over mutual TLS 1.3 to other nodes, or over a unix socket to processes of this host.
//
// One thread accepts, shakes hands and reads heads, without ever blocking on a peer; a fixed number of workers read
// bodies, run handlers and write responses. So who has no valid certificate never occupies a worker, and no handler
// runs for it. Each connection has a deadline in each state. When all places are taken, the longest in its handshake
// gives way.
//
// Memory: at most worker_count bodies (each within its route's limit) and responses, and max_connections heads of 16
// KiB plus some 50 KiB of OpenSSL's per connection.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "core/base/result.h"
#include "transport/identity.h"
#include "transport/router.h"

namespace gpumig {

struct HttpServerOptions {
  std::size_t worker_count = 8;
  std::size_t max_connections = 128;
  std::size_t max_connections_per_node = 32;
  std::size_t max_requests_per_node =
      4;  // at once, in workers; more wait their turn. REQUIRES: < worker_count helps others
  std::chrono::milliseconds handshake_limit = std::chrono::seconds(10);
  std::chrono::milliseconds head_limit = std::chrono::seconds(10);        // from its first byte
  std::chrono::milliseconds keep_alive_limit = std::chrono::seconds(90);  // between requests
  std::chrono::milliseconds stall_limit = std::chrono::seconds(20);       // for a body or a response, plus its size at
  std::size_t slowest_bytes_per_second = 64 << 10;                        // this rate

  // Asked of each peer after its certificate held, before its first request: a list of nodes no longer trusted, say.
  // Its error is what the peer gets to each request. Runs in the accepting thread: must not block.
  std::function<Result<void>(const HttpPeer&)> admit;
  // Told of each connection that was refused, and why. Runs in the accepting thread: must not block.
  std::function<void(const std::string& address, const Error&)> on_refused;
};

struct HttpServerCounts {
  std::uint64_t connections_accepted = 0;
  std::uint64_t connections_refused = 0;  // before any handler: TLS, head, places
  std::uint64_t requests_handled = 0;
};

// Running from Start until Stop() or its destruction.
//
// Ownership: takes the router; owns its threads. The process ignores SIGPIPE from then on.
// Thread safety: any number of threads, but Stop() from one, and not from a handler.
class HttpServer {
 public:
  // `host` is a name or address of this host, `port` 0 takes a free one.
  // Errors: kUntrusted, the identity is not valid now; kAlreadyExists, the port is taken; kInvalidArgument, kIo.
  static Result<std::unique_ptr<HttpServer>> ListenTls(const std::string& host, std::uint16_t port,
                                                       const NodeIdentity& identity, Router router,
                                                       const HttpServerOptions& options = {});

  // Only root and the server's own user get an answer, whatever `mode` lets connect. A socket file that nobody serves
  // any more is replaced, and removed by Stop(). Errors: kAlreadyExists, somebody serves it; kInvalidArgument, kIo.
  static Result<std::unique_ptr<HttpServer>> ListenUnix(const std::filesystem::path& path, unsigned mode, Router router,
                                                        const HttpServerOptions& options = {});
  ~HttpServer();

  // The TCP port; 0 on a unix socket.
  std::uint16_t port() const;
  HttpServerCounts counts() const;

  // No new request begins; bodies half read are dropped, handlers that run are waited for, and their responses sent if
  // the peer takes them within a second.
  void Stop();

 private:
  class Poller;
  explicit HttpServer(std::unique_ptr<Poller> poller);

  std::unique_ptr<Poller> poller_;
};

}  // namespace gpumig
