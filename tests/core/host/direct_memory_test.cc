#include "core/host/direct_memory.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "tests/support/matchers.h"
#include "tests/support/needs.h"

namespace gpumig {
namespace {

using Ranges = std::vector<MemoryRange>;
constexpr std::uint64_t kRun = kLeastDirectBytes;

TEST(SplitTest, OnlyWhatIsEligibleGoesPastCriu) {
  const SplitPages split = Split({{0, 4 * kRun}}, {{kRun, kRun}}, {});
  EXPECT_EQ(split.direct, (Ranges{{kRun, kRun}}));
  EXPECT_EQ(split.with_criu, (Ranges{{0, kRun}, {2 * kRun, 2 * kRun}}));
}

TEST(SplitTest, ARunIsCutAtTheBorderOfMappings) {
  const SplitPages split = Split({{0, 4 * kRun}}, {{0, 2 * kRun}, {2 * kRun, 2 * kRun}}, {});
  EXPECT_EQ(split.direct, (Ranges{{0, 2 * kRun}, {2 * kRun, 2 * kRun}}));
  EXPECT_TRUE(split.with_criu.empty());
}

TEST(SplitTest, ShortRunsStayWithCriu) {
  const SplitPages split = Split({{0, kRun - kPageBytes}, {10 * kRun, kRun}}, {{0, 20 * kRun}}, {});
  EXPECT_EQ(split.direct, (Ranges{{10 * kRun, kRun}}));
  EXPECT_EQ(split.with_criu, (Ranges{{0, kRun - kPageBytes}}));
}

TEST(SplitTest, AnExcludedPageStaysWithCriuAndItsNeighboursDoNot) {
  const SplitPages split = Split({{0, 8 * kRun}}, {{0, 8 * kRun}}, {{6 * kRun, kPageBytes}, {2 * kRun, kPageBytes}});
  EXPECT_EQ(split.with_criu, (Ranges{{2 * kRun, kPageBytes}, {6 * kRun, kPageBytes}}));
  EXPECT_EQ(split.direct, (Ranges{{0, 2 * kRun},
                                  {2 * kRun + kPageBytes, 4 * kRun - kPageBytes},
                                  {6 * kRun + kPageBytes, 2 * kRun - kPageBytes}}));
}

TEST(SplitTest, NothingIsLostOrDoubled) {
  const Ranges dumped = {{0, 3 * kRun}, {5 * kRun, 2 * kPageBytes}, {8 * kRun, 9 * kRun}};
  const Ranges eligible = {{kRun / 2, 5 * kRun}, {9 * kRun, 2 * kRun}, {11 * kRun, kPageBytes}, {12 * kRun, 50 * kRun}};
  const SplitPages split = Split(dumped, eligible, {{13 * kRun, kPageBytes}});
  Ranges all = split.direct;
  all.insert(all.end(), split.with_criu.begin(), split.with_criu.end());
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.address < b.address; });
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    sum += all[i].bytes;
    if (i > 0) {
      EXPECT_LE(all[i - 1].end(), all[i].address);
    }
  }
  EXPECT_EQ(sum, 3 * kRun + 2 * kPageBytes + 9 * kRun);
}

TEST(EligibleMappingsTest, AreThoseThatAnybodyMayFill) {
  const auto eligible = EligibleMappings(
      "55b119165000-55b119186000 rw-p 00000000 00:00 0                          [heap]\n"
      "7f0000000000-7f0000400000 rw-p 00000000 00:00 0 \n"
      "7f0000400000-7f0000500000 r--p 00000000 00:00 0 \n"
      "7f0000500000-7f0000600000 rw-s 00000000 00:01 1027                       /dev/zero (deleted)\n"
      "7f0000600000-7f0000700000 rw-p 000de000 fe:00 333211                     /usr/lib/libm.so.6\n"
      "7f0000700000-7f0000800000 ---p 00000000 00:00 0 \n"
      "7f0000800000-7f0000900000 rwxp 00000000 00:00 0                          [anon:jit code]\n"
      "7ffc0f139000-7ffc0f15a000 rw-p 00000000 00:00 0                          [stack]\n"
      "7ffc0f1ee000-7ffc0f1f0000 r-xp 00000000 00:00 0                          [vdso]\n");
  ASSERT_THAT(eligible, IsOk());
  EXPECT_EQ(*eligible, (Ranges{{0x55b119165000, 0x21000}, {0x7f0000000000, 0x400000}, {0x7f0000800000, 0x100000}}));
}

TEST(EligibleMappingsTest, AnUnknownFormIsSaidToBeUnknown) {
  EXPECT_THAT(EligibleMappings("what is this\n"), FailsWith(ErrorCode::kUnsupported, "/proc/PID/maps"));
}

TEST(MappedOnceTest, PagesThatAChildSharesAreNot) {
  GPUMIG_NEEDS_ROOT();
  constexpr std::size_t kPages = 512;
  auto* memory = static_cast<char*>(
      mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  madvise(memory, kPages * kPageBytes, MADV_NOHUGEPAGE);
  std::memset(memory, 1, kPages * kPageBytes);
  const MemoryRange whole{reinterpret_cast<std::uintptr_t>(memory), kPages * kPageBytes};
  EXPECT_EQ(*MappedOnce(getpid(), {whole}), (Ranges{whole}));
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    std::memset(memory, 2, kPages / 2 * kPageBytes);
    [[maybe_unused]] const ssize_t written = write(ready[1], "r", 1);
    pause();
    _exit(0);
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_EQ(*MappedOnce(getpid(), {whole}), (Ranges{{whole.address, whole.bytes / 2}}));
  EXPECT_EQ(*MappedOnce(child, {whole}), (Ranges{{whole.address, whole.bytes / 2}}));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  munmap(memory, kPages * kPageBytes);
}

}  // namespace
}  // namespace gpumig
