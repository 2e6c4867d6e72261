// Chunks over real TLS, with a proxy in between that cuts.
#include <algorithm>
#include <array>
#include <condition_variable>
#include <random>
#include <set>
#include <thread>

#include "core/base/bytes.h"
#include "tests/transport/cut_proxy.h"
#include "tests/transport/test_site.h"
#include "transport/chunk_client.h"
#include "transport/chunk_service.h"
#include "transport/token_bucket.h"

namespace gpumig {
namespace {

// Keeps chunks in memory, checks them, counts what arrives, and can fail or corrupt on demand.
class MemorySink : public ChunkSink {
 public:
  Result<std::vector<bool>> Lacks(std::span<const ChunkDigest> digests) override {
    std::unique_lock lock(mutex_);
    if (++lacks_count_ == patient_question_)
      chunk_came_ = put_.wait_for(lock, std::chrono::seconds(60), [&] { return put_count_ > 0; });
    std::vector<bool> lacking;
    for (const ChunkDigest& digest : digests) lacking.push_back(!chunks_.contains(digest));
    return lacking;
  }

  Result<void> Put(const ChunkDigest& digest, std::span<const std::byte> encoded) override {
    const std::lock_guard lock(mutex_);
    ++put_count_;
    put_.notify_all();
    if (fail_with_) return *fail_with_;
    if (damage_next_ > 0) {
      --damage_next_;
      return MakeError(ErrorCode::kDamaged, "it is not what its name says");
    }
    if (encoded.empty() || encoded[0] != digest[0])
      return MakeError(ErrorCode::kDamaged, "it is not what its name says");
    chunks_[digest] = {encoded.begin(), encoded.end()};
    return Ok();
  }

  void FailWith(Error error) {
    const std::lock_guard lock(mutex_);
    fail_with_ = std::move(error);
  }
  // That question is answered only once a chunk came.
  void WaitForAChunkAtQuestion(int number) {
    const std::lock_guard lock(mutex_);
    patient_question_ = number;
  }
  bool chunk_came() {
    const std::lock_guard lock(mutex_);
    return chunk_came_;
  }
  void DamageNext(int count) {
    const std::lock_guard lock(mutex_);
    damage_next_ = count;
  }
  std::size_t chunk_count() {
    const std::lock_guard lock(mutex_);
    return chunks_.size();
  }
  int put_count() {
    const std::lock_guard lock(mutex_);
    return put_count_;
  }
  int lacks_count() {
    const std::lock_guard lock(mutex_);
    return lacks_count_;
  }
  bool Holds(const ChunkDigest& digest, const ByteBuffer& bytes) {
    const std::lock_guard lock(mutex_);
    const auto found = chunks_.find(digest);
    return found != chunks_.end() && found->second == bytes;
  }

 private:
  std::mutex mutex_;
  std::map<ChunkDigest, ByteBuffer> chunks_;
  int put_count_ = 0;
  int lacks_count_ = 0;
  int patient_question_ = 0;
  bool chunk_came_ = false;
  std::condition_variable put_;
  int damage_next_ = 0;
  std::optional<Error> fail_with_;
};

class ChunkTransferTest : public testing::Test {
 protected:
  static constexpr std::size_t kChunkBytes = 40'000;

  ChunkTransferTest() {
    Router router;
    AddChunkRoutes(router, [this](const std::string& id, const HttpPeer& peer) -> Result<std::shared_ptr<ChunkSink>> {
      if (id != "m-1") return MakeError(ErrorCode::kNotFound, "no migration {}", id);
      if (peer.node != "node-a") return MakeError(ErrorCode::kPermissionDenied, "not the source of {}", id);
      return sink_;
    });
    HttpServerOptions options;
    options.max_requests_per_node = 6;
    auto server = HttpServer::ListenTls("127.0.0.1", 0, b_, std::move(router), options);
    EXPECT_THAT(server, IsOk());
    server_ = std::move(*server);
    options_.first_pause = std::chrono::milliseconds(5);
    options_.longest_pause = std::chrono::milliseconds(50);
    options_.limit = std::chrono::seconds(60);
  }

