#include "transport/router.h"

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

class RouterTest : public testing::Test {
 protected:
  RouterTest() {
    const HttpHandler nothing = [](const HttpRequest&) -> Result<HttpResponse> { return HttpResponse(); };
    router_.Add("PUT", "/v1/migrations/{id}/chunks/{digest}", nothing, 100);
    router_.Add("GET", "/v1/status", nothing);
  }
  Router router_;
};

TEST_F(RouterTest, GivesParametersByName) {
  const auto match = router_.Find("PUT", "/v1/migrations/m-1/chunks/ab12");
  ASSERT_THAT(match, IsOk());
  EXPECT_EQ(match->parameters.at("id"), "m-1");
  EXPECT_EQ(match->parameters.at("digest"), "ab12");
  EXPECT_EQ(match->route->body_limit_bytes, 100u);
}

TEST_F(RouterTest, UnknownPathsAndMethodsAreNotFound) {
  for (const std::string path : {"/", "", "status", "/v1", "/v1/status/", "/v1//status", "/v1/migrations/a/chunks"}) {
    EXPECT_THAT(router_.Find("GET", path), FailsWith(ErrorCode::kNotFound, "")) << path;
  }
  EXPECT_THAT(router_.Find("POST", "/v1/status"), FailsWith(ErrorCode::kNotFound, "not served with POST"));
  EXPECT_THAT(router_.Find("GET", std::string(8000, '/')), FailsWith(ErrorCode::kNotFound, ""));
}

TEST_F(RouterTest, AnotherProtocolVersionIsRefusedNamingBoth) {
  EXPECT_THAT(router_.Find("GET", "/v2/status"),
              FailsWith(ErrorCode::kUnsupported, "of protocol v2; this node speaks v1"));
}

TEST_F(RouterTest, RefusesParametersThatCouldBePaths) {
  for (const std::string id : {"..", ".", "a b", "a%2f", "a\nb", ""}) {
    EXPECT_THAT(router_.Find("PUT", "/v1/migrations/" + id + "/chunks/x"),
                FailsWith(ErrorCode::kInvalidArgument, "no id"));
  }
  EXPECT_FALSE(router_.Find("PUT", "/v1/migrations/" + std::string(129, 'a') + "/chunks/x"));
}

}  // namespace
}  // namespace gpumig
