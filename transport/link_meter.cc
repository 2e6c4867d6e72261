#include "transport/link_meter.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "transport/protocol.h"

namespace gpumig {
namespace {

constexpr std::size_t kRequestBytes = std::size_t{4} << 20;
constexpr const char* kPath = "/v1/discard";

using Clock = std::chrono::steady_clock;

std::vector<std::byte> RandomBytes() {
  std::mt19937_64 random(1);
  std::vector<std::byte> bytes(kRequestBytes);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// What all connections have in common.
struct Sending {
  std::span<const std::byte> bytes;
  std::atomic<std::uint64_t> bytes_left;
  Clock::time_point until;
  std::stop_token stop;
  std::atomic<std::uint64_t> bytes_sent{0};

  // Whether another request may go out; takes its bytes.
  bool Take() {
    std::uint64_t left = bytes_left;
    while (left >= bytes.size()) {
      if (bytes_left.compare_exchange_weak(left, left - bytes.size())) return true;
    }
    return false;
  }
};

Result<void> SendOn(HttpClient& client, Sending& sending) {
  do {
    if (sending.stop.stop_requested()) return MakeError(ErrorCode::kCancelled, "measuring the link was cancelled");
    if (!sending.Take()) return Ok();
    GPUMIG_TRY(client.Send("PUT", kPath, "application/octet-stream", sending.bytes, sending.stop));
    sending.bytes_sent += sending.bytes.size();
  } while (Clock::now() < sending.until);
  return Ok();
}

}  // namespace

std::uint64_t LinkMeasurement::bytes_per_second() const {
  const double seconds = std::chrono::duration<double>(duration).count();
  return seconds > 0 ? static_cast<std::uint64_t>(static_cast<double>(bytes) / seconds) : 0;
}

Result<LinkMeasurement> MeasureLink(const NodeAddress& peer, const NodeIdentity& identity,
                                    const LinkMeterOptions& options, std::stop_token stop) {
  GPUMIG_CHECK(options.connection_count > 0);
  std::vector<HttpClient> clients;
  for (std::size_t i = 0; i < options.connection_count; ++i) {
    clients.push_back(GPUMIG_TRY(HttpClient::ToNode(peer, identity, {.slowest_bytes_per_second = 1024})));
    // Connects.
    GPUMIG_TRY(clients.back().Send("PUT", kPath, "application/octet-stream", {}, stop), "measure the link to {}",
               peer.ToString());
  }
  const std::vector<std::byte> bytes = RandomBytes();
  Sending sending{.bytes = bytes,
                  .bytes_left = std::max<std::uint64_t>(options.most_bytes, kRequestBytes * options.connection_count),
                  .until = Clock::now() + options.span,
                  .stop = stop};
  std::mutex mutex;
  Result<void> failure = Ok();  // guarded by mutex
  const Clock::time_point begin = Clock::now();
  {
    std::vector<std::jthread> threads;
    for (HttpClient& client : clients) {
      threads.emplace_back([&] {
        Result<void> sent = SendOn(client, sending);
        const std::lock_guard lock(mutex);
        if (!sent && failure) failure = std::move(sent);
      });
    }
  }
  const Clock::duration taken = Clock::now() - begin;
  if (!failure)
    return Error(std::move(failure).error()).AddContext(fmt::format("measure the link to {}", peer.ToString()));
  return LinkMeasurement{.bytes = sending.bytes_sent,
                         .duration = std::chrono::duration_cast<std::chrono::microseconds>(taken),
                         .connection_count = options.connection_count};
}

void AddDiscardRoute(Router& router) {
  router.Add(
      "PUT", kPath, [](const HttpRequest&) -> Result<HttpResponse> { return HttpResponse(); }, kMaxChunkBodyBytes);
}

}  // namespace gpumig
