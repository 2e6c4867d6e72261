#include "core/session/live_copy.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "core/host/process.h"
#include "core/image/chunk_codec.h"
#include "core/session/ahead_memory.h"
#include "core/session/host_memory.h"
#include "tests/core/image/image_fixture.h"
#include "tests/support/needs.h"

namespace gpumig {
namespace {

TEST(RangesTest, SubtractLeavesWhatIsNotInTheOther) {
  const std::vector<MemoryRange> from = {{0x1000, 0x4000}, {0x8000, 0x1000}, {0xa000, 0x2000}};
  const std::vector<MemoryRange> what = {{0x0000, 0x2000}, {0x3000, 0x1000}, {0x8000, 0x1000}, {0xb000, 0x5000}};
  EXPECT_EQ(Subtract(from, what), (std::vector<MemoryRange>{{0x2000, 0x1000}, {0x4000, 0x1000}, {0xa000, 0x1000}}));
  EXPECT_EQ(Subtract(from, {}), from);
  EXPECT_TRUE(Subtract({}, from).empty());
}

TEST(RangesTest, IntersectLeavesWhatIsInBoth) {
  const std::vector<MemoryRange> a = {{0x1000, 0x4000}, {0x8000, 0x1000}};
  const std::vector<MemoryRange> b = {{0x0000, 0x2000}, {0x3000, 0x1000}, {0x4000, 0x5000}};
  EXPECT_EQ(Intersect(a, b),
            (std::vector<MemoryRange>{{0x1000, 0x1000}, {0x3000, 0x1000}, {0x4000, 0x1000}, {0x8000, 0x1000}}));
}

TEST(CutIntoPiecesTest, ByAddressTheSameMemoryIsCutTheSameWay) {
  const std::uint64_t window = kMaxChunkBytes;
  const auto pieces = CutIntoPieces({{window - 0x1000, 0x2000}, {window + 0x5000, window}}, true);
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_EQ(pieces[0], (std::vector<MemoryRange>{{window - 0x1000, 0x1000}}));
  EXPECT_EQ(pieces[1], (std::vector<MemoryRange>{{window, 0x1000}, {window + 0x5000, window - 0x5000}}));
  EXPECT_EQ(pieces[2], (std::vector<MemoryRange>{{2 * window, 0x5000}}));
  EXPECT_EQ(CutIntoPieces({{window - 0x1000, 0x2000}, {window + 0x5000, window - 0x2000}}, false).size(), 1u);
}

TEST(AheadMemoryTest, GivesBackWhatItKeptOnce) {
  auto memory = AheadMemory::Make(3 * 4096);
  ASSERT_THAT(memory, IsOk());
  const Bytes first = Random(5000, 1);
  const Bytes second = Random(8000, 2);
  memory->Keep(Digest::Of(first), first);
  memory->Keep(Digest::Of(second), second);  // there is no room for it
  EXPECT_EQ(memory->bytes(), first.size());
  Bytes got;
  const auto use = [&](std::span<const std::byte> plain) -> Result<void> {
    got.assign(plain.begin(), plain.end());
    return Ok();
  };
  EXPECT_FALSE(*memory->Take(Digest::Of(second), use));
  EXPECT_THAT(memory->Take(Digest::Of(first),
                           [](auto) -> Result<void> { return MakeError(ErrorCode::kIo, "it cannot be placed"); }),
              FailsWith(ErrorCode::kIo, "placed"));
  EXPECT_TRUE(*memory->Take(Digest::Of(first), use));
  EXPECT_EQ(got, first);
  EXPECT_FALSE(*memory->Take(Digest::Of(first), use));
  EXPECT_EQ(memory->bytes(), 0u);
}

// A target in memory, which can lose chunks.
class FakeTarget : public AheadShipper {
 public:
  Result<void> BeginAhead(std::uint64_t, std::stop_token) override {
    began = true;
    return Ok();
  }
  Result<void> ShipAhead(std::span<const AheadChunk> batch, std::stop_token) override {
    const std::lock_guard lock(mutex);
    if (cut) return MakeError(ErrorCode::kUnavailable, "the link was cut");
    for (const AheadChunk& chunk : batch) {
      const std::span<const std::byte> plain = std::span(chunk.room_and_plain).subspan(kChunkHeaderBytes);
      EXPECT_EQ(Digest::Of(plain), chunk.digest);
      chunks[chunk.digest] = Bytes(plain.begin(), plain.end());
    }
    return Ok();
  }
  Result<std::vector<bool>> LacksAhead(std::span<const Digest> digests, std::stop_token) override {
    std::vector<bool> lacks;
    for (const Digest& digest : digests) lacks.push_back(!chunks.contains(digest));
    return lacks;
  }

