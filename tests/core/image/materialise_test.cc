#include "core/image/materialise.h"

#include <sys/stat.h>

#include <atomic>
#include <mutex>

#include "tests/core/image/faulty_chunk_store.h"
#include "tests/core/image/image_fixture.h"
#include "tests/core/image/memory_chunk_store.h"

namespace gpumig {
namespace {

class MaterialiseTest : public ImageFixture {
 protected:
  void SetUp() override {
    ImageFixture::SetUp();
    AddSampleFiles();
    const auto stored = StoreFiles(source(), store_, Options());
    ASSERT_THAT(stored, IsOk());
    manifest_ = stored->manifest();
  }

  MemoryChunkStore store_;
  Manifest manifest_;
};

TEST_F(MaterialiseTest, FilesComeBackFromAnyStore) {
  ASSERT_THAT(MaterialiseImage(manifest_, store_, target(), Parallel()), IsOk());
  EXPECT_EQ(ReadTree(target()), ReadTree(source()));
}

TEST_F(MaterialiseTest, ZerosTakeNoDisk) {
  ASSERT_THAT(MaterialiseImage(manifest_, store_, target(), Parallel()), IsOk());
  struct stat status{};
  ASSERT_EQ(stat((target() / "pages-2.img").c_str(), &status), 0);
  EXPECT_LT(static_cast<std::size_t>(status.st_blocks) * 512, kMaxChunkBytes + 200000);
}

TEST_F(MaterialiseTest, OnlyTheOwnerGetsAccess) {
  manifest_.files[0].mode = 0777;
  manifest_.files[1].mode = 0444;
  const mode_t old_mask = umask(0);
  ASSERT_TRUE(std::filesystem::create_directory(target()));
  const auto made = MaterialiseImage(manifest_, store_, target(), Parallel());
  umask(old_mask);
  ASSERT_THAT(made, IsOk());
  EXPECT_EQ(ModeOf(target()), 0700u);
  EXPECT_EQ(ModeOf(target() / manifest_.files[0].name), 0700u);
  EXPECT_EQ(ModeOf(target() / manifest_.files[1].name), 0400u);
}

TEST_F(MaterialiseTest, RefusesADirectoryThatHoldsSomething) {
  ASSERT_TRUE(std::filesystem::create_directory(target()));
  WriteBytes(target() / "precious", Random(10, 1));
  EXPECT_THAT(MaterialiseImage(manifest_, store_, target(), Parallel()),
              FailsWith(ErrorCode::kAlreadyExists, "holds precious"));
  EXPECT_EQ(ReadTree(target()).size(), 1u);
}

TEST_F(MaterialiseTest, FailingAtAnyChunkItLeavesNoFile) {
  const int chunks = static_cast<int>(store_.List()->size());
  for (int fail_at = 1; fail_at <= chunks; ++fail_at) {
    SCOPED_TRACE(fail_at);
    FaultyChunkStore faulty(store_, fail_at, Error(ErrorCode::kUnavailable, "link is down"));
    EXPECT_THAT(MaterialiseImage(manifest_, faulty, target(), Parallel()),
                FailsWith(ErrorCode::kUnavailable, "link is down"));
    EXPECT_FALSE(std::filesystem::exists(target()));
  }
}

TEST_F(MaterialiseTest, ADirectoryThatWasThereStaysEmptyWhereItFails) {
  ASSERT_TRUE(std::filesystem::create_directory(target()));
  FaultyChunkStore faulty(store_, 1, Error(ErrorCode::kUnavailable, "link is down"));
  EXPECT_THAT(MaterialiseImage(manifest_, faulty, target(), Parallel()), FailsWith(ErrorCode::kUnavailable, ""));
  EXPECT_TRUE(std::filesystem::is_empty(target()));
}

TEST_F(MaterialiseTest, StoppedItLeavesNoFile) {
  std::stop_source stop;
  stop.request_stop();
  ParallelOptions options = Parallel();
  options.stop = stop.get_token();
  EXPECT_THAT(MaterialiseImage(manifest_, store_, target(), options), FailsWith(ErrorCode::kCancelled, "stopped"));
  EXPECT_FALSE(std::filesystem::exists(target()));
}

TEST_F(MaterialiseTest, OnlyWantedFilesAreMadeAndOnlyTheirChunksRead) {
  const auto wanted = [](const ManifestFile& file) { return file.name == "core-1.img" || file.name == "empty.img"; };
  // Without the chunks that no wanted file has.
  for (const ManifestFile& file : manifest_.files) {
    for (const std::uint32_t index : file.chunks) {
      if (!wanted(file)) {
        ASSERT_THAT(store_.Remove(manifest_.chunks[index].digest), IsOk());
      }
    }
  }
  ASSERT_THAT(MaterialiseImage(manifest_, store_, target(), Parallel(), wanted), IsOk());
  EXPECT_EQ(ReadTree(target()).size(), 2u);
}

TEST_F(MaterialiseTest, EveryByteIsPlacedOnceAndWhereItBelongs) {
  std::map<std::string, Bytes> placed;
  for (const ManifestFile& file : manifest_.files) placed[file.name] = Zeros(file.bytes);
  std::mutex mutex;
  const PlaceFn place = [&](const ManifestFile& file, std::uint64_t offset, std::span<const std::byte> plain) {
    const std::lock_guard lock(mutex);
    std::ranges::copy(plain, placed[file.name].begin() + static_cast<std::ptrdiff_t>(offset));
    return Ok();
  };
  ASSERT_THAT(PlaceChunks(manifest_, store_, AllFiles, place, Parallel()), IsOk());
  EXPECT_EQ(placed, ReadTree(source()));
}

TEST_F(MaterialiseTest, ChunksThatAreNotWantedAreNotPlaced) {
  std::atomic<int> count{0};
  const PlaceFn place = [&](const ManifestFile&, std::uint64_t, std::span<const std::byte>) {
    ++count;
    return Ok();
  };
  const auto none = [](const ManifestChunk&) { return false; };
  ASSERT_THAT(PlaceChunks(manifest_, store_, AllFiles, place, Parallel(), none), IsOk());
  EXPECT_EQ(count, 0);
}

}  // namespace
}  // namespace gpumig
