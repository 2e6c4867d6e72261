#include "transport/chunk_client.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "core/base/bounded_queue.h"
#include "core/base/bytes.h"
#include "core/base/thread_time.h"
#include "core/base/worker_group.h"
#include "transport/token_bucket.h"

namespace gpumig {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxDamagedCopies = 3;
constexpr int kMaxRounds = 5;
// Asked about at once. A peer may fetch what it is asked for from a cache before it answers, so an answer must not
// stand for more than it can fetch in some seconds; and what is lacking of it is sent while the next is asked.
constexpr std::size_t kDigestsPerQuestion = 128;
static_assert(kDigestsPerQuestion <= kMaxDigestsPerRequest);

bool MayPass(ErrorCode code) {
  return code == ErrorCode::kUnavailable || code == ErrorCode::kDeadlineExceeded || code == ErrorCode::kDamaged;
}

struct EncodedChunk {
  std::size_t index;
  ByteBuffer bytes;
};

class ChunkSender {
 public:
  ChunkSender(const NodeAddress& peer, const NodeIdentity& identity, const std::string& migration_id,
              std::span<const ChunkDigest> digests, const ReadEncodedChunk& encode, const SendOptions& options,
              SendProgress& progress)
      : peer_(peer),
        identity_(identity),
        base_("/v1/migrations/" + migration_id),
        digests_(digests),
        encode_(encode),
        options_(options),
        progress_(progress),
        begin_(Clock::now()),
        deadline_(begin_ + options.limit) {}

  Result<SendReport> Run(const std::stop_token& stop) {
    HttpClient client = GPUMIG_TRY(HttpClient::ToNode(peer_, identity_, options_.client));
    std::vector<std::size_t> lacking = DifferentOnes();
    SendReport report;
    report.chunk_count = lacking.size();
    progress_.chunk_count = lacking.size();
    for (int round = 0;; ++round) {
      if (lacking.empty()) break;
      progress_.chunks_there = report.chunk_count - lacking.size();
      if (round == kMaxRounds) {
        lacking = GPUMIG_TRY(LackingOf(client, lacking, stop, [](std::size_t) { return true; }));
        if (lacking.empty()) break;
        return MakeError(ErrorCode::kInternal, "{} took {} chunks {} times and lacks them still", peer_.ToString(),
                         lacking.size(), kMaxRounds);
      }
      lacking = GPUMIG_TRY(SendRound(client, lacking, stop));
      if (round == 0) report.chunks_there_before = report.chunk_count - lacking.size();
    }
    report.chunks_sent = sent_count_;
    report.retry_count = progress_.retry_count;
    report.bytes_sent = body_bytes_sent_;
    report.duration = std::chrono::ceil<std::chrono::milliseconds>(Clock::now() - begin_);
    return report;
  }

 private:
  // Two chunks of equal bytes are one.
  std::vector<std::size_t> DifferentOnes() const {
    std::vector<std::size_t> indexes(digests_.size());
    for (std::size_t i = 0; i < indexes.size(); ++i) indexes[i] = i;
    const auto by_digest = [this](std::size_t i) -> const ChunkDigest& { return digests_[i]; };
    std::ranges::stable_sort(indexes, {}, by_digest);
    const auto rest = std::ranges::unique(indexes, {}, by_digest);
    indexes.erase(rest.begin(), rest.end());
    std::ranges::sort(indexes);  // in the caller's order, which may be that of a disk
    return indexes;
  }

  // Those of `indexes` that are lacking; each is given to `found` as soon as that is known, until that says no.
  Result<std::vector<std::size_t>> LackingOf(HttpClient& client, const std::vector<std::size_t>& indexes,
                                             const std::stop_token& stop,
                                             const std::function<bool(std::size_t)>& found) {
    std::vector<std::size_t> lacking;
    for (std::size_t begin = 0; begin < indexes.size(); begin += kDigestsPerQuestion) {
      const auto batch = std::span(indexes).subspan(begin, std::min(kDigestsPerQuestion, indexes.size() - begin));
      std::vector<bool> bits;
      const auto ask = [&]() -> Result<void> {
        bits = GPUMIG_TRY(AskLacking(client, batch, stop));
        return Ok();
      };
      GPUMIG_TRY(UntilItPasses(ask, stop));
      for (std::size_t i = 0; i < batch.size(); ++i) {
        if (!bits[i]) {
          ++progress_.chunks_there;
          continue;
        }
        lacking.push_back(batch[i]);
        if (!found(batch[i])) return lacking;
      }
    }
    return lacking;
  }

