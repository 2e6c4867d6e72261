#include "core/session/journal.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "core/base/file.h"
#include "core/session/journal_check.h"
#include "tests/core/session/handoff_parts.h"
#include "tests/support/matchers.h"
#include "tests/support/needs.h"

namespace gpumig {
namespace {

constexpr std::size_t kFirstRecord = 32 * 256;

MigrationFacts SourceFacts() { return {Side::kSource, TestBinding(), "trainer", R"({"cgroup":"x"})"}; }

std::vector<StateRecord> MoveRecords() {
  return {{Stage::kDump, 1, false, {}, {}, {}},
          {Stage::kSealed, 1, false, ImageOf(1), {}, {}},
          {Stage::kReleased, 1, false, ImageOf(1), TargetJournal(), {}},
          {Stage::kDone, 1, false, ImageOf(1), TargetJournal(), {}}};
}

class JournalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // In memory where there is such a place: the journal syncs at every opening, and thousands are opened here.
    const std::filesystem::path memory = "/dev/shm";
    const bool has_memory = access(memory.c_str(), W_OK) == 0;
    auto directory =
        TemporaryDirectory::Create(has_memory ? memory : std::filesystem::temp_directory_path(), "gpumig-journal");
    ASSERT_THAT(directory, IsOk());
    directory_.emplace(*std::move(directory));
  }

  const std::filesystem::path& directory() const { return directory_->path(); }
  std::filesystem::path file() const { return directory() / (TestBinding().migration.ToHex() + ".source.journal"); }
  Result<std::unique_ptr<Journal>> Reopen() const {
    return Journal::Open(directory(), TestBinding().migration, Side::kSource);
  }

  void Write(const std::vector<StateRecord>& records) {
    auto journal = Journal::Create(directory(), SourceFacts());
    ASSERT_THAT(journal, IsOk());
    for (const StateRecord& record : records) ASSERT_THAT((*journal)->Append(record), IsOk());
  }
  std::string Bytes() const { return *ReadTextFile(file()); }
  void Replace(const std::string& bytes) const { std::ofstream(file(), std::ios::binary | std::ios::trunc) << bytes; }

 private:
  std::optional<TemporaryDirectory> directory_;
};

TEST_F(JournalTest, WhatWasAppendedIsReadAgain) {
  JournalId id;
  std::chrono::system_clock::time_point written;
  {
    auto journal = Journal::Create(directory(), SourceFacts());
    ASSERT_THAT(journal, IsOk());
    id = (*journal)->id();
    for (const StateRecord& record : MoveRecords()) ASSERT_THAT((*journal)->Append(record), IsOk());
    EXPECT_EQ((*journal)->records(), MoveRecords());
    written = (*journal)->last_written();
  }
  auto journal = Reopen();
  ASSERT_THAT(journal, IsOk());
  EXPECT_EQ((*journal)->records(), MoveRecords());
  EXPECT_EQ((*journal)->facts(), SourceFacts());
  EXPECT_EQ((*journal)->id(), id);
  EXPECT_EQ((*journal)->last_written(), std::chrono::floor<std::chrono::milliseconds>(written));
  StateRecord settled = MoveRecords().back();
  settled.settled = true;
  EXPECT_THAT((*journal)->Append(settled), IsOk());
}

