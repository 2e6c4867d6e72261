// What the page filter notes, and where it goes.
#include "core/host/hidden_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include "core/host/page_filter/notes.h"
#include "tests/support/matchers.h"

namespace gpumig {
namespace {

PageNote Note(pid_t pid, std::uint64_t begin, std::uint64_t end) {
  PageNote note;
  note.pid = pid;
  note.begin = begin;
  note.end = end;
  return note;
}

Result<std::vector<HiddenRange>> Read(std::vector<PageNote> notes, std::size_t bytes_less = 0) {
  const UniqueFd file(memfd_create("notes", MFD_CLOEXEC));
  const std::size_t bytes = notes.size() * sizeof(PageNote) - bytes_less;
  EXPECT_EQ(write(file.get(), notes.data(), bytes), static_cast<ssize_t>(bytes));
  return ReadNotes(file.get());
}

TEST(HiddenPagesTest, NotesAreReadAsTheyWereWritten) {
  const auto read = Read({Note(7, 0x10000, 0x30000), Note(8, 0x1000, 0x21000)});
  ASSERT_THAT(read, IsOk());
  ASSERT_EQ(read->size(), 2u);
  EXPECT_EQ(read->front().pid, 7);
  EXPECT_EQ(read->front().range, (MemoryRange{0x10000, 0x20000}));
  EXPECT_TRUE(Read({})->empty());
}

TEST(HiddenPagesTest, WhatIsNoNoteIsRefused) {
  PageNote other = Note(7, 0x10000, 0x30000);
  other.magic = 1;
  for (const PageNote& note : {other, Note(0, 0x1000, 0x2000), Note(7, 0x2000, 0x2000), Note(7, 0x2000, 0x1000),
                               Note(7, 0x1001, 0x3000), Note(7, 0x1000, 0x3001)}) {
    EXPECT_THAT(Read({note}), FailsWith(ErrorCode::kUnsupported, "not as we know it"));
  }
  EXPECT_THAT(Read({Note(7, 0x1000, 0x2000)}, 1), FailsWith(ErrorCode::kUnsupported, "23 bytes are no notes"));
}

// In any order, twice, or beside and over what CRIU told of: CRIU may look twice, and what it sees then is not the
// same.
TEST(HiddenPagesTest, HiddenRangesStandWhereCriuWouldHaveToldOfThem) {
  DumpedPages dumped;
  dumped.processes[7] = {{0x1000, 0x1000}, {0x40000, 0x2000}};
  dumped.processes[8] = {};
  ASSERT_THAT(AddHidden({{7, {0x20000, 0x20000}},
                         {7, {0x2000, 0x1000}},
                         {7, {0x20000, 0x20000}},
                         {7, {0x41000, 0x3000}},
                         {8, {0x5000, 0x1000}}},
                        dumped),
              IsOk());
  EXPECT_EQ(dumped.processes[7], (std::vector<MemoryRange>{{0x1000, 0x2000}, {0x20000, 0x24000}}));
  EXPECT_EQ(dumped.processes[8], (std::vector<MemoryRange>{{0x5000, 0x1000}}));
}

TEST(HiddenPagesTest, AProcessThatCriuDoesNotDumpIsRefused) {
  DumpedPages dumped;
  dumped.processes[7] = {};
  EXPECT_THAT(AddHidden({{9, {0x1000, 0x1000}}}, dumped), FailsWith(ErrorCode::kUnsupported, "process 9"));
}

TEST(HiddenPagesTest, TheLibraryIsWhereTheUserSays) {
  setenv("GPUMIG_PAGE_FILTER", "/somewhere/filter.so", 1);
  EXPECT_EQ(PageFilterLibrary(), "/somewhere/filter.so");
  setenv("GPUMIG_PAGE_FILTER", "off", 1);
  EXPECT_TRUE(PageFilterLibrary().empty());
  unsetenv("GPUMIG_PAGE_FILTER");
}

}  // namespace
}  // namespace gpumig
