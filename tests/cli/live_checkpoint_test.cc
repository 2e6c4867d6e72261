// gpumig checkpoint --leave-running --live: memory is copied while the job runs, and the image is of its standstill.
#include <signal.h>

#include "tests/support/gpumig_cli.h"

namespace gpumig {
namespace {

class LiveCheckpointTest : public GpumigCliTest {
 protected:
  void SetUp() override {
    GpumigCliTest::SetUp();
    if (IsSkipped()) return;
    log_ = directory() / "log";
    image_ = directory() / "image";
  }

  pid_t Start(std::vector<std::string> command) {
    command.insert(command.begin(), {"run", "--name", "job", "--"});
    const CliAnswer run = Gpumig(command);
    EXPECT_EQ(run.code, 0) << run.errors;
    EXPECT_TRUE(GrowsOn(log_));
    return run.json.value("pid", 0);
  }
  CliAnswer CheckpointLive() { return Gpumig({"checkpoint", "job", "--leave-running", "--live", "--image", image_}); }
  // Both write to one log.
  bool LogHasOnlyNumbers() const { return ReadTextFile(log_)->find_first_not_of("0123456789\n") == std::string::npos; }

  std::filesystem::path log_;
  std::filesystem::path image_;
};

TEST_F(LiveCheckpointTest, TheImageOfAJobThatWritesAllTheTimeHasEveryByteOfItsStandstill) {
  const pid_t root = Start({SCRIBBLER, log_, "64"});
  const CliAnswer checkpoint = CheckpointLive();
  ASSERT_EQ(checkpoint.code, 0) << checkpoint.errors;
  const Json& live = checkpoint.json["live"];
  ASSERT_TRUE(live.is_object()) << checkpoint.output;
  if (live["left_alone"].empty()) {
    ASSERT_FALSE(live["rounds"].empty());
    EXPECT_GE(live["rounds"][0]["bytes"], 48u << 20) << checkpoint.output;
  }
  EXPECT_TRUE(GrowsOn(log_, 60));
  EXPECT_TRUE(CountedByOne(log_));
  EXPECT_EQ(Gpumig({"verify", "--full", image_}).code, 0);
  ASSERT_EQ(kill(root, SIGKILL), 0);
  const CliAnswer restored = Gpumig({"restore", image_, "--name", "again"});
  ASSERT_EQ(restored.code, 0) << restored.errors;
  EXPECT_TRUE(GrowsOn(log_, 60));  // so that it has looked at all of its pages
  EXPECT_TRUE(LogHasOnlyNumbers());
  EXPECT_EQ(kill(restored.json["pid"], 0), 0);
}

TEST_F(LiveCheckpointTest, MemoryOfEveryKindIsInTheImage) {
  Start({MEMORIES, log_});
  const CliAnswer checkpoint = CheckpointLive();
  ASSERT_EQ(checkpoint.code, 0) << checkpoint.errors;
  EXPECT_TRUE(GrowsOn(log_));
  EXPECT_TRUE(CountedByOne(log_));
  const CliAnswer restored = Gpumig({"restore", image_, "--name", "again"});
  ASSERT_EQ(restored.code, 0) << restored.errors;
  EXPECT_TRUE(GrowsOn(log_, 20));
  EXPECT_TRUE(LogHasOnlyNumbers());
}

TEST_F(LiveCheckpointTest, IsRefusedWhereNothingWouldComeOfIt) {
  Start({COUNTER, log_});
  CliAnswer refused = Gpumig({"checkpoint", "job", "--live", "--image", image_});
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.errors, testing::HasSubstr("--leave-running"));
  refused = Gpumig({"checkpoint", "job", "--leave-running", "--live", "--host-path=criu", "--image", image_});
  EXPECT_EQ(refused.code, 3);
  EXPECT_THAT(refused.errors, testing::HasSubstr("leave out one of the two"));
  EXPECT_FALSE(std::filesystem::exists(image_));
  EXPECT_TRUE(GrowsOn(log_));
}

}  // namespace
}  // namespace gpumig
