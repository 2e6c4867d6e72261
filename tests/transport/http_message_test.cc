#include "transport/http_message.h"

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

TEST(HttpMessageTest, EveryErrorCodeSurvivesTheWire) {
  for (int i = 0; i <= static_cast<int>(ErrorCode::kInternal); ++i) {
    const Error error = Error(static_cast<ErrorCode>(i), "put chunk: \"quoted\" ü").WithNextStep("do this");
    const HttpResponse response = ToHttpResponse(error);
    EXPECT_GE(response.status, 400);
    const Error back = ErrorOf(response.status, response.body);
    EXPECT_EQ(back.code(), error.code());
    EXPECT_EQ(back.message(), error.message());
    EXPECT_EQ(back.next_step(), error.next_step());
  }
}

TEST(HttpMessageTest, ForeignErrorBodiesBecomeInternal) {
  for (const std::string body :
       {"", "<html>", "{}", "[]", R"({"code":"no_such","message":"","next_step":""})", R"({"code":1})", "null"}) {
    EXPECT_EQ(ErrorOf(502, body).code(), ErrorCode::kInternal) << body;
    EXPECT_NE(ErrorOf(502, body).message().find("502"), std::string::npos);
  }
}

TEST(HttpMessageTest, PeersTextsCannotHarmATerminal) {
  const std::string body =
      ToText(Json{{"code", "io"}, {"message", "\x1b[2Jgone" + std::string(9000, 'x')}, {"next_step", "\a"}});
  const Error error = ErrorOf(500, body);
  EXPECT_EQ(error.message().find('\x1b'), std::string::npos);
  EXPECT_EQ(error.message().size(), 4096u);
  EXPECT_EQ(error.next_step(), "?");
}

}  // namespace
}  // namespace gpumig
