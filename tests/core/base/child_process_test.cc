#include "core/base/child_process.h"

#include <signal.h>

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(ChildProcessTest, ReportsExitCodeAndOutput) {
  const auto output = RunCommand({"sh", "-c", "echo out; echo err >&2; exit 3"}, seconds(10));
  ASSERT_THAT(output, IsOk());
  EXPECT_EQ(output->standard_output, "out\n");
  EXPECT_EQ(output->standard_error, "err\n");
  EXPECT_EQ(output->status.code, 3);
}

TEST(ChildProcessTest, AMissingProgramFailsTheStart) {
  EXPECT_THAT(RunCommand({"/no/such/program"}, seconds(10)), FailsWith(ErrorCode::kNotFound, "/no/such/program"));
}

TEST(ChildProcessTest, WaitThatRunsOutLeavesTheChildRunning) {
  ChildProcess::Options options;
  options.arguments = {"sleep", "100"};
  auto child = ChildProcess::Start(options);
  ASSERT_THAT(child, IsOk());
  EXPECT_THAT(child->Wait(milliseconds(20)), FailsWith(ErrorCode::kDeadlineExceeded, "still runs"));
  child->Signal(SIGTERM);
  const auto status = child->Wait(seconds(10));
  ASSERT_THAT(status, IsOk());
  EXPECT_EQ(status->signal, SIGTERM);
}

TEST(ChildProcessTest, OwnerTakesTheChildWithIt) {
  pid_t pid = 0;
  {
    ChildProcess::Options options;
    options.arguments = {"sleep", "100"};
    auto child = ChildProcess::Start(options);
    ASSERT_THAT(child, IsOk());
    pid = child->pid();
  }
  EXPECT_EQ(kill(pid, 0), -1);
}

TEST(ChildProcessTest, DescriptorsCanSwapNumbers) {
  auto pipe = MakePipe();
  ASSERT_THAT(pipe, IsOk());
  ChildProcess::Options options;
  options.arguments = {"sh", "-c", "echo hello >&7"};
  options.descriptors = {{pipe->write_end.get(), 7}};
  auto child = ChildProcess::Start(options);
  ASSERT_THAT(child, IsOk());
  pipe->write_end.Reset();
  char text[16] = {};
  ASSERT_EQ(read(pipe->read_end.get(), text, sizeof(text)), 6);
  EXPECT_STREQ(text, "hello\n");
  EXPECT_THAT(child->Wait(seconds(10)), IsOk());
}

}  // namespace
}  // namespace gpumig
