// What is wrong with an image is named: which chunk, and which files need it.
#include "core/image/image_reader.h"

#include <thread>

#include "core/image/materialise.h"
#include "tests/core/image/faulty_chunk_store.h"
#include "tests/core/image/image_fixture.h"

namespace gpumig {
namespace {

class ImageReaderTest : public ImageFixture {
 protected:
  void SetUp() override {
    ImageFixture::SetUp();
    AddSampleFiles();
    ASSERT_THAT(WriteImage(source(), image(), Options()), IsOk());
    ASSERT_TRUE(std::filesystem::exists(ChunkPath(shared_)));
  }
  VerifyReport Verify(VerifyDepth depth) const {
    const auto report = VerifyImage(image(), depth, Parallel());
    EXPECT_THAT(report, IsOk());
    return report ? *report : VerifyReport();
  }
  // Both files that hold shared_ are named, and nothing can be made of the image.
  void ExpectSharedChunkIsNamed(VerifyDepth depth, const std::string& reason, ErrorCode code) {
    const VerifyReport report = Verify(depth);
    ASSERT_EQ(report.damaged.size(), 1u);
    EXPECT_EQ(report.damaged[0].digest, shared_);
    EXPECT_EQ(report.damaged[0].files, (std::vector<std::string>{"pages-1.img", "pages-2.img"}));
    EXPECT_NE(report.damaged[0].reason.find(reason), std::string::npos) << report.damaged[0].reason;
    const auto opened = OpenImage(image());
    ASSERT_THAT(opened, IsOk());
    EXPECT_THAT(MaterialiseImage(opened->manifest, *opened->store, target(), Parallel()),
                FailsWith(code, "chunk " + shared_.ToHex() + " of file pages-1.img"));
    EXPECT_FALSE(std::filesystem::exists(target()));
  }

