// A cache is a help and never a need: whatever becomes of it, each chunk is either taken whole and right, or said to be
// lacking.
#include "core/image/chunk_cache.h"

#include <sys/stat.h>

#include <condition_variable>
#include <set>
#include <thread>

#include "tests/core/image/image_fixture.h"

namespace gpumig {
namespace {

constexpr std::uint64_t kNoReserve = 0;

class ChunkCacheTest : public ImageFixture {
 protected:
  static CacheLimits Limits(std::uint64_t kept_bytes = std::uint64_t{1} << 30) {
    CacheLimits limits;
    limits.kept_bytes = kept_bytes;
    limits.reserve_bytes = kNoReserve;
    limits.longest_look = std::chrono::minutes(2);
    limits.longest_read = std::chrono::minutes(2);
    return limits;
  }
  ChunkCache Cache(std::uint64_t kept_bytes = std::uint64_t{1} << 30) const {
    return ChunkCache(root() / "cache", Limits(kept_bytes));
  }

  // As what came in; each of `contents` is one chunk.
  PackChunkStore Pack(const std::vector<Bytes>& contents) const {
    const auto directory = root() / "incoming";
    std::filesystem::create_directory(directory);
    auto store = PackChunkStore::Open(directory);
    EXPECT_THAT(store, IsOk());
    for (const Bytes& bytes : contents)
      EXPECT_THAT(store->Put(Digest::Of(bytes), EncodeChunk(bytes, CompressionChoice::None())), IsOk());
    return *std::move(store);
  }

  // What a target gets of `contents`: for each whether the cache gave it. What it gave is right, or the test fails.
  static std::vector<bool> Given(const ChunkCache& cache, const std::vector<Bytes>& contents) {
    std::vector<Digest> digests;
    for (const Bytes& bytes : contents) digests.push_back(Digest::Of(bytes));
    const std::shared_ptr<CachedChunks> cached = cache.Find(digests);
    std::vector<bool> lacking(contents.size(), true);
    cached->Take(digests, lacking, [&](const Digest& digest, std::span<const std::byte> encoded) -> Result<void> {
      const auto at = std::find(digests.begin(), digests.end(), digest) - digests.begin();
      const auto& wanted = contents[static_cast<std::size_t>(at)];
      const Bytes plain = GPUMIG_TRY(DecodeChunk(encoded, digest, wanted.size()));
      EXPECT_EQ(plain, wanted);
      return Ok();
    });
    lacking.flip();
    return lacking;
  }
  static std::size_t CountGiven(const ChunkCache& cache, const std::vector<Bytes>& contents) {
    const std::vector<bool> given = Given(cache, contents);
    return static_cast<std::size_t>(std::count(given.begin(), given.end(), true));
  }
  static std::vector<Bytes> ChunksOf(const Bytes& bytes) {
    std::vector<Bytes> chunks;
    for (std::size_t at = 0; at < bytes.size(); at += kMaxChunkBytes) {
      const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at);
      chunks.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(std::min(kMaxChunkBytes, bytes.size() - at)));
    }
    return chunks;
  }
  static void Flip(const std::filesystem::path& file, std::size_t at) {
    struct stat before{};
    ASSERT_EQ(stat(file.c_str(), &before), 0);
    Bytes bytes = ReadBytes(file);
    ASSERT_LT(at, bytes.size());
    bytes[at] ^= std::byte{1};
    WriteBytes(file, bytes);
    // As a disk does it: without a word in the inode.
    const timespec times[2] = {before.st_atim, before.st_mtim};
    ASSERT_EQ(utimensat(AT_FDCWD, file.c_str(), times, 0), 0);
  }
  std::uint64_t KeptBytes() const {
    std::uint64_t sum = 0;
    const auto items = Cache().List();
    EXPECT_THAT(items, IsOk());
    for (const CacheItem& item : *items) sum += item.kind == CacheKind::kKept ? item.bytes : 0;
    return sum;
  }
};