  Result<std::vector<bool>> AskLacking(HttpClient& client, std::span<const std::size_t> batch,
                                       const std::stop_token& stop) {
    std::vector<ChunkDigest> wanted;
    for (const std::size_t index : batch) wanted.push_back(digests_[index]);
    SetLimit(client);
    const HttpReply reply =
        GPUMIG_TRY(client.Send("POST", base_ + "/lacking", "application/octet-stream", EncodeDigests(wanted), stop),
                   "ask which of {} chunks are lacking", wanted.size());
    return DecodeBitmap(reply.body, wanted.size());
  }

  // asker -> [lacking] -> encoders -> [encoded] -> senders. One encoded chunk per sender waits, so that none idles
  // while another is encoded. Gives those of `indexes` that were lacking.
  Result<std::vector<std::size_t>> SendRound(HttpClient& client, const std::vector<std::size_t>& indexes,
                                             const std::stop_token& stop) {
    BoundedQueue<std::size_t> lacking(2 * kDigestsPerQuestion);
    BoundedQueue<EncodedChunk> encoded(options_.connection_count);
    std::atomic<std::size_t> encoders_left{options_.encoder_count};
    std::vector<std::size_t> were_lacking;
    WorkerGroup workers;
    const std::stop_callback stop_workers(stop, [&] { workers.RequestStop(); });
    workers.Start([&](const std::stop_token& group_stop) -> Result<void> {
      const auto found = [&](std::size_t index) { return lacking.Push(index, group_stop); };
      Result<std::vector<std::size_t>> asked = LackingOf(client, indexes, group_stop, found);
      lacking.Close();
      if (!asked) return asked.error();
      were_lacking = *std::move(asked);
      return Ok();
    });
    for (std::size_t i = 0; i < options_.encoder_count; ++i) {
      workers.Start([&](const std::stop_token& group_stop) -> Result<void> {
        Result<void> done = EncodeAll(lacking, encoded, group_stop);
        if (--encoders_left == 0) encoded.Close();
        return done;
      });
    }
    for (std::size_t i = 0; i < options_.connection_count; ++i) {
      workers.Start([&](const std::stop_token& group_stop) { return SendAll(encoded, group_stop); });
    }
    Result<void> joined = workers.Join();
    if (stop.stop_requested())
      return MakeError(ErrorCode::kCancelled, "send chunks to {}: cancelled", peer_.ToString());
    if (!joined) return joined.error();
    return were_lacking;
  }

  Result<void> EncodeAll(BoundedQueue<std::size_t>& lacking, BoundedQueue<EncodedChunk>& encoded,
                         const std::stop_token& stop) {
    while (const std::optional<std::size_t> index = lacking.Pop(stop)) {
      ByteBuffer bytes = GPUMIG_TRY(encode_(*index), "encode chunk {}", NameOf(*index));
      if (bytes.size() > kMaxChunkBodyBytes) {
        return MakeError(ErrorCode::kInvalidArgument, "chunk {} has {} bytes encoded; at most {} can be sent",
                         NameOf(*index), bytes.size(), kMaxChunkBodyBytes);
      }
      if (!encoded.Push({*index, std::move(bytes)}, stop)) break;
    }
    return Ok();
  }

  Result<void> SendAll(BoundedQueue<EncodedChunk>& encoded, const std::stop_token& stop) {
    HttpClient client = GPUMIG_TRY(HttpClient::ToNode(peer_, identity_, options_.client));
    while (std::optional<EncodedChunk> chunk = encoded.Pop(stop)) {
      Result<void> sent = SendOne(client, *chunk, stop);
      if (!sent) {
        body_bytes_sent_ += client.bytes_sent();
        return sent;
      }
      ++progress_.chunks_there;
    }
    body_bytes_sent_ += client.bytes_sent();
    return Ok();
  }

