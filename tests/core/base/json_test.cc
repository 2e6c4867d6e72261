#include "core/base/json.h"

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

TEST(JsonTest, RefusesBrokenAndBottomlessText) {
  EXPECT_THAT(ParseJson("{\"a\":"), FailsWith(ErrorCode::kDamaged, "not JSON"));
  EXPECT_THAT(ParseJson(std::string(100000, '[')), FailsWith(ErrorCode::kDamaged, "deeper than"));
}

TEST(JsonTest, MembersAreTypeChecked) {
  const auto json = ParseJson(R"({"name":"x","count":3,"minus":-3})");
  ASSERT_THAT(json, IsOk());
  EXPECT_EQ(*StringMember(*json, "name"), "x");
  EXPECT_EQ(*UnsignedMember(*json, "count"), 3u);
  EXPECT_THAT(UnsignedMember(*json, "minus"), FailsWith(ErrorCode::kDamaged, "'minus'"));
  EXPECT_THAT(StringMember(*json, "count"), FailsWith(ErrorCode::kDamaged, "'count'"));
  EXPECT_THAT(BoolMember(*json, "absent"), FailsWith(ErrorCode::kDamaged, "'absent'"));
  EXPECT_THAT(StringMember(Json(3), "name"), FailsWith(ErrorCode::kDamaged, "'name'"));
}

TEST(JsonTest, InvalidUtf8DoesNotThrow) { EXPECT_FALSE(ToText(Json("\xff")).empty()); }

}  // namespace
}  // namespace gpumig