TEST_F(ChunkCacheTest, GivesTheChunksOfFilesAndImagesThatWereAdded) {
  const Bytes model = Concat({Random(kMaxChunkBytes, 1), Zeros(kMaxChunkBytes), Random(5000, 2)});
  WriteBytes(root() / "model", model);
  AddSampleFiles();
  ASSERT_THAT(WriteImage(source(), image(), Options()), IsOk());
  ChunkCache cache = Cache();
  const auto added = cache.Add(root() / "model", Parallel());
  ASSERT_THAT(added, IsOk());
  EXPECT_EQ(added->chunk_count, 2u) << "zeros are nobody's";
  ASSERT_THAT(cache.Add(image(), Parallel()), IsOk());
  std::vector<Bytes> wanted = ChunksOf(model);
  wanted.erase(wanted.begin() + 1);
  wanted.push_back(Random(kMaxChunkBytes, 2));
  wanted.push_back(Repetitive(3000, 1));
  wanted.push_back(Random(4000, 99));
  EXPECT_EQ(Given(cache, wanted), (std::vector<bool>{true, true, true, true, false}));

  ASSERT_THAT(cache.Remove(root() / "model"), IsOk());
  EXPECT_EQ(Given(cache, wanted), (std::vector<bool>{false, false, true, true, false}));
  EXPECT_THAT(cache.Remove(root() / "model"), FailsWith(ErrorCode::kNotFound, "model"));
  EXPECT_TRUE(std::filesystem::exists(root() / "model"));
  EXPECT_THAT(cache.Add(source(), Parallel()), FailsWith(ErrorCode::kNotFound, "source"));
  EXPECT_THAT(cache.Add("/dev/null", Parallel()), FailsWith(ErrorCode::kInvalidArgument, "regular"));
}

TEST_F(ChunkCacheTest, WhatWasDamagedChangedCutOrRemovedIsNoticedAndDropped) {
  const Bytes model = Concat({Random(kMaxChunkBytes, 1), Random(5000, 2)});
  const auto file = root() / "model";
  const std::vector<std::pair<const char*, std::function<void()>>> accidents = {
      {"flipped", [&] { Flip(file, kMaxChunkBytes + 77); }},
      {"changed", [&] { WriteBytes(file, Concat({Random(kMaxChunkBytes, 1), Random(5000, 3)})); }},
      {"cut", [&] { std::filesystem::resize_file(file, 1000); }},
      {"removed", [&] { std::filesystem::remove(file); }},
      {"a pipe", [&] {
         std::filesystem::remove(file);
         ASSERT_EQ(mkfifo(file.c_str(), 0600), 0);
       }}};
  for (const auto& [name, accident] : accidents) {
    SCOPED_TRACE(name);
    std::filesystem::remove(file);
    WriteBytes(file, model);
    ChunkCache cache = Cache();
    ASSERT_THAT(cache.Add(file, Parallel()), IsOk());
    ASSERT_EQ(CountGiven(cache, ChunksOf(model)), 2u);
    accident();
    const std::vector<bool> given = Given(cache, ChunksOf(model));
    EXPECT_FALSE(given[1]);
    const auto left = cache.List();
    ASSERT_THAT(left, IsOk());
    EXPECT_TRUE(left->empty()) << "it is in the cache still";
  }
}

TEST_F(ChunkCacheTest, OneDamagedChunkOfAKeptImageCostsThatChunkOnly) {
  const std::vector<Bytes> contents = {Random(40000, 1), Random(50000, 2), Random(60000, 3)};
  ChunkCache cache = Cache();
  {
    PackChunkStore store = Pack(contents);
    const auto kept = cache.Keep(store, "job");
    ASSERT_THAT(kept, IsOk());
    EXPECT_TRUE(*kept);
    EXPECT_TRUE(store.List()->empty());
    // It can be used on, and what it gets is its own.
    ASSERT_THAT(store.Put(Digest::Of(contents[0]), EncodeChunk(contents[0], CompressionChoice::None())), IsOk());
    EXPECT_THAT(store.Get(Digest::Of(contents[0])), IsOk());
    ASSERT_THAT(store.Clear(), IsOk());
  }
  EXPECT_EQ(Given(cache, contents), (std::vector<bool>{true, true, true}));
  const auto kept = cache.List()->front().path;
  Flip(kept / "chunks.pack", 40960 + 100);
  EXPECT_EQ(Given(cache, contents), (std::vector<bool>{true, false, true}));
  EXPECT_EQ(cache.List()->front().chunk_count, 2u);
  std::filesystem::resize_file(kept / "chunks.pack", 40960);
  EXPECT_EQ(Given(cache, contents), (std::vector<bool>{true, false, false}));
  std::filesystem::remove(kept / "chunks.pack");
  EXPECT_EQ(CountGiven(cache, contents), 0u);
}

