// What a peer sends must not hurt the server: each test ends with a good request that is served.
#include <cstring>
#include <random>
#include <vector>

#include "tests/transport/test_site.h"
#include "transport/protocol.h"

namespace gpumig {
namespace {

class HostilePeerTest : public testing::Test {
 protected:
  HostilePeerTest() {
    HttpServerOptions options;
    options.worker_count = 2;
    options.max_requests_per_node = 2;
    options.max_connections = 8;
    options.handshake_limit = std::chrono::milliseconds(1500);
    options.head_limit = std::chrono::milliseconds(1500);
    options.stall_limit = std::chrono::milliseconds(1500);
    options.on_refused = [this](const std::string&, const Error&) { ++refused_; };
    server_.emplace(b_, options);
  }

  // As node-a, over TLS. What the server answers until it closes.
  std::string Talk(std::string_view bytes) {
    const RawIdentity identity(site_.path("node-a"));
    const auto answer = RawTlsClient(server_->port(), &identity).Talk(bytes);
    return answer ? *answer : "closed: " + answer.error().message();
  }

  void ExpectStillServes(int handled = 1) {
    EXPECT_THAT(Echo(a_, server_->port()), IsOk());
    EXPECT_EQ(server_->handled(), handled);
  }

  TestSite site_;
  NodeIdentity a_ = site_.Node("node-a");
  NodeIdentity b_ = site_.Node("node-b");
  std::atomic<int> refused_{0};
  std::optional<EchoServer> server_;
};

TEST_F(HostilePeerTest, GarbageInsteadOfTls) {
  std::mt19937 random(1);
  for (int i = 0; i < 20; ++i) {
    std::string bytes(static_cast<std::size_t>(1 + random() % 5000), '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    RawConnection connection(server_->port());
    connection.Send(bytes);
    shutdown(connection.fd(), SHUT_WR);
    EXPECT_TRUE(connection.ReadToEnd()) << i;
  }
  ExpectStillServes();
}

// A reset can overtake the reason for a refusal.
TEST_F(HostilePeerTest, APeerRefusedWhileItSendsSeesAnEndAndNoReset) {
  RawConnection connection(server_->port());
  connection.Send(std::string(300'000, 'x'));
  std::array<char, 4096> buffer;
  ssize_t count = 0;
  do {
    count = recv(connection.fd(), buffer.data(), buffer.size(), 0);
  } while (count > 0);
  EXPECT_EQ(count, 0) << std::strerror(errno);
  ExpectStillServes();
}

TEST_F(HostilePeerTest, GarbageInsideTls) {
  std::mt19937 random(2);
  for (int i = 0; i < 20; ++i) {
    std::string bytes(static_cast<std::size_t>(1 + random() % 3000), '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    Talk(bytes + "\r\n\r\n");
  }
  ExpectStillServes();
}

TEST_F(HostilePeerTest, ConnectionsThatSayNothingGiveWay) {
  std::vector<std::unique_ptr<RawConnection>> silent;
  for (int i = 0; i < 30; ++i) silent.push_back(std::make_unique<RawConnection>(server_->port()));
  ExpectStillServes();
  for (const auto& connection : silent) EXPECT_TRUE(connection->ReadToEnd());
}

TEST_F(HostilePeerTest, AHandshakeThatNeverEndsIsCut) {
  RawConnection connection(server_->port());
  connection.Send(std::string_view("\x16\x03\x01\x02\x00\x01", 6));  // a record that promises 512 bytes
  EXPECT_TRUE(connection.ReadToEnd());
  ExpectStillServes();  // after which the accepting thread has told of all before
  EXPECT_EQ(refused_, 1);
}

TEST_F(HostilePeerTest, AHeadThatNeverEndsIsCut) {
  EXPECT_EQ(Talk("POST /v1/echo HT").rfind("closed", 0), 0u);
  ExpectStillServes();  // after which the accepting thread has told of all before
  EXPECT_EQ(refused_, 1);
}

TEST_F(HostilePeerTest, ABodyThatNeverEndsIsCutAndNotHandled) {
  const std::string answer = Talk("POST /v1/echo HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf");
  EXPECT_NE(answer.find("deadline_exceeded"), std::string::npos) << answer;
  ExpectStillServes();
}

TEST_F(HostilePeerTest, SlowBodiesOfOneNodeDoNotHoldAllWorkersForever) {
  const RawIdentity identity(site_.path("node-a"));
  std::vector<std::unique_ptr<RawTlsClient>> slow;
  for (int i = 0; i < 4; ++i) {
    slow.push_back(std::make_unique<RawTlsClient>(server_->port(), &identity));
    ASSERT_EQ(SSL_connect(slow.back()->tls()), 1);
    const std::string head = "POST /v1/echo HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf";
    ASSERT_GT(SSL_write(slow.back()->tls(), head.data(), static_cast<int>(head.size())), 0);
  }
  ExpectStillServes();
}

TEST_F(HostilePeerTest, OversizedHeadsAreRefused) {
  EXPECT_EQ(Talk("GET /" + std::string(3000, 'a') + " HTTP/1.1\r\n\r\n").find("200"), std::string::npos);
  EXPECT_EQ(Talk("GET /v1/echo HTTP/1.1\r\nA: " + std::string(3000, 'a') + "\r\n\r\n").find("200"), std::string::npos);
  std::string many = "GET /v1/echo HTTP/1.1\r\n";
  for (int i = 0; i < 100; ++i) many += "A: b\r\n";
  EXPECT_EQ(Talk(many + "\r\n").find("200"), std::string::npos);
  EXPECT_EQ(Talk("GET /v1/echo HTTP/1.1\r\n" + std::string(20000, 'x')).find("200"), std::string::npos);
  ExpectStillServes();  // after which the accepting thread has told of all before
  EXPECT_EQ(refused_, 4);
}

TEST_F(HostilePeerTest, BodiesThatWouldFillMemoryAreRefusedUnread) {
  for (const std::string header :
       {"Content-Length: 1000000000000", "Content-Length: 18446744073709551616", "Content-Length: -1",
        "Content-Length: 1\r\nContent-Length: 2", "Transfer-Encoding: chunked",
        "Content-Encoding: gzip\r\nContent-Length: 3", "Range: bytes=0-1", "Content-Length: 0x10"}) {
    const std::string answer = Talk("POST /v1/echo HTTP/1.1\r\n" + header + "\r\nConnection: close\r\n\r\n");
    EXPECT_EQ(answer.rfind("HTTP/1.1 400 ", 0), 0u) << header << ": " << answer;
  }
  ExpectStillServes();
}

TEST_F(HostilePeerTest, AnUnreadBodyIsNotTakenForTheNextRequest) {
  const std::string smuggled = "POST /v1/echo HTTP/1.1\r\nContent-Length: 0\r\n\r\n";
  const std::string answer =
      Talk("POST /v1/nowhere HTTP/1.1\r\nContent-Length: " + std::to_string(smuggled.size()) + "\r\n\r\n" + smuggled);
  EXPECT_NE(answer.find("not_found"), std::string::npos) << answer;
  EXPECT_EQ(server_->handled(), 0);
  ExpectStillServes();
}

TEST_F(HostilePeerTest, PipelinedRequestsAreServedInOrder) {
  const std::string one = "POST /v1/echo HTTP/1.1\r\nContent-Length: 1\r\n\r\n1";
  const std::string two = "POST /v1/echo HTTP/1.1\r\nContent-Length: 1\r\nConnection: close\r\n\r\n2";
  const std::string answer = Talk(one + two);
  const auto first = answer.find("node-a:1");
  const auto second = answer.find("node-a:2");
  EXPECT_NE(first, std::string::npos) << answer;
  EXPECT_NE(second, std::string::npos) << answer;
  EXPECT_LT(first, second);
}

TEST_F(HostilePeerTest, OddRequestLinesAreRefused) {
  for (const std::string line :
       {"GET", "BREW /v1/echo HTTP/1.1", "GET /v1/echo HTTP/9", "GET /v1/echo%00 HTTP/1.1",
        "GET /../etc/passwd HTTP/1.1", "GET http://other/ HTTP/1.1", "POST /v1/echo HTTP/0.9", "OPTIONS * HTTP/1.1"}) {
    const std::string answer = Talk(line + "\r\nConnection: close\r\n\r\n");
    EXPECT_EQ(answer.find(" 200 "), std::string::npos) << line << ": " << answer;
  }
  ExpectStillServes();
}

TEST_F(HostilePeerTest, MoreConnectionsThanANodeMayHaveAreRefusedByName) {
  HttpServerOptions options;
  options.max_connections_per_node = 2;
  EchoServer server(b_, options);
  std::vector<HttpClient> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(*HttpClient::ToNode({"node-b", "127.0.0.1", server.port()}, a_));
  EXPECT_THAT(clients[0].Send("POST", "/v1/echo", "text/plain", {}), IsOk());
  EXPECT_THAT(clients[1].Send("POST", "/v1/echo", "text/plain", {}), IsOk());
  EXPECT_THAT(clients[2].Send("POST", "/v1/echo", "text/plain", {}),
              FailsWith(ErrorCode::kResourceExhausted, "has 2 connections"));
  EXPECT_EQ(server.handled(), 2);
}

}  // namespace
}  // namespace gpumig
