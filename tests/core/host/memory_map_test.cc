#include "core/host/memory_map.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

MemoryMap Sample() {
  MemoryMap map;
  map.processes.emplace_back(7, std::vector<MemoryRange>{{0x10000, 0x3000}, {0x20000, 0x1000}});
  map.processes.emplace_back(9, std::vector<MemoryRange>{{0x7f0000000000, 0x200000}});
  return map;
}

TEST(MemoryMapTest, ComesBackAsItWasWritten) {
  const auto parsed = MemoryMap::Parse(Sample().Serialise());
  ASSERT_THAT(parsed, IsOk());
  ASSERT_EQ(parsed->processes.size(), 2u);
  EXPECT_EQ(parsed->processes[0].inner_pid(), 7);
  EXPECT_EQ(parsed->processes[0].extents(), Sample().processes[0].extents());
  EXPECT_EQ(parsed->bytes(), 0x4000u + 0x200000u);
}

TEST(MemoryMapTest, ATruncatedMapIsDamagedWhereverItIsCut) {
  const std::vector<std::byte> whole = Sample().Serialise();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    SCOPED_TRACE(size);
    EXPECT_THAT(MemoryMap::Parse(std::span(whole).first(size)), FailsWith(ErrorCode::kDamaged, ""));
  }
}

class HostileMemoryMapTest : public testing::TestWithParam<std::vector<MemoryRange>> {};

TEST_P(HostileMemoryMapTest, IsRefused) {
  MemoryMap map;
  map.processes.emplace_back(7, GetParam());
  EXPECT_THAT(MemoryMap::Parse(map.Serialise()), FailsWith(ErrorCode::kDamaged, ""));
}

INSTANTIATE_TEST_SUITE_P(Ranges, HostileMemoryMapTest,
                         testing::Values(std::vector<MemoryRange>{},                                      // none at all
                                         std::vector<MemoryRange>{{0x10000, 0}},                          // empty
                                         std::vector<MemoryRange>{{0x10001, 0x1000}},                     // no page
                                         std::vector<MemoryRange>{{0x10000, 0x1001}},                     //
                                         std::vector<MemoryRange>{{0x20000, 0x1000}, {0x10000, 0x1000}},  // unsorted
                                         std::vector<MemoryRange>{{0x10000, 0x2000}, {0x11000, 0x1000}},  // overlapping
                                         std::vector<MemoryRange>{{0xfffffffffffff000, 0x2000}}));        // too far

TEST(MemoryMapTest, AProcessMayBeNamedOnce) {
  MemoryMap map = Sample();
  map.processes.push_back(map.processes.front());
  EXPECT_THAT(MemoryMap::Parse(map.Serialise()), FailsWith(ErrorCode::kDamaged, "process 7 twice"));
}

TEST(MemoryMapTest, ANewerVersionIsNamed) {
  std::vector<std::byte> bytes = Sample().Serialise();
  bytes[8] = std::byte{3};
  EXPECT_THAT(MemoryMap::Parse(bytes), FailsWith(ErrorCode::kUnsupported, "version 3"));
}

// Layer 0 has gaps where layer 1 has something newer.
MemoryMap InLayers() {
  MemoryMap map;
  map.processes.emplace_back(
      7, 0, 0x4000,
      std::vector<MemoryExtent>{{0, 0x10000, 0x1000}, {0x2000, 0x12000, 0x1000}, {0x3000, 0x20000, 0x1000}});
  map.processes.emplace_back(7, 1, 0x1000, std::vector<MemoryExtent>{{0, 0x11000, 0x1000}});
  return map;
}

TEST(MemoryMapTest, LayersComeBackAsTheyWereWritten) {
  const auto parsed = MemoryMap::Parse(InLayers().Serialise());
  ASSERT_THAT(parsed, IsOk());
  ASSERT_EQ(parsed->processes.size(), 2u);
  EXPECT_EQ(parsed->processes[0].extents(), InLayers().processes[0].extents());
  EXPECT_EQ(parsed->processes[0].bytes(), 0x4000u);
  EXPECT_EQ(parsed->processes[1].layer(), 1u);
  EXPECT_EQ(MemoryFileName(parsed->processes[0]), "memory-7");
  EXPECT_EQ(MemoryFileName(parsed->processes[1]), "memory-7.1");
  EXPECT_TRUE(IsMemoryFileName("memory-7.1"));
  EXPECT_FALSE(IsMemoryFileName("memory-7."));
  EXPECT_FALSE(IsMemoryFileName("memory-map.img"));
  const std::vector<std::byte> whole = InLayers().Serialise();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    SCOPED_TRACE(size);
    EXPECT_THAT(MemoryMap::Parse(std::span(whole).first(size)), FailsWith(ErrorCode::kDamaged, ""));
  }
}

