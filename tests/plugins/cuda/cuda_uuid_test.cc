#include "plugins/cuda/cuda_uuid.h"

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

TEST(CudaUuidTest, SurvivesTheWayThereAndBack) {
  const std::string text = "GPU-00f1a2b3-c4d5-e6f7-0819-2a3b4c5d6eff";
  const auto uuid = ParseCudaUuid(text);
  ASSERT_THAT(uuid, IsOk());
  EXPECT_EQ(uuid->bytes[1], static_cast<char>(0xf1));
  EXPECT_EQ(FormatCudaUuid(*uuid), text);
}

TEST(CudaUuidTest, RefusesEverythingElse) {
  for (const char* text :
       {"", "GPU-", "00f1a2b3-c4d5-e6f7-0819-2a3b4c5d6eff", "GPU-00f1a2b3-c4d5-e6f7-0819-2a3b4c5d6ef",
        "GPU-00f1a2b3-c4d5-e6f7-0819-2a3b4c5d6efff", "GPU-00f1a2b3c-4d5-e6f7-0819-2a3b4c5d6eff",
        "GPU-00f1a2b3-c4d5-e6f7-0819-2a3b4c5d6efg", "MIG-00f1a2b3-c4d5-e6f7-0819-2a3b4c5d6eff"}) {
    EXPECT_THAT(ParseCudaUuid(text), FailsWith(ErrorCode::kInvalidArgument, "is not a GPU UUID")) << text;
  }
}

}  // namespace
}  // namespace gpumig
