// Real trees through real CRIU: into images, and back up to the gate in fresh namespaces.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "core/base/child_process.h"
#include "core/base/file.h"
#include "core/host/pagemap_image.h"
#include "core/host/process.h"
#include "core/host/restored_tree.h"
#include "core/host/workload_tree.h"
#include "tests/core/host/criu_fixture.h"

namespace gpumig {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class TreeMoveTest : public CriuFixture {
 protected:
  void SetUp() override {
    CriuFixture::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    setenv("GPUMIG_INIT", GPUMIG_INIT, 1);
    log_ = directory_->path() / "count";
  }

  ChildProcess StartCounter(const std::string& mib = "1") {
    ChildProcess::Options options;
    const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    options.arguments = {COUNTER, log_, "5", mib};
    options.descriptors = {{null.get(), 0}, {null.get(), 1}, {null.get(), 2}};
    options.new_session = true;
    return std::move(*ChildProcess::Start(options));
  }

  std::uint64_t Lines() const {
    const auto text = ReadTextFile(log_);
    return text ? static_cast<std::uint64_t>(std::count(text->begin(), text->end(), '\n')) : 0;
  }
  // Waits until the workload has counted `more` further.
  testing::AssertionResult CountsOn(std::uint64_t more = 5) const {
    const std::uint64_t wanted = Lines() + more;
    for (int i = 0; i < 5000; ++i) {
      if (Lines() >= wanted) return testing::AssertionSuccess();
      std::this_thread::sleep_for(milliseconds(2));
    }
    return testing::AssertionFailure() << "stands at " << Lines() << ", wanted " << wanted;
  }
  // Frozen, and dumped into images().
  void FreezeAndDump(WorkloadTree& tree) {
    ASSERT_THAT(tree.Freeze(seconds(10)), IsOk());
    ASSERT_THAT(MakeDirectories(images()), IsOk());
    const auto facts = tree.Facts();
    ASSERT_THAT(facts, IsOk());
    facts_ = *facts;
    ASSERT_THAT(tree.Dump(criu_, Child("criu"), images(), HostPath::kCriu), IsOk());
  }
  // A counter that was counting, frozen and dumped.
  void StartFreezeAndDump() {
    counter_.emplace(StartCounter());
    ASSERT_TRUE(CountsOn());
    auto tree = WorkloadTree::Take(counter_->pid(), Child("tree"));
    ASSERT_THAT(tree, IsOk());
    tree_.emplace(std::move(*tree));
    FreezeAndDump(*tree_);
  }
  Result<RestoredTree> RestoreCopy() const {
    return RestoredTree::RestoreToGate(criu_, images(), facts_, {base_ + "/copy", directory_->path() / "copy-exit"});
  }
  std::filesystem::path images() const { return directory_->path() / "images"; }

  // Every number once and in order: nothing lost, nothing twice.
  testing::AssertionResult CountedByOne() const {
    std::istringstream lines(*ReadTextFile(log_));
    std::uint64_t expected = 1;
    for (std::uint64_t number = 0; lines >> number; ++expected) {
      if (number != expected) return testing::AssertionFailure() << number << " follows " << expected - 1;
    }
    return testing::AssertionSuccess();
  }