  Result<void> SendOne(HttpClient& client, const EncodedChunk& chunk, const std::stop_token& stop) {
    bool tried = false;
    int damaged_count = 0;
    return UntilItPasses(
        [&]() -> Result<void> {
          // The last try may have arrived although its answer did not.
          if (std::exchange(tried, true)) {
            const std::array<std::size_t, 1> one{chunk.index};
            const std::vector<bool> lacking = GPUMIG_TRY(AskLacking(client, one, stop));
            if (!lacking[0]) return Ok();
          }
          if (options_.bucket != nullptr && !options_.bucket->Take(chunk.bytes.size(), deadline_, stop))
            return OutOfTimeOrCancelled(stop);
          SetLimit(client);
          Result<HttpReply> reply = SendWatched(client, chunk, stop);
          if (reply) {
            ++sent_count_;
            progress_.bytes_sent += chunk.bytes.size();
            return Ok();
          }
          if (reply.error().code() == ErrorCode::kDamaged && ++damaged_count == kMaxDamagedCopies) {
            return MakeError(ErrorCode::kIo, "{} copies of chunk {} arrived damaged at {}; the last: {}",
                             kMaxDamagedCopies, NameOf(chunk.index), peer_.ToString(), reply.error().message())
                .WithNextStep("check memory and disks of both hosts: one of them, or the link, corrupts data");
          }
          return reply.error();
        },
        stop);
  }

  Result<HttpReply> SendWatched(HttpClient& client, const EncodedChunk& chunk, const std::stop_token& stop) {
    const std::chrono::nanoseconds cpu_before = CpuTimeOfThisThread();
    if (options_.watcher != nullptr) options_.watcher->SendBegins(chunk.bytes.size());
    Result<HttpReply> reply = client.Send("PUT", base_ + "/chunks/" + ToHex(digests_[chunk.index]),
                                          "application/octet-stream", chunk.bytes, stop);
    if (options_.watcher != nullptr) {
      options_.watcher->SendEnds(chunk.bytes.size(), reply.has_value(), CpuTimeOfThisThread() - cpu_before);
    }
    return reply;
  }

  // Runs `attempt` again, after a growing pause, while it fails for a reason that may pass and there is time.
  Result<void> UntilItPasses(const std::function<Result<void>()>& attempt, const std::stop_token& stop) {
    std::chrono::milliseconds pause = options_.first_pause;
    while (true) {
      Result<void> done = attempt();
      if (done || !MayPass(done.error().code())) return done;
      if (Clock::now() + pause >= deadline_) {
        return MakeError(ErrorCode::kDeadlineExceeded, "send chunks to {}: {} of {} are there after {} s: {}",
                         peer_.ToString(), progress_.chunks_there.load(), progress_.chunk_count.load(),
                         std::chrono::floor<std::chrono::seconds>(Clock::now() - begin_).count(),
                         done.error().message())
            .WithNextStep(done.error().next_step());
      }
      ++progress_.retry_count;
      if (!SleepUntil(Clock::now() + pause, stop)) return OutOfTimeOrCancelled(stop);
      pause = std::min(2 * pause, options_.longest_pause);
    }
  }

  Error OutOfTimeOrCancelled(const std::stop_token& stop) const {
    if (stop.stop_requested())
      return MakeError(ErrorCode::kCancelled, "send chunks to {}: cancelled", peer_.ToString());
    return MakeError(ErrorCode::kDeadlineExceeded, "the bandwidth limit leaves no time");
  }

  void SetLimit(HttpClient& client) const {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline_ - Clock::now());
    client.set_total_limit(std::min(left, options_.client.total_limit));
  }

  std::string NameOf(std::size_t index) const { return ToHex(digests_[index]).substr(0, 8); }

  const NodeAddress& peer_;
  const NodeIdentity& identity_;
  const std::string base_;
  const std::span<const ChunkDigest> digests_;
  const ReadEncodedChunk& encode_;
  const SendOptions& options_;
  SendProgress& progress_;
  const Clock::time_point begin_;
  const Clock::time_point deadline_;
  std::atomic<std::uint64_t> sent_count_{0};
  std::atomic<std::uint64_t> body_bytes_sent_{0};
};

}  // namespace

Result<SendReport> SendChunks(const NodeAddress& peer, const NodeIdentity& identity, const std::string& migration_id,
                              std::span<const ChunkDigest> digests, const ReadEncodedChunk& encode,
                              const SendOptions& options, std::stop_token stop, SendProgress* progress) {
  GPUMIG_TRY(CheckMigrationId(migration_id));
  if (options.connection_count == 0 || options.encoder_count == 0) {
    return MakeError(ErrorCode::kInvalidArgument, "sending chunks takes a connection and an encoder at least");
  }
  SendProgress unwatched;
  ChunkSender sender(peer, identity, migration_id, digests, encode, options,
                     progress != nullptr ? *progress : unwatched);
  return sender.Run(stop);
}

}  // namespace gpumig