TEST_F(ChunkCacheTest, KeepsNoMoreThanItMayAndDropsTheOldestFirst) {
  const auto content = [](std::uint64_t seed) { return std::vector<Bytes>{Random(100'000, seed)}; };
  constexpr std::uint64_t kBound = 250'000;  // two of them
  ChunkCache cache = Cache(kBound);
  const auto keep = [&](const std::string& job, std::uint64_t seed) {
    PackChunkStore store = Pack(content(seed));
    const auto kept = cache.Keep(store, job);
    EXPECT_THAT(kept, IsOk());
    EXPECT_LE(KeptBytes(), kBound);
    return kept && *kept;
  };
  EXPECT_TRUE(keep("a", 1));
  EXPECT_TRUE(keep("b", 2));
  EXPECT_TRUE(keep("c", 3));
  EXPECT_EQ(CountGiven(cache, content(1)), 0u);
  EXPECT_EQ(CountGiven(cache, content(2)) + CountGiven(cache, content(3)), 2u);
  EXPECT_TRUE(keep("b", 4)) << "the same job again";
  EXPECT_EQ(CountGiven(cache, content(2)), 0u);
  EXPECT_EQ(CountGiven(cache, content(3)) + CountGiven(cache, content(4)), 2u);

  PackChunkStore big = Pack({Random(300'000, 5)});
  const auto kept = cache.Keep(big, "big");
  ASSERT_THAT(kept, IsOk());
  EXPECT_FALSE(*kept) << "it alone is more than may be kept";
  EXPECT_EQ(CountGiven(cache, content(3)) + CountGiven(cache, content(4)), 2u) << "and it displaces nothing";

  CacheLimits greedy = Limits(kBound);
  greedy.reserve_bytes = std::uint64_t{1} << 60;
  PackChunkStore last = Pack(content(6));
  const auto on_full_disk = ChunkCache(root() / "cache", greedy).Keep(last, "d");
  ASSERT_THAT(on_full_disk, IsOk());
  EXPECT_FALSE(*on_full_disk) << "the disk has no such reserve";
  EXPECT_EQ(KeptBytes(), 0u);
}

// Somebody may have an evicted image open; its room is free all the same.
TEST_F(ChunkCacheTest, AnEvictedImageTakesNoRoomAndReadsAsMissing) {
  const std::vector<Bytes> contents = {Random(100'000, 1)};
  ChunkCache cache = Cache();
  PackChunkStore store = Pack(contents);
  ASSERT_THAT(cache.Keep(store, "job"), IsOk());
  const std::vector<Digest> digests = {Digest::Of(contents[0])};
  const std::shared_ptr<CachedChunks> cached = cache.Find(digests);
  ASSERT_EQ(cached->chunk_count(), 1u);
  const UniqueFd pack(open((cache.List()->front().path / "chunks.pack").c_str(), O_RDONLY | O_CLOEXEC));
  cache.MakeRoom(std::uint64_t{1} << 62);
  struct stat status{};
  ASSERT_EQ(fstat(pack.get(), &status), 0);
  EXPECT_EQ(status.st_size, 0);
  std::vector<bool> lacking = {true};
  cached->Take(digests, lacking, [](const Digest&, std::span<const std::byte>) { return Ok(); });
  EXPECT_TRUE(lacking[0]);
}

TEST_F(ChunkCacheTest, ADamagedIndexIsSaidAndMadeAnewByAddingAgain) {
  const Bytes model = Random(70'000, 1);
  WriteBytes(root() / "model", model);
  ChunkCache cache = Cache();
  const auto added = cache.Add(root() / "model", Parallel());
  ASSERT_THAT(added, IsOk());
  const auto index_file = root() / "cache" / "added" / added->id;
  const Bytes whole = ReadBytes(index_file);
  for (std::size_t cut = 0; cut < whole.size(); ++cut) {
    EXPECT_FALSE(CacheIndex::Parse(std::span(whole).first(cut)).has_value()) << cut;
  }
  for (std::size_t at = 0; at < whole.size(); ++at) {
    Bytes damaged = whole;
    damaged[at] ^= std::byte{0x40};
    EXPECT_FALSE(CacheIndex::Parse(damaged).has_value()) << at;
  }
  Flip(index_file, whole.size() / 2);
  EXPECT_EQ(CountGiven(cache, {model}), 0u);
  auto items = cache.List();
  ASSERT_THAT(items, IsOk());
  ASSERT_EQ(items->size(), 1u);
  EXPECT_NE(items->front().trouble.find("not those that were written"), std::string::npos) << items->front().trouble;
  ASSERT_THAT(cache.Add(root() / "model", Parallel()), IsOk());
  EXPECT_EQ(CountGiven(cache, {model}), 1u);
  Flip(index_file, 3);
  ASSERT_THAT(cache.Remove(added->id), IsOk());
  EXPECT_TRUE(cache.List()->empty());
}

TEST_F(ChunkCacheTest, ManyAddAtOnceAndNothingGetsLost) {
  constexpr std::size_t kAdders = 6;
  std::vector<Bytes> contents;
  for (std::size_t i = 0; i < kAdders; ++i) {
    contents.push_back(Random(20'000, i));
    WriteBytes(root() / fmt::format("model-{}", i), contents.back());
  }
  std::vector<std::thread> adders;
  for (std::size_t i = 0; i < kAdders; ++i) {
    adders.emplace_back([&, i] {
      ChunkCache cache = Cache();  // each with its own lock, as a process of its own has
      EXPECT_THAT(cache.Add(root() / fmt::format("model-{}", i), {}), IsOk());
      EXPECT_THAT(cache.Add(root() / "model-0", {}), IsOk());
    });
  }
  for (std::thread& adder : adders) adder.join();
  EXPECT_EQ(Cache().List()->size(), kAdders);
  EXPECT_EQ(CountGiven(Cache(), contents), kAdders);
}

// As a file on a server that is down.
TEST_F(ChunkCacheTest, AReadThatHangsCountsAsMissing) {
  const Bytes model = Random(2 * kMaxChunkBytes, 1);
  WriteBytes(root() / "model", model);
  ASSERT_THAT(Cache().Add(root() / "model", Parallel()), IsOk());
  struct Server {
    std::mutex mutex;
    std::condition_variable changed;
    bool up = false;
    int held = 0;
  };
  const auto server = std::make_shared<Server>();
  const auto read = [server] {
    std::unique_lock lock(server->mutex);
    ++server->held;
    server->changed.wait(lock, [&] { return server->up; });
    --server->held;
    server->changed.notify_all();
  };
  CacheLimits limits = Limits();
  limits.longest_read = std::chrono::milliseconds(50);
  const ChunkCache cache(root() / "cache", limits, read);
  EXPECT_EQ(CountGiven(cache, ChunksOf(model)), 0u);
  EXPECT_EQ(Cache().List()->size(), 1u) << "what is late now may be there the next time";
  // Its threads may hang still; they end once they can.
  std::unique_lock lock(server->mutex);
  server->up = true;
  server->changed.notify_all();
  EXPECT_TRUE(server->changed.wait_for(lock, std::chrono::seconds(60), [&] { return server->held == 0; }));
}

}  // namespace
}  // namespace gpumig
