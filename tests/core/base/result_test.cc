#include "core/base/result.h"

#include <cerrno>

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

Result<int> Half(int value) {
  if (value % 2 != 0) return MakeError(ErrorCode::kInvalidArgument, "{} is odd", value);
  return value / 2;
}

Result<int> Quarter(int value) {
  const int half = GPUMIG_TRY(Half(value), "halve {}", value);
  return GPUMIG_TRY(Half(half));
}

TEST(ResultTest, TryGivesTheValue) {
  const Result<int> quarter = Quarter(8);
  ASSERT_THAT(quarter, IsOk());
  EXPECT_EQ(*quarter, 2);
}

TEST(ResultTest, TryAddsItsContextBeforeTheMessage) {
  EXPECT_THAT(Quarter(7), FailsWith(ErrorCode::kInvalidArgument, "halve 7: 7 is odd"));
  EXPECT_THAT(Quarter(6), FailsWith(ErrorCode::kInvalidArgument, "3 is odd"));
}

TEST(ResultTest, ErrnoBecomesACodeThatACallerCanActOn) {
  EXPECT_EQ(Error::FromErrno(ENOSPC, "write").code(), ErrorCode::kNoSpace);
  EXPECT_EQ(Error::FromErrno(ESRCH, "kill").code(), ErrorCode::kNotFound);
  EXPECT_EQ(Error::FromErrno(EPERM, "open").code(), ErrorCode::kPermissionDenied);
  EXPECT_EQ(Error::FromErrno(ENOSPC, "write").message(), "write: No space left on device (errno 28)");
}

}  // namespace
}  // namespace gpumig