  std::filesystem::path log_;
  std::optional<ChildProcess> counter_;
  std::optional<WorkloadTree> tree_;
  TreeFacts facts_;
};

TEST_F(TreeMoveTest, ADumpLeavesTheTreeFrozenWholeAndAbleToRunOn) {
  ASSERT_NO_FATAL_FAILURE(StartFreezeAndDump());
  EXPECT_TRUE(*tree_->cgroup().IsFrozen());
  const std::uint64_t at_dump = Lines();
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(Lines(), at_dump);
  ASSERT_THAT(tree_->Thaw(), IsOk());
  EXPECT_TRUE(CountsOn());
  EXPECT_TRUE(CountedByOne());
  EXPECT_THAT(tree_->Release(), IsOk());
}

TEST_F(TreeMoveTest, ARestoredTreeTakesNoStepBeforeTheGateOpensAndThenCountsOn) {
  ASSERT_NO_FATAL_FAILURE(StartFreezeAndDump());
  EXPECT_EQ(facts_.process_count, 2u);

  // The original is still there, frozen, with the same pids: a fresh namespace keeps them apart.
  auto copy = RestoreCopy();
  ASSERT_THAT(copy, IsOk());
  const std::uint64_t at_gate = Lines();
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_EQ(Lines(), at_gate);
  EXPECT_EQ(copy->Processes()->size(), 2u);
  EXPECT_EQ(NamespacePids(copy->root())->back(), counter_->pid());

  ASSERT_THAT(tree_->Kill(seconds(10)), IsOk());
  ASSERT_THAT(copy->Thaw(), IsOk());
  EXPECT_TRUE(CountsOn());
  EXPECT_TRUE(CountedByOne());
  ASSERT_THAT(copy->Discard(), IsOk());
}

TEST_F(TreeMoveTest, ADiscardedCopyLeavesNothingAndTheOriginalRunsOn) {
  ASSERT_NO_FATAL_FAILURE(StartFreezeAndDump());
  auto copy = RestoreCopy();
  ASSERT_THAT(copy, IsOk());
  const auto path = copy->cgroup().path();
  ASSERT_THAT(copy->Discard(), IsOk());
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_THAT(tree_->Thaw(), IsOk());
  EXPECT_TRUE(CountsOn());
  EXPECT_TRUE(CountedByOne());
}

TEST_F(TreeMoveTest, AWorkloadStartedInAHolderMovesWithItsPids) {
  Cgroup tree_cgroup = Child("tree");
  Holder::Command command;
  command.arguments = {COUNTER, log_};
  auto holder = Holder::Start(Child("init"), tree_cgroup, directory_->path() / "exit", command);
  ASSERT_THAT(holder, IsOk());
  EXPECT_EQ(holder->inner_pid(), 2);
  ASSERT_TRUE(CountsOn());
  pid_t root = 0;
  const auto started = tree_cgroup.Processes();
  ASSERT_THAT(started, IsOk());
  for (const pid_t pid : *started) {
    if (NamespacePids(pid)->back() == 2) root = pid;
  }
  auto tree = WorkloadTree::Take(root, tree_cgroup);
  ASSERT_THAT(tree, IsOk());
  ASSERT_NO_FATAL_FAILURE(FreezeAndDump(*tree));
  auto copy = RestoreCopy();
  ASSERT_THAT(copy, IsOk());
  ASSERT_THAT(tree->Kill(seconds(10)), IsOk());
  ASSERT_THAT(copy->Thaw(), IsOk());
  EXPECT_TRUE(CountsOn());
  EXPECT_TRUE(CountedByOne());
  EXPECT_EQ(NamespacePids(copy->root())->back(), 2);
  ASSERT_THAT(copy->Discard(), IsOk());
}

TEST_F(TreeMoveTest, AHolderDiesWithItsStarterBeforeTheGate) {
  pid_t init = 0;
  {
    auto holder = Holder::Start(Child("init"), Child("tree"), directory_->path() / "exit", std::nullopt);
    ASSERT_THAT(holder, IsOk());
    init = holder->init_pid();
    EXPECT_EQ(kill(init, 0), 0);
  }
  Cgroup cgroup = Child("init");
  for (int i = 0; i < 2000 && !cgroup.Processes()->empty(); ++i) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_TRUE(cgroup.Processes()->empty());
}

TEST_F(TreeMoveTest, ACommandThatCannotStartSaysWhy) {
  Holder::Command command;
  command.arguments = {"/no/such/program"};
  EXPECT_THAT(Holder::Start(Child("init"), Child("tree"), directory_->path() / "exit", command),
              FailsWith(ErrorCode::kNotFound, "start /no/such/program"));
}

TEST_F(TreeMoveTest, TakingOurOwnAncestorIsRefused) {
  EXPECT_THAT(WorkloadTree::Take(getppid(), Child("tree")),
              FailsWith(ErrorCode::kInvalidArgument, "ancestor of gpumig"));
  EXPECT_THAT(WorkloadTree::Take(4194000, Child("tree")), FailsWith(ErrorCode::kNotFound, "4194000"));
  EXPECT_THAT(WorkloadTree::Take(2, Child("tree")), testing::Not(IsOk()));
}

// The kernel writes to these while it runs, so they must be in place before CRIU tells the kernel of them.
TEST_F(TreeMoveTest, WhatGoesPastCriuIsBigAndHoldsNoRseqArea) {
  ChildProcess counter = StartCounter("16");
  ASSERT_TRUE(CountsOn());
  auto tree = WorkloadTree::Take(counter.pid(), Child("tree"));
  ASSERT_THAT(tree, IsOk());
  ASSERT_THAT(tree->Freeze(seconds(10)), IsOk());
  const auto images = directory_->path() / "images";
  ASSERT_THAT(MakeDirectories(images), IsOk());
  const auto map = tree->Dump(criu_, Child("criu"), images);
  ASSERT_THAT(map, IsOk());
  EXPECT_GT(map->bytes(), std::uint64_t{16} << 20);
  EXPECT_EQ(MemoryMap::Parse(*ReadBinaryFile(images / kMemoryMapFile, kMaxMemoryMapBytes))->bytes(), map->bytes());
  const auto areas = RseqAreas(images);
  ASSERT_THAT(areas, IsOk());
  EXPECT_EQ(areas->size(), 3u);  // a parent, its thread, its child
  for (const ThreadArea& area : *areas) {
    EXPECT_GE(area.bytes, 32u);
    for (const ProcessPages& process : map->processes) {
      for (const MemoryExtent& range : process.extents()) {
        EXPECT_TRUE(area.address >= range.end() || area.address + area.bytes <= range.address) << area.address;
      }
    }
  }
  ASSERT_THAT(tree->Thaw(), IsOk());
  EXPECT_TRUE(CountsOn());
  EXPECT_THAT(tree->Release(), IsOk());
}

// All that its processes may write to.
std::string WritableMemory(const WorkloadTree& tree) {
  std::string content;
  const auto processes = tree.Processes();
  EXPECT_THAT(processes, IsOk());
  for (const pid_t pid : *processes) {
    const UniqueFd mem(open(fmt::format("/proc/{}/mem", pid).c_str(), O_RDONLY | O_CLOEXEC));
    std::istringstream maps(*ReadTextFile(fmt::format("/proc/{}/maps", pid)));
    for (std::string line; std::getline(maps, line);) {
      unsigned long begin = 0;
      unsigned long end = 0;
      char rights[5] = {};
      if (sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, rights) != 3 || rights[1] != 'w') continue;
      const std::size_t size = content.size();
      content.resize(size + (end - begin));
      EXPECT_EQ(pread(mem.get(), content.data() + size, end - begin, static_cast<off_t>(begin)),
                static_cast<ssize_t>(end - begin));
    }
  }
  return content;
}

