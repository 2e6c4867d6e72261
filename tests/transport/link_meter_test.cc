#include "transport/link_meter.h"

#include <thread>

#include "tests/transport/test_site.h"
#include "transport/protocol.h"

namespace gpumig {
namespace {

class LinkMeterTest : public testing::Test {
 protected:
  LinkMeterTest() : a_(site_.Node("node-a")), b_(site_.Node("node-b")) {
    Router router;
    AddDiscardRoute(router);
    server_ = std::move(*HttpServer::ListenTls("127.0.0.1", 0, b_, std::move(router)));
  }
  NodeAddress Peer(const std::string& name = "node-b") const { return {name, "127.0.0.1", server_->port()}; }

  TestSite site_;
  NodeIdentity a_;
  NodeIdentity b_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(LinkMeterTest, SendsOnEveryConnectionAndNoMoreThanItMay) {
  const auto measured = MeasureLink(
      Peer(), a_, {.connection_count = 2, .span = std::chrono::minutes(1), .most_bytes = std::uint64_t{20} << 20});
  ASSERT_THAT(measured, IsOk());
  EXPECT_EQ(measured->bytes, std::uint64_t{20} << 20);
  EXPECT_EQ(measured->connection_count, 2u);
  EXPECT_GT(measured->bytes_per_second(), 0u);
  // One to connect on each, and five of 4 MiB. The server counts a request after its response has gone.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (server_->counts().requests_handled < 7 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(server_->counts().requests_handled, 7u);
}

TEST_F(LinkMeterTest, AShortSpanStillSendsOnceOnEachConnection) {
  const auto measured = MeasureLink(Peer(), a_, {.connection_count = 3, .span = std::chrono::milliseconds(0)});
  ASSERT_THAT(measured, IsOk());
  EXPECT_EQ(measured->bytes, std::uint64_t{12} << 20);
}

TEST_F(LinkMeterTest, AnotherNodeAtTheAddressGetsNothing) {
  EXPECT_THAT(MeasureLink(Peer("node-c"), a_), FailsWith(ErrorCode::kUntrusted, "node-b"));
  EXPECT_EQ(server_->counts().requests_handled, 0u);
}

TEST_F(LinkMeterTest, DiscardTakesNoMoreThanAChunk) {
  auto client = HttpClient::ToNode(Peer(), a_);
  ASSERT_THAT(client, IsOk());
  const std::vector<std::byte> most(kMaxChunkBodyBytes);
  EXPECT_THAT(client->Send("PUT", "/v1/discard", "application/octet-stream", most), IsOk());
  const std::vector<std::byte> more(kMaxChunkBodyBytes + 1);
  EXPECT_THAT(client->Send("PUT", "/v1/discard", "application/octet-stream", more),
              FailsWith(ErrorCode::kInvalidArgument, ""));
}

TEST_F(LinkMeterTest, EndsWhenAsked) {
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THAT(MeasureLink(Peer(), a_, {}, stop.get_token()), FailsWith(ErrorCode::kCancelled, ""));
}

}  // namespace
}  // namespace gpumig