  // Chunk i: every byte i, under a digest that begins with i.
  static std::vector<ChunkDigest> Digests(std::size_t count) {
    std::vector<ChunkDigest> digests(count);
    for (std::size_t i = 0; i < count; ++i) {
      digests[i][0] = static_cast<std::byte>(i);
      digests[i][1] = static_cast<std::byte>(i >> 8);
    }
    return digests;
  }
  static ByteBuffer Chunk(std::size_t i) { return ByteBuffer(kChunkBytes, static_cast<std::byte>(i)); }

  Result<SendReport> Send(std::span<const ChunkDigest> digests, std::uint16_t port, std::stop_token stop = {},
                          SendProgress* progress = nullptr) {
    return SendChunks({"node-b", "127.0.0.1", port}, a_, "m-1", digests, encode_, options_, std::move(stop), progress);
  }

  void ExpectAllThere(std::span<const ChunkDigest> digests) {
    EXPECT_EQ(sink_->chunk_count(), digests.size());
    for (std::size_t i = 0; i < digests.size(); ++i) EXPECT_TRUE(sink_->Holds(digests[i], Chunk(i))) << i;
  }

  TestSite site_;
  NodeIdentity a_ = site_.Node("node-a");
  NodeIdentity b_ = site_.Node("node-b");
  std::shared_ptr<MemorySink> sink_ = std::make_shared<MemorySink>();
  std::unique_ptr<HttpServer> server_;
  std::atomic<int> encoded_{0};
  ReadEncodedChunk encode_ = [this](std::size_t i) -> Result<ByteBuffer> {
    ++encoded_;
    return Chunk(i);
  };
  SendOptions options_;
};

TEST_F(ChunkTransferTest, SendsAllOnce) {
  const std::vector<ChunkDigest> digests = Digests(50);
  SendProgress progress;
  const auto report = Send(digests, server_->port(), {}, &progress);
  ASSERT_THAT(report, IsOk());
  ExpectAllThere(digests);
  EXPECT_EQ(report->chunks_sent, 50u);
  EXPECT_EQ(report->retry_count, 0u);
  EXPECT_EQ(sink_->put_count(), 50);
  EXPECT_EQ(progress.bytes_sent, 50 * kChunkBytes);
  EXPECT_EQ(progress.chunks_there, 50u);
  EXPECT_EQ(report->bytes_sent, 50 * kChunkBytes);
}

TEST_F(ChunkTransferTest, SendsOnlyWhatIsLackingAndEncodesNoMore) {
  const std::vector<ChunkDigest> digests = Digests(20);
  ASSERT_THAT(Send(std::span(digests).first(15), server_->port()), IsOk());
  encoded_ = 0;
  const auto report = Send(digests, server_->port());
  ASSERT_THAT(report, IsOk());
  EXPECT_EQ(report->chunks_there_before, 15u);
  EXPECT_EQ(report->chunks_sent, 5u);
  EXPECT_EQ(encoded_, 5);
  ExpectAllThere(digests);
}

TEST_F(ChunkTransferTest, EqualChunksAreSentOnce) {
  std::vector<ChunkDigest> digests = Digests(3);
  digests.insert(digests.end(), 10, digests[1]);
  const auto report = Send(digests, server_->port());
  ASSERT_THAT(report, IsOk());
  EXPECT_EQ(report->chunk_count, 3u);
  EXPECT_EQ(sink_->put_count(), 3);
}

TEST_F(ChunkTransferTest, NothingToSendIsFine) {
  const auto report = Send({}, server_->port());
  ASSERT_THAT(report, IsOk());
  EXPECT_EQ(report->chunks_sent, 0u);
}

TEST_F(ChunkTransferTest, ListsBeyondOneRequestAreAskedForInParts) {
  const std::vector<ChunkDigest> digests = Digests(kMaxDigestsPerRequest + 10);
  ReadEncodedChunk tiny = [&](std::size_t i) -> Result<ByteBuffer> { return ByteBuffer{digests[i][0]}; };
  options_.connection_count = 4;
  const auto report = SendChunks({"node-b", "127.0.0.1", server_->port()}, a_, "m-1", digests, tiny, options_);
  ASSERT_THAT(report, IsOk());
  EXPECT_EQ(sink_->chunk_count(), digests.size());
  EXPECT_EQ(sink_->lacks_count(), 2 * 33);  // of 128 at most, and all again when all were sent
}

TEST_F(ChunkTransferTest, WhatIsLackingIsSentWhileTheRestIsAskedAbout) {
  sink_->WaitForAChunkAtQuestion(2);
  const std::vector<ChunkDigest> digests = Digests(200);
  const auto report = Send(digests, server_->port());
  ASSERT_THAT(report, IsOk());
  EXPECT_TRUE(sink_->chunk_came());
  ExpectAllThere(digests);
}

TEST_F(ChunkTransferTest, OneConnectionCutAtEveryChunkBoundaryResendsAtMostTheChunkInFlight) {
  options_.connection_count = 1;
  const std::vector<ChunkDigest> digests = Digests(8);
  // Each connection carries its handshake and about one chunk, then is reset: before, within and after a chunk.
  for (const std::uint64_t limit :
       {kChunkBytes / 2, kChunkBytes - 1, kChunkBytes + 3000, kChunkBytes + 6000, 2 * kChunkBytes + 3000}) {
    SCOPED_TRACE(limit);
    sink_ = std::make_shared<MemorySink>();
    CutProxy proxy(server_->port(), [&](int n) { return n < 6 ? limit : ~0ull; });
    const auto report = Send(digests, proxy.port());
    ASSERT_THAT(report, IsOk());
    ExpectAllThere(digests);
    EXPECT_GT(proxy.cut_count(), 0);
    EXPECT_LE(sink_->put_count(), 8 + proxy.cut_count());
    EXPECT_LE(report->bytes_sent, (8 + static_cast<std::uint64_t>(proxy.cut_count())) * (kChunkBytes + 64) + 10'000);
  }
}

TEST_F(ChunkTransferTest, AChunkWhoseAnswerGotLostIsNotSentAgain) {
  options_.connection_count = 1;
  const std::vector<ChunkDigest> digests = Digests(8);
  CutProxy proxy(
      server_->port(), [](int n) { return n < 4 ? std::uint64_t{kChunkBytes} : ~std::uint64_t{0}; },
      CutProxy::Cut::kAtTheAnswer);
  const auto report = Send(digests, proxy.port());
  ASSERT_THAT(report, IsOk());
  ExpectAllThere(digests);
  EXPECT_GT(proxy.cut_count(), 0);
  EXPECT_EQ(sink_->put_count(), 8);
}

TEST_F(ChunkTransferTest, CutsOfSeveralConnectionsLeaveTheOthersAtWork) {
  options_.connection_count = 3;
  const std::vector<ChunkDigest> digests = Digests(60);
  CutProxy proxy(server_->port(), [&](int n) { return n % 2 == 1 && n < 20 ? 3 * kChunkBytes : ~0ull; });
  const auto report = Send(digests, proxy.port());
  ASSERT_THAT(report, IsOk());
  ExpectAllThere(digests);
  EXPECT_GT(proxy.cut_count(), 0);
  EXPECT_LE(sink_->put_count(), 60 + proxy.cut_count());
  EXPECT_EQ(encoded_, 60);
}

TEST_F(ChunkTransferTest, AServerThatStopsInTheMiddleIsTriedUntilTheLimit) {
  const std::vector<ChunkDigest> digests = Digests(30);
  options_.limit = std::chrono::seconds(3);
  encode_ = [&](std::size_t i) -> Result<ByteBuffer> {
    if (i == 10) server_->Stop();
    return Chunk(i);
  };
  const auto report = Send(digests, server_->port());
  EXPECT_THAT(report, FailsWith(ErrorCode::kDeadlineExceeded, "of 30 are there after"));
  EXPECT_THAT(report, FailsWith(ErrorCode::kDeadlineExceeded, "cannot reach node-b at 127.0.0.1"));
}

TEST_F(ChunkTransferTest, ADamagedChunkIsSentAgainButNotForEver) {
  const std::vector<ChunkDigest> digests = Digests(1);
  sink_->DamageNext(2);
  ASSERT_THAT(Send(digests, server_->port()), IsOk());
  EXPECT_EQ(sink_->put_count(), 3);
  sink_ = std::make_shared<MemorySink>();
  sink_->DamageNext(100);
  const auto report = Send(digests, server_->port());
  EXPECT_THAT(report, FailsWith(ErrorCode::kIo, "3 copies of chunk 00000000 arrived damaged at node-b"));
  EXPECT_EQ(sink_->put_count(), 3);
}

TEST_F(ChunkTransferTest, AFullDiskThereEndsItAtOnceWithItsOwnError) {
  sink_->FailWith(MakeError(ErrorCode::kNoSpace, "No space left on device (errno 28)").WithNextStep("free 3 GiB"));
  const auto report = Send(Digests(40), server_->port());
  EXPECT_THAT(report, FailsWith(ErrorCode::kNoSpace, "No space left on device"));
  EXPECT_EQ(report.error().next_step(), "free 3 GiB");
  EXPECT_LE(sink_->put_count(), 3);
}

TEST_F(ChunkTransferTest, AnEncoderThatFailsEndsItWithItsError) {
  encode_ = [](std::size_t i) -> Result<ByteBuffer> {
    if (i == 5) return MakeError(ErrorCode::kLost, "the process is gone");
    return Chunk(i);
  };
  EXPECT_THAT(Send(Digests(40), server_->port()),
              FailsWith(ErrorCode::kLost, "encode chunk 05000000: the process is gone"));
}

TEST_F(ChunkTransferTest, ChunksAboveTheLimitAreNotSent) {
  encode_ = [](std::size_t) -> Result<ByteBuffer> { return ByteBuffer(kMaxChunkBodyBytes + 1); };
  EXPECT_THAT(Send(Digests(1), server_->port()), FailsWith(ErrorCode::kInvalidArgument, "at most"));
  encode_ = [](std::size_t) -> Result<ByteBuffer> { return ByteBuffer(kMaxChunkBodyBytes); };
  EXPECT_THAT(Send(Digests(1), server_->port()), IsOk());
}

TEST_F(ChunkTransferTest, OthersCannotSendIntoAMigration) {
  const NodeIdentity c = site_.Node("node-c");
  const auto digests = Digests(1);
  const NodeAddress peer{"node-b", "127.0.0.1", server_->port()};
  EXPECT_THAT(SendChunks(peer, c, "m-1", digests, encode_, options_),
              FailsWith(ErrorCode::kPermissionDenied, "not the source"));
  EXPECT_THAT(SendChunks(peer, a_, "m-2", digests, encode_, options_),
              FailsWith(ErrorCode::kNotFound, "no migration m-2"));
  EXPECT_THAT(SendChunks(peer, a_, "../x", digests, encode_, options_),
              FailsWith(ErrorCode::kInvalidArgument, "migration id"));
  EXPECT_EQ(sink_->put_count(), 0);
}

TEST_F(ChunkTransferTest, CancellingEndsItSoon) {
  std::stop_source stop;
  encode_ = [&](std::size_t i) -> Result<ByteBuffer> {
    if (i == 10) stop.request_stop();
    return Chunk(i);
  };
  EXPECT_THAT(Send(Digests(200), server_->port(), stop.get_token()), FailsWith(ErrorCode::kCancelled, ""));
  EXPECT_LT(sink_->put_count(), 200);
}

TEST_F(ChunkTransferTest, AWatcherIsToldOfEverySendingOnce) {
  struct Counter : SendWatcher {
    void SendBegins(std::uint64_t bytes) override {
      under_way += 1;
      begun_bytes += bytes;
    }
    void SendEnds(std::uint64_t bytes, bool arrived, std::chrono::nanoseconds) override {
      under_way -= 1;
      if (arrived) arrived_bytes += bytes;
    }
    std::atomic<int> under_way{0};
    std::atomic<std::uint64_t> begun_bytes{0};
    std::atomic<std::uint64_t> arrived_bytes{0};
  } watcher;
  options_.watcher = &watcher;
  sink_->DamageNext(1);
  const auto report = Send(Digests(10), server_->port());
  ASSERT_THAT(report, IsOk());
  EXPECT_EQ(watcher.under_way, 0);
  EXPECT_EQ(watcher.arrived_bytes, 10 * kChunkBytes);
  EXPECT_EQ(watcher.begun_bytes, 11 * kChunkBytes);
}

TEST_F(ChunkTransferTest, TheBandwidthLimitHoldsRoughly) {
  // 20 chunks at 20 per second: a second but for the first ones, which go at once.
  TokenBucket bucket(20 * kChunkBytes);
  options_.bucket = &bucket;
  const auto report = Send(Digests(20), server_->port());
  ASSERT_THAT(report, IsOk());
  EXPECT_GE(report->duration, std::chrono::milliseconds(900));
}

// Of a clock of its own: whoever sends, in whatever order and however late by a little, gets the rate and no more.
TEST(TokenBucketTest, KeepsTheRateWithinOnePercentInTheSteadyState) {
  using Time = std::chrono::steady_clock::time_point;
  const Time begin = Time() + std::chrono::hours(1000);
  const Time never = Time::max();
  TokenBucket bucket(100'000'000);
  std::array<Time, 4> free_at{begin, begin, begin, begin};  // when each sender comes back
  std::uint64_t bytes = 0;
  std::mt19937_64 random(1);
  Time last = begin;
  while (last < begin + std::chrono::seconds(100)) {
    Time& sender = *std::ranges::min_element(free_at);
    const std::uint64_t chunk = 1 + random() % (4 << 20);
    const auto turn = bucket.Reserve(chunk, sender, never);
    ASSERT_TRUE(turn.has_value());
    last = std::max(sender, *turn);
    bytes += chunk;
    sender = last + std::chrono::microseconds(random() % 30'000);  // sent, and a bit late
  }
  EXPECT_NEAR(static_cast<double>(bytes) / 100, 1e8, 1e6);
}

TEST(TokenBucketTest, AnIdleLineSavesUpLittle) {
  using Time = std::chrono::steady_clock::time_point;
  const Time begin = Time() + std::chrono::hours(1000);
  TokenBucket bucket(1'000'000);
  EXPECT_EQ(bucket.Reserve(1'000'000, begin, Time::max()), begin);
  const Time later = begin + std::chrono::hours(1);
  std::uint64_t at_once = 0;
  while (*bucket.Reserve(10'000, later, Time::max()) <= later) at_once += 10'000;
  EXPECT_LE(at_once, 250'000u);
  EXPECT_FALSE(bucket.Reserve(1, later, later).has_value());
}

TEST(TokenBucketTest, GivesUpAtTheDeadlineAndOnStop) {
  TokenBucket bucket(1);
  const auto soon = std::chrono::steady_clock::now() + std::chrono::milliseconds(10);
  EXPECT_TRUE(bucket.Take(1000, soon, {}));
  EXPECT_FALSE(bucket.Take(1, soon, {}));
  std::stop_source stop;
  stop.request_stop();
  EXPECT_FALSE(bucket.Take(1, std::chrono::steady_clock::now() + std::chrono::hours(10), stop.get_token()));
}

}  // namespace
}  // namespace gpumig
