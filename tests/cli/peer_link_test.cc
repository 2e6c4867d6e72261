// What nodes ask of each other before anything is touched.
#include "cli/agent/peer_link.h"

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

TEST(PreflightQuestionTest, IsReadAsItWasWritten) {
  PreflightQuestion question;
  question.name = "trainer";
  question.uses_gpu = true;
  question.host_bytes = 4096;
  const auto read = PreflightQuestionFromJson(PreflightQuestionToJson(question));
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->image_format, kImageMajor);
  EXPECT_EQ(read->name, "trainer");
  EXPECT_TRUE(read->uses_gpu);
  EXPECT_EQ(read->host_bytes, 4096u);
}

TEST(PreflightQuestionTest, WithoutAnImageFormatIsOfFormatOne) {
  Json json = PreflightQuestionToJson({});
  json.erase("image_format");
  EXPECT_EQ(PreflightQuestionFromJson(json)->image_format, 1u);
  json["image_format"] = "two";
  EXPECT_THAT(PreflightQuestionFromJson(json), FailsWith(ErrorCode::kDamaged, "image_format"));
}

TEST(ImageFormatTest, NodesOfOneFormatGetOn) { EXPECT_THAT(CheckImageFormat(kImageMajor, "b", "a"), IsOk()); }

TEST(ImageFormatTest, NodesOfTwoFormatsAreToldWhichToUpdate) {
  const auto older = CheckImageFormat(1, "node-b", "node-a");
  ASSERT_THAT(older, FailsWith(ErrorCode::kUnsupported, "node-b speaks image format 1, node node-a image format 2"));
  EXPECT_THAT(older.error().next_step(), testing::HasSubstr("node-b has the older one"));
  const auto newer = CheckImageFormat(3, "node-b", "node-a");
  ASSERT_THAT(newer, FailsWith(ErrorCode::kUnsupported, "image format 3"));
  EXPECT_THAT(newer.error().next_step(), testing::HasSubstr("node-a has the older one"));
}

}  // namespace
}  // namespace gpumig
