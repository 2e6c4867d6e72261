// How fast bytes get from this node to another over the way that chunks take: the same connections, TLS, requests and
// server.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <stop_token>

#include "core/base/result.h"
#include "transport/http_client.h"
#include "transport/identity.h"
#include "transport/router.h"

namespace gpumig {

struct LinkMeterOptions {
  std::size_t connection_count = 4;
  std::chrono::milliseconds span = std::chrono::seconds(1);
  std::uint64_t most_bytes = std::uint64_t{4} << 30;  // of all connections together, whatever the span
};

struct LinkMeasurement {
  std::uint64_t bytes = 0;
  std::chrono::microseconds duration{0};
  std::size_t connection_count = 0;

  std::uint64_t bytes_per_second() const;
};

// Random bytes, which no link makes smaller. At least one request of 4 MiB on each connection, so that a slow link
// takes longer than `span`. The time to connect does not count.
//
// Errors: those of HttpClient::Send(); kCancelled. REQUIRES: connection_count > 0
Result<LinkMeasurement> MeasureLink(const NodeAddress& peer, const NodeIdentity& identity,
                                    const LinkMeterOptions& options = {}, std::stop_token stop = {});

// Adds PUT /v1/discard: takes up to kMaxChunkBodyBytes and forgets them. Whoever may ask this server for anything may
// ask for this; the server's limits for each node hold for it too.
void AddDiscardRoute(Router& router);

}  // namespace gpumig
