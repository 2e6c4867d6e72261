// HttpExchange: one request and its response over a Connection. The HTTP is cpp-httplib's; sockets, TLS, time and size
// limits are ours. For HttpServer's own use.
//
// httplib's own server is not used: it waits with select() on descriptors below 1024 only, accepts sockets that
// children inherit, gives a peer as long as it likes for a handshake or a head, and takes heads and chunked bodies of
// any size. Source: httplib.h 0.11.4, Server::listen_internal, read_headers, read_content_chunked.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <stop_token>

#include "transport/connection.h"
#include "transport/router.h"

namespace gpumig {

inline constexpr std::size_t kMaxRequestsPerConnection = 1'000'000;

struct ExchangeLimits {
  std::chrono::milliseconds keep_alive;  // told to the peer
  std::chrono::milliseconds stall;       // to read a body or write a response: this long,
  std::size_t slowest_bytes_per_second;  // and as long again as its size takes at this rate
};

// Thread safety: one thread at a time; each worker has its own.
class HttpExchange {
 public:
  enum class Outcome { kKeepConnection, kCloseConnection };

  // Ownership: borrows `router`, which must outlive it.
  HttpExchange(const Router& router, ExchangeLimits limits, std::stop_token stop);
  ~HttpExchange();

  // REQUIRES: connection.state() == kHeadComplete
  Outcome Run(Connection& connection, bool last_on_connection);

 private:
  class Engine;
  std::unique_ptr<Engine> engine_;
};

}  // namespace gpumig