  std::mutex mutex;
  std::unordered_map<Digest, Bytes> chunks;
  bool began = false;
  bool cut = false;
};

constexpr std::size_t kBytes = std::size_t{24} << 20;

// A process that writes to its memory all the time, here and there.
class LiveCopyTest : public testing::Test {
 protected:
  void SetUp() override {
    GPUMIG_NEEDS_ROOT();
    memory_ =
        static_cast<std::byte*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory_, MAP_FAILED);
    shared_ = static_cast<std::atomic<std::uint64_t>*>(
        mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(static_cast<void*>(shared_), MAP_FAILED);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close_range(3, ~0u, 0);
      const Bytes random = Random(kBytes / 2, 7);
      std::memcpy(memory_, random.data(), random.size());  // and the other half is zeros that are there
      for (std::size_t i = kBytes / 2; i < kBytes; i += kPageBytes) memory_[i] = std::byte{0};
      for (std::uint64_t round = 1;; ++round) {
        memory_[(round * 7919) % (kBytes / kPageBytes) * kPageBytes + round % kPageBytes] = std::byte{0xee};
        if (round % 64 == 0) madvise(memory_ + round % 1000 * kPageBytes, kPageBytes, MADV_DONTNEED);
        shared_->store(round);
        usleep(100);
      }
    }
    while (shared_->load() == 0) usleep(1000);
    const auto tracker = WriteTracker::Attach(pid_);
    if (!tracker && tracker.error().code() == ErrorCode::kUnsupported)
      GTEST_SKIP() << "this kernel cannot: " << tracker.error().message();
  }
  void TearDown() override {
    if (pid_ > 0) kill(pid_, SIGKILL);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
    munmap(memory_, kBytes);
    munmap(shared_, kPageBytes);
  }

  void Stop() {
    kill(pid_, SIGSTOP);
    int status = 0;
    ASSERT_EQ(waitpid(pid_, &status, WUNTRACED), pid_);
    dumped_ = Dumped();
  }
  // What CRIU would dump: pages that are there.
  MemoryMap Dumped() const {
    const UniqueFd pagemap = *OpenFile(fmt::format("/proc/{}/pagemap", pid_), O_RDONLY);
    std::vector<std::uint64_t> entries(kBytes / kPageBytes);
    const auto address = reinterpret_cast<std::uintptr_t>(memory_);
    EXPECT_THAT(ReadExactlyAt(pagemap.get(), std::as_writable_bytes(std::span(entries)), address / kPageBytes * 8),
                IsOk());
    std::vector<MemoryRange> ranges;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (entries[i] >> 62 == 0) continue;  // neither present nor swapped
      if (!ranges.empty() && ranges.back().end() == address + i * kPageBytes) {
        ranges.back().bytes += kPageBytes;
      } else {
        ranges.push_back({address + i * kPageBytes, kPageBytes});
      }
    }
    MemoryMap map;
    map.processes.emplace_back(NamespacePids(pid_)->back(), ranges);
    return map;
  }
  Bytes Now() const {
    Bytes bytes(kBytes);
    const ProcessPages all(1, {{reinterpret_cast<std::uintptr_t>(memory_), kBytes}});
    EXPECT_THAT(all.Read(pid_, 0, bytes), IsOk());
    return bytes;
  }
  // Not EXPECT_EQ, which would print them.
  void ExpectRebuilt(const LiveCopy::Finished& finished) {
    const Bytes rebuilt = Rebuilt(finished);
    const Bytes now = Now();
    for (std::size_t i = 0; i < kBytes; i += kPageBytes) {
      ASSERT_EQ(std::memcmp(rebuilt.data() + i, now.data() + i, kPageBytes), 0) << "page " << i / kPageBytes;
    }
  }
  // What a target would make of it: every extent of every layer from the chunks of its file.
  Bytes Rebuilt(const LiveCopy::Finished& finished) {
    Bytes memory(kBytes);
    std::size_t covered = 0;
    for (const ProcessPages& pages : finished.map.processes) {
      const UnwrittenFile* file = nullptr;
      for (const auto* files : {&finished.ahead, &finished.last}) {
        for (const UnwrittenFile& each : *files) {
          if (each.name == MemoryFileName(pages)) file = &each;
        }
      }
      EXPECT_NE(file, nullptr);
      if (file == nullptr) return memory;
      EXPECT_EQ(file->bytes, pages.bytes());
      Bytes content(file->bytes);
      std::uint64_t at = 0;
      for (const FilePiece& piece : file->pieces) {
        const std::span<std::byte> into = std::span(content).subspan(at, piece.bytes);
        if (!piece.known) {
          EXPECT_THAT(file->read(at, into), IsOk());
        } else if (!piece.known->zero) {
          const Bytes& chunk = target_.chunks[piece.known->digest];
          EXPECT_EQ(chunk.size(), into.size());
          std::copy(chunk.begin(), chunk.end(), into.begin());
        }
        at += piece.bytes;
      }
      for (const MemoryExtent& extent : pages.extents()) {
        const std::uint64_t to = extent.address - reinterpret_cast<std::uintptr_t>(memory_);
        std::memcpy(memory.data() + to, content.data() + extent.offset, extent.bytes);
        covered += extent.bytes;
      }
    }
    EXPECT_EQ(covered, dumped_.bytes());  // each page once: MemoryMap::Parse() has seen that none is there twice
    EXPECT_THAT(MemoryMap::Parse(finished.map.Serialise()), IsOk());
    return memory;
  }

