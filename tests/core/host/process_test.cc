#include "core/host/process.h"

#include <signal.h>
#include <unistd.h>

#include "core/base/child_process.h"
#include "core/host/restored_tree.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

TEST(ProcessTest, TreeHoldsDescendantsParentsFirst) {
  ChildProcess::Options options;
  options.arguments = {"sh", "-c", "sleep 100 & wait"};
  auto shell = ChildProcess::Start(options);
  ASSERT_THAT(shell, IsOk());
  std::vector<pid_t> tree;
  const auto runs_sleep = [](pid_t pid) {
    const auto stat = ReadProcessStat(pid);
    return stat && stat->command == "sleep";
  };
  // A child is a copy of the shell until it is sleep.
  for (int i = 0; i < 10000 && (tree.size() < 2 || !runs_sleep(tree[1])); ++i) {
    usleep(1000);
    tree = *ProcessTree(shell->pid());
  }
  ASSERT_EQ(tree.size(), 2u);
  EXPECT_EQ(tree[0], shell->pid());
  EXPECT_EQ(ReadProcessStat(tree[1])->parent, shell->pid());
  EXPECT_TRUE(runs_sleep(tree[1]));
  kill(tree[1], SIGKILL);
}

TEST(ProcessTest, AProcessThatIsGoneIsNotFound) {
  EXPECT_THAT(ReadProcessStat(4194000), FailsWith(ErrorCode::kNotFound, "no process 4194000"));
  EXPECT_THAT(ProcessTree(4194000), FailsWith(ErrorCode::kNotFound, "no process 4194000"));
}

TEST(ProcessTest, StartTimeAndThreadsOfOurselves) {
  const auto stat = ReadProcessStat(getpid());
  ASSERT_THAT(stat, IsOk());
  EXPECT_GT(stat->start_ticks, 0u);
  EXPECT_EQ(stat->parent, getppid());
  EXPECT_EQ(NamespacePids(getpid())->front(), getpid());
  EXPECT_GT(MemoryOf({getpid()}).resident_bytes, 0u);
}

TEST(PidBesideTest, KeepsClearOfAllTakenPids) {
  EXPECT_GT(PidBeside({2, 3, 4}, 32768), 300);
  EXPECT_GT(PidBeside({20000}, 32768), 20000);
  const pid_t gap = PidBeside({2, 310, 400, 32700}, 32768);
  EXPECT_TRUE(gap > 310 && gap + 64 <= 400) << gap;
}

}  // namespace
}  // namespace gpumig
