#include "cli/agent/ended_migrations.h"

#include "core/base/file.h"
#include "core/session/site.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

MigrationId IdOf(int number) {
  MigrationId id;
  id.bytes.fill(static_cast<std::byte>(number));
  return id;
}

class EndedMigrationsTest : public testing::Test {
 protected:
  void SetUp() override {
    auto directory = TemporaryDirectory::Create(std::filesystem::temp_directory_path(), "gpumig-ended");
    ASSERT_THAT(directory, IsOk());
    directory_.emplace(std::move(*directory));
  }
  const std::filesystem::path& directory() const { return directory_->path(); }

  // A journal as a migration leaves it that was taken back: "runs here".
  std::unique_ptr<Journal> TakenBack(int number) const {
    auto journal = Journal::Create(directory(), {Side::kSource, {IdOf(number), "node-a", "node-b"}, "trainer", ""});
    EXPECT_THAT(journal, IsOk());
    const Cause cause{Reason::kDeadline, "60 s are over"};
    EXPECT_THAT((*journal)->Append({Stage::kDump, 1, false, {}, {}, {}}), IsOk());
    EXPECT_THAT((*journal)->Append({Stage::kAborted, 1, false, {}, {}, cause}), IsOk());
    EXPECT_THAT((*journal)->Append({Stage::kAborted, 1, true, {}, {}, cause}), IsOk());
    return *std::move(journal);
  }
  Json StatusOf(int number, const std::string& ended) const {
    return {{"id", IdOf(number).ToHex()}, {"state", "S_DONE"}, {"ended", ended}, {"report", {{"downtime_ms", 12.5}}}};
  }
  std::size_t JournalCount() const { return ListJournals(directory())->size(); }

 private:
  std::optional<TemporaryDirectory> directory_;
};

TEST_F(EndedMigrationsTest, TheReportOfAnEarlierAgentIsReadAgain) {
  const auto journal = TakenBack(1);
  EndedMigrations(directory()).Add(StatusOf(1, "2026-01-31T12:00:00Z"));
  EndedMigrations next(directory());
  EXPECT_EQ(next.Find(IdOf(1).ToHex()), std::nullopt);
  next.Load(*journal);
  EXPECT_EQ(next.Find(IdOf(1).ToHex()), StatusOf(1, "2026-01-31T12:00:00Z"));
}

TEST_F(EndedMigrationsTest, WithoutAReportTheJournalTellsHowItEndedAndWhy) {
  const auto journal = TakenBack(1);
  const auto expect_told = [&] {
    EndedMigrations ended(directory());
    ended.Load(*journal);
    const auto status = ended.Find(IdOf(1).ToHex());
    ASSERT_TRUE(status);
    EXPECT_EQ((*status)["workload"], "trainer");
    EXPECT_EQ((*status)["state"], "S_ABORTED");
    EXPECT_EQ((*status)["ended"], UtcText(journal->last_written()));
    EXPECT_EQ((*status)["report"]["ending"], "runs here");
    EXPECT_EQ((*status)["report"]["error"]["message"], "deadline: 60 s are over");
  };
  expect_told();
  // Nor is a damaged report, or that of another one, taken for it.
  for (const std::string text : {"{", "[]", R"({"id":"x","ended":"y"})"}) {
    ASSERT_THAT(WriteFileDurably(directory() / (IdOf(1).ToHex() + ".ended.json"), text), IsOk());
    expect_told();
  }
}

TEST_F(EndedMigrationsTest, BeyondTheBoundTheOneThatEndedFirstIsForgottenWithItsFiles) {
  for (int number = 1; number <= 4; ++number) TakenBack(number);
  EndedMigrations ended(directory(), /*most=*/3);
  ended.Add(StatusOf(1, "2026-01-31T12:00:02Z"));
  ended.Add(StatusOf(2, "2026-01-31T12:00:01Z"));
  ended.Add(StatusOf(3, "2026-01-31T12:00:03Z"));
  EXPECT_EQ(JournalCount(), 4u);
  ended.Add(StatusOf(4, "2026-01-31T12:00:04Z"));
  EXPECT_EQ(ended.Find(IdOf(2).ToHex()), std::nullopt);
  EXPECT_FALSE(std::filesystem::exists(directory() / (IdOf(2).ToHex() + ".ended.json")));
  EXPECT_EQ(JournalCount(), 3u);
  std::vector<std::string> order;
  for (const Json& status : ended.List()) order.push_back(status["id"]);
  EXPECT_EQ(order, (std::vector{IdOf(1).ToHex(), IdOf(3).ToHex(), IdOf(4).ToHex()}));
}

}  // namespace
}  // namespace gpumig