  std::byte* memory_ = nullptr;
  std::atomic<std::uint64_t>* shared_ = nullptr;
  pid_t pid_ = 0;
  FakeTarget target_;
  MemoryMap dumped_;
};

TEST_F(LiveCopyTest, WhatIsRebuiltIsTheMemoryAtTheStop) {
  LiveCopy live(target_, {.most_rounds = 5, .enough_bytes = 0});
  ASSERT_THAT(live.CopyInRounds([&] { return Result<std::vector<pid_t>>(std::vector{pid_}); }, {}), IsOk());
  EXPECT_TRUE(target_.began);
  ASSERT_FALSE(live.report().rounds.empty());
  EXPECT_GE(live.report().rounds[0].bytes, kBytes / 4);
  const std::uint64_t before = shared_->load();
  while (shared_->load() < before + 50) usleep(1000);
  Stop();
  const auto finished = live.Finish(dumped_, {pid_}, {});
  ASSERT_THAT(finished, IsOk());
  EXPECT_TRUE(live.report().left_alone.empty());
  EXPECT_GT(live.report().bytes_left, 0u);
  EXPECT_LT(live.report().bytes_left, kBytes / 2);
  ExpectRebuilt(*finished);
}

TEST_F(LiveCopyTest, WhatTheTargetHasLostIsCopiedAgain) {
  LiveCopy live(target_, {.most_rounds = 1, .enough_bytes = 0});
  ASSERT_THAT(live.CopyInRounds([&] { return Result<std::vector<pid_t>>(std::vector{pid_}); }, {}), IsOk());
  Stop();
  ASSERT_GT(target_.chunks.size(), 3u);
  std::size_t lost = 0;
  for (int i = 0; i < 2; ++i) {
    lost += target_.chunks.begin()->second.size();
    target_.chunks.erase(target_.chunks.begin());
  }
  const auto finished = live.Finish(dumped_, {pid_}, {});
  ASSERT_THAT(finished, IsOk());
  EXPECT_GE(live.report().bytes_left, lost / 2);  // some of it the process has given up since
  ExpectRebuilt(*finished);
}

TEST_F(LiveCopyTest, AProcessThatCannotBeWatchedIsLeftToTheStopAndNamed) {
  Stop();
  LiveCopy live(target_, {.most_rounds = 2, .enough_bytes = 0});
  ASSERT_THAT(live.CopyInRounds([&] { return Result<std::vector<pid_t>>(std::vector{pid_, 999'999'999}); }, {}),
              IsOk());
  ASSERT_EQ(live.report().left_alone.size(), 1u);
  EXPECT_THAT(live.report().left_alone[0], testing::HasSubstr("it is stopped"));
  const auto finished = live.Finish(dumped_, {pid_}, {});
  ASSERT_THAT(finished, IsOk());
  EXPECT_EQ(live.report().bytes_left, dumped_.bytes());
  ExpectRebuilt(*finished);
}

TEST_F(LiveCopyTest, ACutLinkIsAnErrorAndTheProcessRunsOn) {
  target_.cut = true;
  LiveCopy live(target_, {});
  EXPECT_THAT(live.CopyInRounds([&] { return Result<std::vector<pid_t>>(std::vector{pid_}); }, {}),
              FailsWith(ErrorCode::kUnavailable, "cut"));
  const std::uint64_t before = shared_->load();
  while (shared_->load() < before + 5) usleep(1000);
}

}  // namespace
}  // namespace gpumig