TEST(MemoryMapTest, TwoLayersMayNotHaveOneAddress) {
  MemoryMap map = InLayers();
  map.processes.emplace_back(7, 2, 0x1000, std::vector<MemoryExtent>{{0, 0x12000, 0x1000}});
  EXPECT_THAT(MemoryMap::Parse(map.Serialise()), FailsWith(ErrorCode::kDamaged, "two layers"));
}

TEST(MemoryMapTest, AnExtentBehindTheEndOfItsFileIsDamaged) {
  MemoryMap map;
  map.processes.emplace_back(7, 0, 0x1000, std::vector<MemoryExtent>{{0x1000, 0x10000, 0x1000}});
  EXPECT_THAT(MemoryMap::Parse(map.Serialise()), FailsWith(ErrorCode::kDamaged, "behind its file's end"));
}

TEST(ProcessPagesTest, APieceMayReachOverSeveralRanges) {
  const ProcessPages pages(1, {{0x10000, 0x1000}, {0x20000, 0x2000}, {0x30000, 0x1000}});
  const std::vector<ProcessPages::Piece> pieces = pages.Pieces(0x800, 0x3000);
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pieces[0].remote.iov_base), 0x10800u);
  EXPECT_EQ(pieces[0].remote.iov_len, 0x800u);
  EXPECT_EQ(pieces[1].at, 0x800u);
  EXPECT_EQ(pieces[1].remote.iov_len, 0x2000u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(pieces[2].remote.iov_base), 0x30000u);
  EXPECT_EQ(pieces[2].remote.iov_len, 0x800u);
}

TEST(ProcessPagesTest, WhatIsInAGapStaysAsItIs) {
  auto* memory =
      static_cast<char*>(mmap(nullptr, 3 * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  const ProcessPages pages(1, 0, 3 * kPageBytes,
                           {{0, address, kPageBytes}, {2 * kPageBytes, address + 2 * kPageBytes, kPageBytes}});
  const std::vector<std::byte> bytes(3 * kPageBytes, std::byte{7});
  ASSERT_THAT(pages.Write(getpid(), 0, bytes), IsOk());
  EXPECT_EQ(memory[0], 7);
  EXPECT_EQ(memory[kPageBytes], 0);
  EXPECT_EQ(memory[2 * kPageBytes], 7);
  ASSERT_THAT(pages.Write(getpid(), kPageBytes, std::span(bytes).first(kPageBytes)), IsOk());  // nothing but a gap
  EXPECT_EQ(memory[kPageBytes], 0);
  std::vector<std::byte> back(3 * kPageBytes, std::byte{1});
  ASSERT_THAT(pages.Read(getpid(), 0, back), IsOk());
  EXPECT_EQ(back[0], std::byte{7});
  EXPECT_EQ(back[kPageBytes], std::byte{1});
  munmap(memory, 3 * kPageBytes);
}

TEST(ProcessPagesTest, ReadsAndWritesMoreRangesThanOneCallTakes) {
  constexpr std::size_t kRanges = 3000;
  auto* memory = static_cast<char*>(
      mmap(nullptr, 2 * kRanges * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  std::vector<MemoryRange> ranges;
  std::vector<std::byte> bytes(kRanges * kPageBytes);
  for (std::size_t i = 0; i < kRanges; ++i) {
    ranges.push_back({reinterpret_cast<std::uintptr_t>(memory) + 2 * i * kPageBytes, kPageBytes});
    std::memset(bytes.data() + i * kPageBytes, static_cast<int>(i % 251), kPageBytes);
  }
  const ProcessPages pages(1, ranges);
  ASSERT_THAT(pages.Write(getpid(), 0, bytes), IsOk());
  EXPECT_EQ(memory[2 * 77 * kPageBytes + 5], 77);
  EXPECT_EQ(memory[(2 * 77 + 1) * kPageBytes], 0);
  std::vector<std::byte> back(bytes.size() - 100);
  ASSERT_THAT(pages.Read(getpid(), 100, back), IsOk());
  EXPECT_EQ(std::memcmp(back.data(), bytes.data() + 100, back.size()), 0);
  munmap(memory, 2 * kRanges * kPageBytes);
}

TEST(ProcessPagesTest, MemoryThatIsNotThereIsNamed) {
  const ProcessPages pages(1, {{0x1000, 0x1000}});
  std::vector<std::byte> bytes(0x1000);
  EXPECT_THAT(pages.Read(getpid(), 0, bytes), FailsWith(ErrorCode::kFailedPrecondition, "0x1000"));
}

}  // namespace
}  // namespace gpumig
