// What CRIU is not shown is what it would have dumped: a tree with memory of every kind, dumped with and without.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>
#include <thread>

#include "core/base/child_process.h"
#include "core/base/file.h"
#include "core/host/criu.h"
#include "core/host/direct_memory.h"
#include "core/host/hidden_pages.h"
#include "core/host/page_server.h"
#include "core/host/process.h"
#include "core/host/workload_tree.h"
#include "tests/core/host/criu_fixture.h"

namespace gpumig {
namespace {

using std::chrono::seconds;

struct Dumped {
  DumpedPages pages;
  std::vector<HiddenRange> hidden;
};

class PageFilterTest : public CriuFixture {
 protected:
  // Taken and frozen, after it has checked all its memory once.
  void StartAndFreeze() {
    const std::filesystem::path log = directory_->path() / "checks";
    const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    ChildProcess::Options options;
    options.arguments = {MEMORIES, log};
    options.descriptors = {{null.get(), 0}, {null.get(), 1}, {null.get(), 2}};
    options.new_session = true;
    child_.emplace(std::move(*ChildProcess::Start(options)));
    for (int i = 0; i < 15000; ++i) {
      const auto text = ReadTextFile(log);
      if (text && !text->empty()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(4));
    }
    auto tree = WorkloadTree::Take(child_->pid(), Child("tree"));
    ASSERT_THAT(tree, IsOk());
    tree_.emplace(std::move(*tree));
    ASSERT_THAT(tree_->Freeze(seconds(30)), IsOk());
  }

  Result<Dumped> Dump(const std::filesystem::path& library) {
    const std::filesystem::path images = directory_->path() / fmt::format("images-{}", ++dumps_);
    GPUMIG_TRY(MakeDirectories(images));
    const TreeFacts facts = GPUMIG_TRY(tree_->Facts());
    SocketPair pages = GPUMIG_TRY(MakeSocketPair(SOCK_STREAM));
    std::future<Result<DumpedPages>> served = std::async(
        std::launch::async,
        [images, socket = std::move(pages.ours)]() mutable { return ServePages(std::move(socket), images); });
    const PageFilter filter = GPUMIG_TRY(MakePageFilter(library));
    const Cgroup criu_cgroup = Child(fmt::format("criu-{}", dumps_));
    CriuPlace place;
    place.cgroup = &criu_cgroup;
    CriuDump dump;
    dump.root = child_->pid();
    dump.images = images;
    dump.freeze_cgroup = tree_->cgroup().path();
    dump.session_outside = facts.session_outside;
    dump.page_server = std::move(pages.theirs);
    if (!library.empty()) dump.page_filter = &filter;
    const Result<void> done = DumpWithCriu(criu_, place, std::move(dump), {});
    Result<DumpedPages> list = served.get();
    GPUMIG_TRY(Result<void>(done));
    return Dumped{GPUMIG_TRY(std::move(list)), GPUMIG_TRY(ReadNotes(filter.notes.get()))};
  }

  std::optional<ChildProcess> child_;
  std::optional<WorkloadTree> tree_;
  int dumps_ = 0;
};

TEST_F(PageFilterTest, WhatIsHiddenFromCriu) {
  ASSERT_NO_FATAL_FAILURE(StartAndFreeze());
  // The kernel may join or split huge pages of frozen processes between two dumps; then they are not comparable.
  for (int tries = 0; tries < 5; ++tries) {
    auto all = Dump({});
    ASSERT_THAT(all, IsOk());
    auto filtered = Dump(PAGE_FILTER);
    ASSERT_THAT(filtered, IsOk());
    EXPECT_TRUE(all->hidden.empty());
    if (filtered->hidden.empty()) GTEST_SKIP() << "this kernel or CRIU has no PAGEMAP_SCAN";
    // Nothing but long pieces of plain memory, of which CRIU then told nothing.
    std::map<pid_t, pid_t> pid_of;
    const auto processes = tree_->Processes();
    ASSERT_THAT(processes, IsOk());
    for (const pid_t pid : *processes) pid_of[NamespacePids(pid)->back()] = pid;
    std::uint64_t hidden_bytes = 0;
    for (const HiddenRange& hidden : filtered->hidden) {
      ASSERT_TRUE(pid_of.contains(hidden.pid)) << hidden.pid;
      EXPECT_GE(hidden.range.bytes, kLeastDirectBytes);
      const std::string maps = *ReadTextFile(fmt::format("/proc/{}/maps", pid_of[hidden.pid]), 1 << 24);
      std::uint64_t plain = 0;
      const auto mappings = EligibleMappings(maps);
      ASSERT_THAT(mappings, IsOk());
      for (const MemoryRange& mapping : *mappings) {
        const std::uint64_t begin = std::max(mapping.address, hidden.range.address);
        const std::uint64_t end = std::min(mapping.end(), hidden.range.end());
        if (begin < end) plain += end - begin;
      }
      EXPECT_EQ(plain, hidden.range.bytes) << fmt::format("{:#x}", hidden.range.address);
      hidden_bytes += hidden.range.bytes;
    }
    EXPECT_GT(hidden_bytes, 20u << 20);
    ASSERT_THAT(AddHidden(filtered->hidden, filtered->pages), IsOk());
    if (filtered->pages.processes == all->pages.processes) return;
  }
  FAIL() << "what CRIU tells and what is hidden are not what CRIU tells without the filter";
}

TEST_F(PageFilterTest, ALibraryThatCannotBeLoadedHidesNothing) {
  ASSERT_NO_FATAL_FAILURE(StartAndFreeze());
  auto dumped = Dump("/nowhere/filter.so");
  ASSERT_THAT(dumped, IsOk());
  EXPECT_TRUE(dumped->hidden.empty());
  EXPECT_FALSE(dumped->pages.processes.empty());
}

}  // namespace
}  // namespace gpumig
