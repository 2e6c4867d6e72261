#include "core/host/criu_version.h"

#include "core/host/criu.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

TEST(CriuVersionTest, ReadsWhatCriuPrints) {
  EXPECT_EQ(CriuVersionIn("Version: 4.1.1\nGitID: v4.1.1\n"), "4.1.1");
  EXPECT_EQ(CriuVersionIn("criu: not found"), "");
}

TEST(CriuVersionTest, ComparesNumbersNotText) {
  EXPECT_TRUE(IsAtLeast("4.10", "4.9"));
  EXPECT_TRUE(IsAtLeast("4.1", "4.1"));
  EXPECT_TRUE(IsAtLeast("4.1.1", "4.1"));
  EXPECT_FALSE(IsAtLeast("3.17.1", "4.1"));
  EXPECT_FALSE(IsAtLeast("4.0", "4.0.1"));
  EXPECT_FALSE(IsAtLeast("", "4.1"));
}

TEST(CriuLogTest, FirstErrorIsTheCauseNotTheHarmlessLimitLine) {
  EXPECT_EQ(FirstCriuError("(00.000001) Version: 4.1.1\n"
                           "(00.000100) Error (criu/rlimit.c:10): rlimit: Can't setup RLIMIT_NOFILE for self\n"
                           "(00.001000) Error (criu/files-ext.c:98): Can't dump file 5 of that type [0600] (unknown "
                           "anon_inode:[io_uring])\n"
                           "(00.002000) Error (criu/cr-dump.c:1): Dumping FAILED.\n"),
            "Can't dump file 5 of that type [0600] (unknown anon_inode:[io_uring])");
  EXPECT_EQ(FirstCriuError("(00.1) all is well\n"), "");
}

}  // namespace
}  // namespace gpumig
