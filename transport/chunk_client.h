// Sends the chunks that a peer lacks, over several connections at once, and goes on after cuts.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "core/base/byte_buffer.h"
#include "core/base/result.h"
#include "transport/chunk_protocol.h"
#include "transport/http_client.h"
#include "transport/identity.h"
#include "transport/token_bucket.h"

namespace gpumig {

// The encoded bytes of chunk `index`, at most kMaxChunkBodyBytes. Called from several threads, and again for a chunk
// whose first copy got lost only if a later round finds it lacking.
using ReadEncodedChunk = std::function<Result<ByteBuffer>(std::size_t index)>;

// Told of each chunk's way through the link, from the thread that sends it.
class SendWatcher {
 public:
  virtual ~SendWatcher() = default;
  virtual void SendBegins(std::uint64_t bytes) = 0;
  // `cpu`: what it took this thread of processor time.
  virtual void SendEnds(std::uint64_t bytes, bool arrived, std::chrono::nanoseconds cpu) = 0;
};

struct SendOptions {
  std::size_t connection_count = 3;
  std::size_t encoder_count = 2;
  TokenBucket* bucket = nullptr;                            // of all connections together; borrowed; null: no limit
  std::chrono::milliseconds limit = std::chrono::hours(1);  // of the whole transfer
  std::chrono::milliseconds first_pause{100};               // before the second try, doubling
  std::chrono::milliseconds longest_pause = std::chrono::seconds(5);
  HttpClientOptions client{.slowest_bytes_per_second = 1024};
  SendWatcher* watcher = nullptr;  // borrowed; null: nobody watches
};

// For others to watch while SendChunks() runs.
struct SendProgress {
  std::atomic<std::uint64_t> chunk_count{0};   // different ones
  std::atomic<std::uint64_t> chunks_there{0};  // known to be at the peer
  std::atomic<std::uint64_t> bytes_sent{0};    // of chunks that arrived
  std::atomic<std::uint64_t> retry_count{0};
};

struct SendReport {
  std::uint64_t chunk_count = 0;  // different ones among those asked for
  std::uint64_t chunks_there_before = 0;
  std::uint64_t chunks_sent = 0;
  std::uint64_t retry_count = 0;  // requests that failed and were tried again
  std::uint64_t bytes_sent = 0;   // of chunks, those of requests that failed too
  std::chrono::milliseconds duration{0};
};

// Asks which of `digests` the peer lacks for this migration, sends those, and asks again until it lacks none. A request
// that fails for want of a connection is tried again until the limit: its sender first asks whether that chunk arrived
// all the same, so a cut costs at most the one chunk in flight on that connection. A chunk that arrives damaged is sent
// up to three times.
//
// Memory: at most (2 * connection_count + encoder_count) encoded chunks, and 40 bytes per digest.
// Errors: those of `encode` and of HttpClient::Send(); kDeadlineExceeded, the limit is over, with the last cause;
//     kCancelled; kIo, three copies of one chunk arrived damaged. What the peer has stays there for the next call.
Result<SendReport> SendChunks(const NodeAddress& peer, const NodeIdentity& identity, const std::string& migration_id,
                              std::span<const ChunkDigest> digests, const ReadEncodedChunk& encode,
                              const SendOptions& options = {}, std::stop_token stop = {},
                              SendProgress* progress = nullptr);

}  // namespace gpumig