TEST_F(JournalTest, TakesAllItsSpaceWhenItIsMade) {
  Write({});
  struct stat status = {};
  ASSERT_EQ(stat(file().c_str(), &status), 0);
  EXPECT_EQ(status.st_size, 65536);
  EXPECT_GE(status.st_blocks * 512, 65536);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(JournalTest, HoldsAllThatEveryAttemptCanWrite) {
  auto journal = Journal::Create(directory(), SourceFacts());
  ASSERT_THAT(journal, IsOk());
  for (std::uint32_t attempt = 1; attempt <= kMaxAttempt; ++attempt) {
    const ManifestDigest image = ImageOf(attempt);
    ASSERT_THAT((*journal)->Append({Stage::kDump, attempt, false, {}, {}, {}}), IsOk());
    ASSERT_THAT((*journal)->Append({Stage::kSealed, attempt, false, image, {}, {}}), IsOk());
    ASSERT_THAT((*journal)->Append({Stage::kReleased, attempt, false, image, TargetJournal(), {}}), IsOk());
    ASSERT_THAT((*journal)->Append({Stage::kAborted, attempt, false, image, TargetJournal(), {}}), IsOk());
    ASSERT_THAT((*journal)->Append({Stage::kAborted, attempt, true, image, TargetJournal(), {}}), IsOk());
  }
}

TEST_F(JournalTest, LongTextsAreCut) {
  auto journal = Journal::Create(directory(), SourceFacts());
  ASSERT_THAT(journal, IsOk());
  ASSERT_THAT((*journal)->Append(MoveRecords()[0]), IsOk());
  ASSERT_THAT((*journal)->Append({Stage::kAborted, 1, false, {}, {}, {Reason::kOperator, std::string(500, 'x')}}),
              IsOk());
  const std::vector<StateRecord> written = (*journal)->records();
  journal->reset();
  auto reopened = Reopen();
  ASSERT_THAT(reopened, IsOk());
  EXPECT_EQ((*reopened)->records(), written);
  EXPECT_EQ(written.back().cause.text.size(), kMaxRecordText);
}

TEST_F(JournalTest, RefusesARecordThatBreaksTheLaw) {
  auto journal = Journal::Create(directory(), SourceFacts());
  ASSERT_THAT(journal, IsOk());
  EXPECT_THAT((*journal)->Append(MoveRecords()[2]), FailsWith(ErrorCode::kInternal, "nothing"));
  ASSERT_THAT((*journal)->Append(MoveRecords()[0]), IsOk());
  EXPECT_THAT((*journal)->Append(MoveRecords()[2]),
              FailsWith(ErrorCode::kInternal, "S_DUMP (attempt 1) to S_RELEASED"));
  EXPECT_THAT((*journal)->Append({Stage::kPrep, 1, false, ImageOf(1), {}, {}}),
              FailsWith(ErrorCode::kInternal, "other side"));
  EXPECT_THAT((*journal)->Append(MoveRecords()[1]), IsOk());
}

TEST_F(JournalTest, OneMigrationHasOneJournalASide) {
  Write({});
  EXPECT_THAT(Journal::Create(directory(), SourceFacts()), FailsWith(ErrorCode::kAlreadyExists, "source.journal"));
  MigrationFacts target = SourceFacts();
  target.side = Side::kTarget;
  EXPECT_THAT(Journal::Create(directory(), target), IsOk());
}

TEST_F(JournalTest, TwoProcessesCannotActOnOneJournal) {
  auto journal = Journal::Create(directory(), SourceFacts());
  ASSERT_THAT(journal, IsOk());
  EXPECT_THAT(Reopen(), FailsWith(ErrorCode::kFailedPrecondition, "in use by another process"));
  journal->reset();
  EXPECT_THAT(Reopen(), IsOk());
}

TEST_F(JournalTest, FactsBeyondTheirLimitsAreRefused) {
  MigrationFacts facts = SourceFacts();
  facts.note = std::string(4097, 'x');
  EXPECT_THAT(Journal::Create(directory(), facts), FailsWith(ErrorCode::kInvalidArgument, "too long"));
  facts = SourceFacts();
  facts.workload = std::string(257, 'x');
  EXPECT_THAT(Journal::Create(directory(), facts), FailsWith(ErrorCode::kInvalidArgument, "too long"));
  facts = SourceFacts();
  facts.note = std::string(4096, '\x01');  // six bytes each in JSON
  EXPECT_THAT(Journal::Create(directory(), facts), FailsWith(ErrorCode::kInvalidArgument, "too long"));
  facts = SourceFacts();
  facts.binding.target = "a/b";
  EXPECT_THAT(Journal::Create(directory(), facts), FailsWith(ErrorCode::kInvalidArgument, "node name"));
  EXPECT_TRUE(std::filesystem::is_empty(directory()));
}

// A record that the power loss caught half written is as if it had never been begun, whatever of it reached the disk.
TEST_F(JournalTest, ATornTailIsCutAtTheLastGoodRecord) {
  Write(MoveRecords());
  const std::string whole = Bytes();
  for (std::size_t count = 0; count < MoveRecords().size(); ++count) {
    for (std::size_t written = 0; written <= 256 - 8; ++written) {
      const std::size_t end = kFirstRecord + count * 256 + written;
      Replace(whole.substr(0, end) + std::string(whole.size() - end, '\0'));
      auto journal = Reopen();
      ASSERT_THAT(journal, IsOk()) << count << " records and " << written << " bytes";
      ASSERT_EQ((*journal)->records().size(), count);
      if (written % 50 != 0) continue;
      ASSERT_THAT((*journal)->Append(MoveRecords()[count]), IsOk());
      journal->reset();
      auto reopened = Reopen();
      ASSERT_THAT(reopened, IsOk());
      ASSERT_EQ((*reopened)->records().size(), count + 1);
    }
  }
}

// The file never changes its size, so one that did was not torn by us: what is cut off may have been acted upon.
TEST_F(JournalTest, AFileCutAtAnyLengthIsDamaged) {
  Write(MoveRecords());
  const std::string whole = Bytes();
  Replace(whole);
  for (std::size_t size = whole.size(); size-- > 0;) {
    if (size > 36 * 256 && size % 512 != 7) continue;
    ASSERT_EQ(truncate(file().c_str(), static_cast<off_t>(size)), 0);
    ASSERT_THAT(Reopen(), FailsWith(ErrorCode::kDamaged, "not 65536"));
  }
  Replace(whole + "x");
  EXPECT_THAT(Reopen(), FailsWith(ErrorCode::kDamaged, "not 65536"));
}

// Whatever bit flips, the journal says what was written or refuses: it never says something else.
TEST_F(JournalTest, NoFlippedBitChangesWhatItSays) {
  Write(MoveRecords());
  const std::string whole = Bytes();
  const std::size_t used = kFirstRecord + MoveRecords().size() * 256;
  std::size_t refused = 0;
  const int fd = open(file().c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  // All bits of header, facts in use, records and the slot after them; then one bit of each later byte in turn.
  for (std::size_t byte = 0; byte < whole.size(); ++byte) {
    const bool dense = byte < 768 || (byte >= kFirstRecord && byte < used + 256);
    if (!dense && byte % 61 != 0) continue;
    for (unsigned bit = 0; bit < 8; ++bit) {
      if (!dense && bit != byte % 8) continue;
      const char flipped = static_cast<char>(static_cast<unsigned char>(whole[byte]) ^ (1u << bit));
      ASSERT_EQ(pwrite(fd, &flipped, 1, static_cast<off_t>(byte)), 1);
      const auto journal = Reopen();
      if (journal) {
        ASSERT_GE(byte, used) << "bit " << bit << " of byte " << byte << " went unseen";
        ASSERT_EQ((*journal)->records(), MoveRecords());
      } else {
        ASSERT_THAT(journal, FailsWith(ErrorCode::kDamaged, "journal"));
        ASSERT_FALSE(journal.error().next_step().empty());
        ++refused;
      }
      ASSERT_EQ(pwrite(fd, &whole[byte], 1, static_cast<off_t>(byte)), 1);
    }
  }
  close(fd);
  EXPECT_GE(refused, (768 + MoveRecords().size() * 256) * 8);
}

TEST_F(JournalTest, RecordsCannotBeMovedOrBorrowedFromAnotherJournal) {
  Write(MoveRecords());
  const std::string whole = Bytes();
  std::string swapped = whole;
  swapped.replace(kFirstRecord + 256, 256, whole.substr(kFirstRecord + 512, 256));
  Replace(swapped);
  EXPECT_THAT(Reopen(), FailsWith(ErrorCode::kDamaged, "record 2"));

  MigrationFacts other = SourceFacts();
  other.binding.migration = IdOf<MigrationId>(9);
  {
    ASSERT_THAT(Journal::Create(directory(), other), IsOk());
  }
  std::filesystem::copy_file(directory() / (other.binding.migration.ToHex() + ".source.journal"), file(),
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(Reopen(), FailsWith(ErrorCode::kDamaged, "another migration"));

  std::filesystem::remove(file());
  Write({});
  std::string borrowed = Bytes();
  borrowed.replace(kFirstRecord, 1024, whole.substr(kFirstRecord, 1024));
  Replace(borrowed);
  EXPECT_THAT(Reopen(), FailsWith(ErrorCode::kDamaged, "record 1"));
}

TEST_F(JournalTest, AJournalThatIsNotThereIsNotFound) {
  EXPECT_THAT(Reopen(), FailsWith(ErrorCode::kNotFound, "source.journal"));
}

TEST_F(JournalTest, ListsWhatIsThereAndRemovesWhatIsNamed) {
  EXPECT_TRUE(ListJournals(directory() / "absent")->empty());
  Write({});
  MigrationFacts target = SourceFacts();
  target.side = Side::kTarget;
  target.binding.migration = IdOf<MigrationId>(3);
  {
    ASSERT_THAT(Journal::Create(directory(), target), IsOk());
  }
  Replace(Bytes());
  std::ofstream(directory() / "notes.txt") << "x";
  std::ofstream(directory() / "zz.source.journal") << "x";
  const auto listed = ListJournals(directory());
  ASSERT_THAT(listed, IsOk());
  const JournalName source_name = {TestBinding().migration, Side::kSource};
  const JournalName target_name = {IdOf<MigrationId>(3), Side::kTarget};
  EXPECT_THAT(*listed, ::testing::ElementsAre(target_name, source_name));
  EXPECT_THAT(RemoveJournal(directory(), source_name), IsOk());
  EXPECT_THAT(*ListJournals(directory()), ::testing::ElementsAre(target_name));
}

// On a tmpfs of 32 KiB in a mount namespace of our own.
TEST_F(JournalTest, AFullDiskIsFoundBeforeTheWorkloadIsTouched) {
  GPUMIG_NEEDS_ROOT();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) _exit(10);
    if (mount("tmpfs", directory().c_str(), "tmpfs", 0, "size=32k") != 0) _exit(11);
    const auto journal = Journal::Create(directory(), SourceFacts());
    if (journal) _exit(12);
    if (journal.error().code() != ErrorCode::kNoSpace) _exit(13);
    _exit(std::filesystem::is_empty(directory()) ? 0 : 14);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_TRUE(WIFEXITED(status));
}

TEST(JournalCheckTest, AgreementSeesAnAttemptBothTakenBackAndStarted) {
  const std::vector<StateRecord> started = {{Stage::kNone, 1, false, ImageOf(1), {}, {}},
                                            {Stage::kPrep, 1, false, ImageOf(1), {}, {}},
                                            {Stage::kAct, 1, false, ImageOf(1), {}, {}}};
  std::vector<StateRecord> source = MoveRecords();
  EXPECT_THAT(CheckAgreement(source, started), IsOk());
  source.pop_back();
  EXPECT_THAT(CheckAgreement(source, started), IsOk());
  source.push_back({Stage::kAborted, 1, false, ImageOf(1), TargetJournal(), {}});
  EXPECT_THAT(CheckAgreement(source, started), FailsWith(ErrorCode::kDamaged, "S_ABORTED"));
  source.resize(2);
  EXPECT_THAT(CheckAgreement(source, started), FailsWith(ErrorCode::kDamaged, "never released"));
  EXPECT_THAT(CheckAgreement(source, std::span(started).first(2)), IsOk());
}

// All pairs of states: just those that the tables of docs/failure_model.md draw are allowed.
TEST(JournalCheckTest, OnlyTheDrawnTransitionsAreLegal) {
  const std::vector<Stage> stages = {Stage::kDump, Stage::kSealed, Stage::kReleased, Stage::kAborted,
                                     Stage::kDone, Stage::kNone,   Stage::kPrep,     Stage::kAct,
                                     Stage::kRun,  Stage::kRef,    Stage::kClosed};
  std::string drawn;
  for (const Stage from : stages) {
    for (const Stage to : stages) {
      for (const std::uint32_t attempt : {1u, 2u}) {
        const StateRecord previous = {from, 1, false, ImageOf(1), TargetJournal(), {}};
        const StateRecord next = {to, attempt, false, ImageOf(1), TargetJournal(), {}};
        if (CheckTransition(SideOf(from), previous, next))
          drawn += fmt::format("{}>{}{} ", Name(from), Name(to), attempt == 2 ? "+" : "");
      }
    }
  }
  EXPECT_EQ(
      drawn,
      "S_DUMP>S_SEALED S_DUMP>S_ABORTED S_SEALED>S_RELEASED S_SEALED>S_ABORTED S_RELEASED>S_ABORTED S_RELEASED>S_DONE "
      "S_ABORTED>S_DUMP+ "
      "T_NONE>T_NONE+ T_NONE>T_PREP T_NONE>T_REF T_NONE>T_REF+ T_PREP>T_NONE+ T_PREP>T_ACT T_PREP>T_REF T_PREP>T_REF+ "
      "T_ACT>T_RUN T_RUN>T_CLOSED T_REF>T_NONE+ T_REF>T_REF+ ");
}

}  // namespace
}  // namespace gpumig
