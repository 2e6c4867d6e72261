#include "transport/message_client.h"

#include "tests/transport/test_site.h"
#include "transport/protocol.h"

namespace gpumig {
namespace {

class MessageClientTest : public testing::Test {
 protected:
  MessageClientTest() {
    Router router;
    AddMessageRoute(router, "/v1/messages", [this](const Json& message, const HttpRequest& request) -> Result<Json> {
      ++handled_;
      if (message.contains("refuse")) return MakeError(ErrorCode::kFailedPrecondition, "in state SEALED");
      return Json{{"from", request.peer.node}, {"message", message}};
    });
    auto server = HttpServer::ListenTls("127.0.0.1", 0, site_.Node("node-b"), std::move(router));
    EXPECT_THAT(server, IsOk());
    server_ = std::move(*server);
    auto client = HttpClient::ToNode({"node-b", "127.0.0.1", server_->port()}, site_.Node("node-a"));
    EXPECT_THAT(client, IsOk());
    client_.emplace(std::move(*client));
  }

  TestSite site_;
  std::atomic<int> handled_{0};
  std::unique_ptr<HttpServer> server_;
  std::optional<HttpClient> client_;
};

TEST_F(MessageClientTest, AMessageComesBackWithItsReply) {
  const Json message{{"type", "PREPARED"}, {"attempt", 3}, {"text", "ü\n\"x\""}};
  const auto reply = CallWithMessage(*client_, "/v1/messages", message);
  ASSERT_THAT(reply, IsOk());
  EXPECT_EQ((*reply)["from"], "node-a");
  EXPECT_EQ((*reply)["message"], message);
}

TEST_F(MessageClientTest, ARefusalKeepsItsCode) {
  EXPECT_THAT(CallWithMessage(*client_, "/v1/messages", Json{{"refuse", true}}),
              FailsWith(ErrorCode::kFailedPrecondition, "in state SEALED"));
}

TEST_F(MessageClientTest, WhatIsNoJsonObjectIsRefusedBeforeTheHandler) {
  for (const std::string body : {"", "{", "[]", "1", "null", "{}{}"}) {
    EXPECT_THAT(client_->Send("POST", "/v1/messages", "application/json", BytesOf(body)),
                FailsWith(ErrorCode::kInvalidArgument, "not a JSON object"))
        << body;
  }
  EXPECT_THAT(client_->Send("POST", "/v1/messages", "application/json",
                            BytesOf(std::string(100'000, '[') + std::string(100'000, ']'))),
              FailsWith(ErrorCode::kInvalidArgument, "not a JSON object"));
  EXPECT_EQ(handled_, 0);
}

TEST_F(MessageClientTest, LargeMessagesPassUpToTheLimit) {
  Json message{{"text", std::string(4 << 20, 'x')}};
  EXPECT_THAT(CallWithMessage(*client_, "/v1/messages", message), IsOk());
  message["text"] = std::string(kMaxMessageBodyBytes, 'x');
  EXPECT_THAT(CallWithMessage(*client_, "/v1/messages", message),
              FailsWith(ErrorCode::kInvalidArgument, "can be sent"));
}

}  // namespace
}  // namespace gpumig
