#include "core/image/image_writer.h"

#include "core/image/image_reader.h"
#include "core/image/materialise.h"
#include "tests/core/image/image_fixture.h"

namespace gpumig {
namespace {

class ImageWriterTest : public ImageFixture {
 protected:
  // Writes source() as an image and makes its files again in target().
  Result<ImageSummary> RoundTrip(const WriteOptions& options) {
    ImageSummary summary = GPUMIG_TRY(WriteImage(source(), image(), options));
    const OpenedImage opened = GPUMIG_TRY(OpenImage(image()));
    EXPECT_EQ(opened.image_digest, summary.image_digest);
    GPUMIG_TRY(MaterialiseImage(opened.manifest, *opened.store, target(), Parallel()));
    return summary;
  }
};

TEST_F(ImageWriterTest, FilesOfAnySizeAndContentComeBackAsTheyWere) {
  const std::vector<std::size_t> sizes = {0, 1, 2, 4095, 4096, kMaxChunkBytes - 1, kMaxChunkBytes, kMaxChunkBytes + 1};
  for (const std::size_t size : sizes) {
    AddFile(fmt::format("random-{}", size), Random(size, size));
    AddFile(fmt::format("zeros-{}", size), Zeros(size));
    AddFile(fmt::format("repetitive-{}", size), Repetitive(size, size));
  }
  AddFile("mixed",
          Concat({Zeros(kMaxChunkBytes), Random(100, 7), Zeros(kMaxChunkBytes), Repetitive(kMaxChunkBytes, 8)}));
  for (const CompressionChoice compression : {CompressionChoice::None(), CompressionChoice::Zstd(1)}) {
    SCOPED_TRACE(compression.zstd_level.value_or(0));
    WriteOptions options = Options();
    options.compression = compression;
    ASSERT_THAT(RoundTrip(options), IsOk());
    EXPECT_EQ(ReadTree(source()), ReadTree(target()));
    std::filesystem::remove_all(image());
    std::filesystem::remove_all(target());
  }
}

TEST_F(ImageWriterTest, ADirectoryWithoutFilesIsAnImageToo) {
  ASSERT_THAT(RoundTrip(Options()), IsOk());
  EXPECT_TRUE(std::filesystem::is_empty(target()));
}

TEST_F(ImageWriterTest, SaysHowMuchOfWhatItWrote) {
  AddSampleFiles();
  WriteOptions options = Options();
  options.compression = CompressionChoice::None();
  const auto summary = WriteImage(source(), image(), options);
  ASSERT_THAT(summary, IsOk());
  EXPECT_EQ(summary->total.plain_bytes, 3000 + 4 * kMaxChunkBytes + 5000 + 70000);
  EXPECT_EQ(summary->total.zero_bytes, 2 * kMaxChunkBytes);
  EXPECT_EQ(summary->total.chunks, 4u);  // one of pages-2.img is in pages-1.img too
  EXPECT_EQ(summary->total.stored_bytes, 3000 + kMaxChunkBytes + 5000 + 70000 + 4 * kChunkHeaderBytes);
  EXPECT_EQ(summary->of(ChunkKind::kCriuFile).plain_bytes, 3000u);
  EXPECT_EQ(summary->of(ChunkKind::kHostPages).chunks, 3u);
  EXPECT_EQ(summary->of(ChunkKind::kDeviceBytes), ImageTotals());
  const auto described = InspectImage(image());
  ASSERT_THAT(described, IsOk());
  EXPECT_EQ(described->summary, *summary);
  EXPECT_EQ(described->manifest.facts_json, options.source.facts_json);
}

TEST_F(ImageWriterTest, TheIdentityDependsOnContentOnly) {
  AddSampleFiles();
  WriteOptions options = Options();
  const auto first = WriteImage(source(), image(), options);
  options.compression = CompressionChoice::None();
  options.source.parallel.workers = 1;
  const auto second = WriteImage(source(), root() / "second", options);
  AddFile("core-1.img", Repetitive(3000, 99));
  const auto other = WriteImage(source(), root() / "third", options);
  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(second, IsOk());
  ASSERT_THAT(other, IsOk());
  EXPECT_EQ(first->image_digest, second->image_digest);
  EXPECT_NE(first->image_digest, other->image_digest);
}

TEST_F(ImageWriterTest, WhatItWritesIsPrivate) {
  AddSampleFiles();
  const mode_t old_mask = umask(0);
  ASSERT_TRUE(std::filesystem::create_directory(image()));
  const auto written = WriteImage(source(), image(), Options());
  umask(old_mask);
  ASSERT_THAT(written, IsOk());
  EXPECT_EQ(ModeOf(image()), 0700u);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(image())) {
    EXPECT_EQ(ModeOf(entry.path()), entry.is_directory() ? 0700u : 0600u) << entry.path();
  }
}

TEST_F(ImageWriterTest, RefusesADirectoryThatHoldsSomethingAndLeavesItAlone) {
  AddSampleFiles();
  ASSERT_TRUE(std::filesystem::create_directory(image()));
  WriteBytes(image() / "precious", Random(10, 1));
  EXPECT_THAT(WriteImage(source(), image(), Options()), FailsWith(ErrorCode::kAlreadyExists, "it holds precious"));
  EXPECT_EQ(ReadTree(image()).size(), 1u);
}

TEST_F(ImageWriterTest, RefusesAnImageWhoseParentIsMissing) {
  EXPECT_THAT(WriteImage(source(), root() / "no" / "image", Options()), FailsWith(ErrorCode::kNotFound, "no/image"));
}

TEST_F(ImageWriterTest, RefusesASourceThatAnImageCannotCarry) {
  ASSERT_TRUE(std::filesystem::create_directory(source() / "folder"));
  EXPECT_THAT(WriteImage(source(), image(), Options()), FailsWith(ErrorCode::kInvalidArgument, "file folder"));
  std::filesystem::remove(source() / "folder");
  std::filesystem::create_symlink("/etc/passwd", source() / "link");
  EXPECT_THAT(WriteImage(source(), image(), Options()), FailsWith(ErrorCode::kInvalidArgument, "file link"));
  std::filesystem::remove(source() / "link");
  ASSERT_EQ(mkfifo((source() / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(WriteImage(source(), image(), Options()), FailsWith(ErrorCode::kInvalidArgument, "file pipe"));
  std::filesystem::remove(source() / "pipe");
  AddFile("a name", Random(1, 1));
  EXPECT_THAT(WriteImage(source(), image(), Options()), FailsWith(ErrorCode::kInvalidArgument, "file a name"));
  EXPECT_FALSE(std::filesystem::exists(image()));
}

TEST_F(ImageWriterTest, StoppedHalfWayItLeavesNothing) {
  AddFile("pages-1.img", Random(20 * kMaxChunkBytes, 1));
  std::stop_source stop;
  WriteOptions options = Options();
  options.source.parallel.stop = stop.get_token();
  stop.request_stop();
  EXPECT_THAT(WriteImage(source(), image(), options), FailsWith(ErrorCode::kCancelled, "stopped after"));
  EXPECT_FALSE(std::filesystem::exists(image()));
}

TEST_F(ImageWriterTest, ProgressRisesToTheTotal) {
  AddSampleFiles();
  WriteOptions options = Options();
  std::vector<std::uint64_t> reported;
  std::uint64_t total = 0;
  options.source.parallel.progress = [&](std::uint64_t done, std::uint64_t of) {
    reported.push_back(done);
    total = of;
  };
  const auto summary = WriteImage(source(), image(), options);
  ASSERT_THAT(summary, IsOk());
  EXPECT_EQ(total, summary->total.plain_bytes);
  EXPECT_EQ(reported.back(), total);
  EXPECT_TRUE(std::is_sorted(reported.begin(), reported.end()));
}

UnwrittenFile Unwritten(const std::string& name, const Bytes& content) {
  return {
      .name = name, .bytes = content.size(), .kind = ChunkKind::kHostPages, .read = [content](auto offset, auto into) {
        std::copy_n(content.begin() + static_cast<std::ptrdiff_t>(offset), into.size(), into.begin());
        return Ok();
      }};
}

TEST_F(ImageWriterTest, WhatIsNoFileBecomesOneOfTheImage) {
  AddSampleFiles();
  WriteOptions options = Options();
  const Bytes memory = Concat({Random(kMaxChunkBytes + 5000, 9), Zeros(kMaxChunkBytes)});
  options.source.unwritten = {Unwritten("memory-7", memory), Unwritten("aaa", Random(10, 3))};
  ASSERT_THAT(WriteImage(source(), image(), options), IsOk());
  const auto opened = OpenImage(image());
  ASSERT_THAT(opened, IsOk());
  ASSERT_THAT(MaterialiseImage(opened->manifest, *opened->store, target(), Parallel()), IsOk());
  auto expected = ReadTree(source());
  expected["memory-7"] = memory;
  expected["aaa"] = Random(10, 3);
  EXPECT_EQ(ReadTree(target()), expected);
}

TEST_F(ImageWriterTest, ANameThatIsThereTwiceIsRefused) {
  AddSampleFiles();
  WriteOptions options = Options();
  options.source.unwritten = {Unwritten("pages-1.img", Random(10, 3))};
  EXPECT_THAT(WriteImage(source(), image(), options), FailsWith(ErrorCode::kInvalidArgument, "pages-1.img"));
  EXPECT_FALSE(std::filesystem::exists(image()));
}

TEST_F(ImageWriterTest, AnErrorOfReadingIsTheErrorOfTheImage) {
  WriteOptions options = Options();
  options.source.unwritten = {Unwritten("memory-7", Random(10, 3))};
  options.source.unwritten[0].read = [](auto, auto) -> Result<void> {
    return MakeError(ErrorCode::kNotFound, "process 7 has ended");
  };
  EXPECT_THAT(WriteImage(source(), image(), options), FailsWith(ErrorCode::kNotFound, "process 7 has ended"));
  EXPECT_FALSE(std::filesystem::exists(image()));
}

}  // namespace
}  // namespace gpumig