// A shell that starts one command after the other is often on its way out of vfork().
TEST_F(TreeMoveTest, ADumpedTreeDoesNotRunOnBeforeItIsLetGo) {
  // Ours may be of another mount namespace, which CRIU does not dump.
  const UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  ChildProcess::Options options;
  options.descriptors = {{null.get(), 0}, {null.get(), 1}, {null.get(), 2}};
  options.arguments = {"/bin/sh", "-c", "while true; do /bin/true; done"};
  options.new_session = true;
  auto shell = ChildProcess::Start(options);
  ASSERT_THAT(shell, IsOk());
  auto tree = WorkloadTree::Take(shell->pid(), Child("tree"));
  ASSERT_THAT(tree, IsOk());
  for (int round = 0; round < 15; ++round) {
    SCOPED_TRACE(round);
    const auto images = directory_->path() / fmt::format("images-{}", round);
    ASSERT_THAT(tree->Freeze(seconds(10)), IsOk());
    ASSERT_THAT(MakeDirectories(images), IsOk());
    std::string when_dumped;
    const auto dumped = tree->Dump(criu_, Child("criu"), images, HostPath::kDirect, [&](std::string_view script) {
      if (script == "post-dump") when_dumped = WritableMemory(*tree);
      return Ok();
    });
    ASSERT_TRUE(dumped.has_value()) << dumped.error().message();
    EXPECT_FALSE(when_dumped.empty());
    EXPECT_TRUE(WritableMemory(*tree) == when_dumped);
    ASSERT_THAT(tree->Thaw(), IsOk());
    std::this_thread::sleep_for(milliseconds(1 + round % 5));
  }
  ASSERT_THAT(tree->Kill(seconds(10)), IsOk());
}

}  // namespace
}  // namespace gpumig
