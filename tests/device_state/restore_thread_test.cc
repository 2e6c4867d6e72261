#include "device_state/restore_thread.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/unique_fd.h"
#include "tests/support/matchers.h"
#include "tests/support/needs.h"

namespace gpumig {
namespace {

TEST(RestoreThreadTest, OfAProcessInOurNamespaceIsTheNumberTold) {
  EXPECT_EQ(*ThreadInOurNamespace(getpid(), gettid()), gettid());
  EXPECT_THAT(ThreadInOurNamespace(getpid(), 1), FailsWith(ErrorCode::kNotFound, "has no thread 1"));
}

TEST(RestoreThreadTest, OfAProcessInANamespaceOfItsOwnIsTranslated) {
  GPUMIG_NEEDS_ROOT();
  auto pipe = MakePipe();
  ASSERT_THAT(pipe, IsOk());
  const pid_t parent = fork();
  if (parent == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (unshare(CLONE_NEWPID) != 0) _exit(1);
    const pid_t inner = fork();  // number 1 in there
    if (inner == 0) {
      while (true) pause();
    }
    const ssize_t written = write(pipe->write_end.get(), &inner, sizeof(inner));
    if (written == sizeof(inner)) waitpid(inner, nullptr, 0);
    _exit(0);
  }
  pid_t inner = 0;
  ASSERT_EQ(read(pipe->read_end.get(), &inner, sizeof(inner)), static_cast<ssize_t>(sizeof(inner)));
  EXPECT_EQ(*ThreadInOurNamespace(inner, 1), inner);
  EXPECT_EQ(*ThreadInOurNamespace(inner, inner), inner) << "told in our numbers";
  kill(inner, SIGKILL);
  waitpid(parent, nullptr, 0);
}

}  // namespace
}  // namespace gpumig