  const Digest shared_ = Digest::Of(Random(kMaxChunkBytes, 2));  // in pages-1.img and pages-2.img
};

TEST_F(ImageReaderTest, AnImageAsWrittenIsGood) {
  for (const VerifyDepth depth : {VerifyDepth::kQuick, VerifyDepth::kFull}) {
    const VerifyReport report = Verify(depth);
    EXPECT_TRUE(report.ok());
    EXPECT_EQ(report.chunks_checked, 5u);
    EXPECT_EQ(report.bytes_checked, 2 * kMaxChunkBytes + 3000 + 5000 + 70000);
    EXPECT_EQ(report.image_digest, OpenImage(image())->image_digest);
  }
}

TEST_F(ImageReaderTest, NamesAFlippedChunk) {
  Bytes encoded = ReadBytes(ChunkPath(shared_));
  encoded[encoded.size() / 2] ^= std::byte{0x10};
  WriteBytes(ChunkPath(shared_), encoded);
  EXPECT_TRUE(Verify(VerifyDepth::kQuick).ok());  // it looks at sizes only
  ExpectSharedChunkIsNamed(VerifyDepth::kFull, "content has digest", ErrorCode::kDamaged);
}

TEST_F(ImageReaderTest, NamesAnEmptiedChunk) {
  WriteBytes(ChunkPath(shared_), {});
  ExpectSharedChunkIsNamed(VerifyDepth::kQuick, "0 bytes are stored", ErrorCode::kDamaged);
  ExpectSharedChunkIsNamed(VerifyDepth::kFull, "chunk header", ErrorCode::kDamaged);
}

TEST_F(ImageReaderTest, NamesAChunkThatLostItsEnd) {
  std::filesystem::resize_file(ChunkPath(shared_), 100);
  ExpectSharedChunkIsNamed(VerifyDepth::kFull, "after its header", ErrorCode::kDamaged);
}

TEST_F(ImageReaderTest, NamesAChunkThatGrew) {
  std::filesystem::resize_file(ChunkPath(shared_), std::uintmax_t{1} << 33);
  ExpectSharedChunkIsNamed(VerifyDepth::kQuick, "bytes are stored for", ErrorCode::kDamaged);
  ExpectSharedChunkIsNamed(VerifyDepth::kFull, "more than any chunk", ErrorCode::kDamaged);
}

TEST_F(ImageReaderTest, NamesAChunkThatIsAnother) {
  std::filesystem::copy_file(ChunkPath(Digest::Of(Random(70000, 4))), ChunkPath(shared_),
                             std::filesystem::copy_options::overwrite_existing);
  ExpectSharedChunkIsNamed(VerifyDepth::kFull, "holds 70000 bytes", ErrorCode::kDamaged);
}

TEST_F(ImageReaderTest, NamesAMissingChunk) {
  std::filesystem::remove(ChunkPath(shared_));
  ExpectSharedChunkIsNamed(VerifyDepth::kQuick, "No such file", ErrorCode::kNotFound);
  ExpectSharedChunkIsNamed(VerifyDepth::kFull, "No such file", ErrorCode::kNotFound);
  EXPECT_THAT(InspectImage(image()), FailsWith(ErrorCode::kNotFound, shared_.ToHex()));
}

TEST_F(ImageReaderTest, NamesAChunkThatLeadsElsewhere) {
  std::filesystem::rename(ChunkPath(shared_), root() / "elsewhere");
  std::filesystem::create_symlink(root() / "elsewhere", ChunkPath(shared_));
  ExpectSharedChunkIsNamed(VerifyDepth::kFull, "symbolic link", ErrorCode::kInvalidArgument);
}

// What is checked is what is used: files are right or not made, whatever happens to the store meanwhile.
TEST_F(ImageReaderTest, AStoreThatChangesMeanwhileCannotSlipAnythingIn) {
  const auto opened = OpenImage(image());
  ASSERT_THAT(opened, IsOk());
  const auto expected = ReadTree(source());
  const auto fd = OpenFile(ChunkPath(shared_), O_RDWR);
  ASSERT_THAT(fd, IsOk());
  int good = 0;
  int refused = 0;
  {
    const std::jthread flipper([&fd](const std::stop_token& stop) {
      std::array<std::byte, 1> byte{};
      for (std::size_t offset = 100; !stop.stop_requested(); offset = (offset * 31 + 7) % kMaxChunkBytes) {
        if (!ReadExactlyAt(fd->get(), byte, offset)) return;
        byte[0] ^= std::byte{1};
        if (!WriteAllAt(fd->get(), byte, offset)) return;
        byte[0] ^= std::byte{1};
        if (!WriteAllAt(fd->get(), byte, offset)) return;
      }
    });
    for (int i = 0; i < 30; ++i) {
      if (MaterialiseImage(opened->manifest, *opened->store, target(), Parallel())) {
        ++good;
        ASSERT_EQ(ReadTree(target()), expected);
        std::filesystem::remove_all(target());
      } else {
        ++refused;
        ASSERT_FALSE(std::filesystem::exists(target()));
      }
    }
  }
  EXPECT_EQ(good + refused, 30);
}

TEST_F(ImageReaderTest, RefusesWhatIsNoImage) {
  EXPECT_THAT(OpenImage(root() / "none"), FailsWith(ErrorCode::kNotFound, "none"));
  EXPECT_THAT(OpenImage(source()), FailsWith(ErrorCode::kDamaged, "not a complete image"));
  EXPECT_THAT(OpenImage(source() / "core-1.img"), FailsWith(ErrorCode::kIo, "Not a directory"));
}

TEST_F(ImageReaderTest, RefusesAManifestThatIsNoFile) {
  std::filesystem::remove(image() / kManifestName);
  std::filesystem::create_symlink("/dev/zero", image() / kManifestName);
  EXPECT_THAT(OpenImage(image()), FailsWith(ErrorCode::kInvalidArgument, "symbolic link"));
  std::filesystem::remove(image() / kManifestName);
  ASSERT_EQ(mkfifo((image() / kManifestName).c_str(), 0600), 0);
  EXPECT_THAT(OpenImage(image()), FailsWith(ErrorCode::kDamaged, "not a regular file"));
}

TEST_F(ImageReaderTest, RefusesATruncatedManifestAndOneBeyondTheLimit) {
  std::filesystem::resize_file(image() / kManifestName, 100);
  EXPECT_THAT(VerifyImage(image(), VerifyDepth::kQuick, Parallel()), FailsWith(ErrorCode::kDamaged, "its prefix says"));
  std::filesystem::resize_file(image() / kManifestName, kMaxManifestBytes + 1);
  EXPECT_THAT(OpenImage(image()), FailsWith(ErrorCode::kDamaged, "the limit is"));
}

TEST_F(ImageReaderTest, RefusesAnImageWithoutChunks) {
  std::filesystem::remove_all(image() / kChunksName);
  EXPECT_THAT(OpenImage(image()), FailsWith(ErrorCode::kDamaged, "no directory 'chunks'"));
}

TEST_F(ImageReaderTest, StoppedItSaysSo) {
  std::stop_source stop;
  stop.request_stop();
  ParallelOptions options = Parallel();
  options.stop = stop.get_token();
  EXPECT_THAT(VerifyImage(image(), VerifyDepth::kFull, options), FailsWith(ErrorCode::kCancelled, "verify image"));
}

}  // namespace
}  // namespace gpumig
