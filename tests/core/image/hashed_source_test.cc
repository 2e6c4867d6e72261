#include "core/image/hashed_source.h"

#include "tests/core/image/faulty_chunk_store.h"
#include "tests/core/image/image_fixture.h"
#include "tests/core/image/memory_chunk_store.h"

namespace gpumig {
namespace {

class HashedSourceTest : public ImageFixture {
 protected:
  void SetUp() override {
    ImageFixture::SetUp();
    AddSampleFiles();
  }
};

TEST_F(HashedSourceTest, TheManifestIsThatOfTheImage) {
  const auto hashed = BuildManifest(source(), Options().source);
  ASSERT_THAT(hashed, IsOk());
  ASSERT_THAT(WriteImage(source(), image(), Options()), IsOk());
  const auto opened = OpenImage(image());
  ASSERT_THAT(opened, IsOk());
  EXPECT_EQ(hashed->manifest(), opened->manifest);
  EXPECT_EQ(hashed->image_digest(), opened->image_digest);
}

TEST_F(HashedSourceTest, EveryChunkCanBeReadAgain) {
  const auto hashed = BuildManifest(source(), Options().source);
  ASSERT_THAT(hashed, IsOk());
  const auto& chunks = hashed->manifest().chunks;
  ASSERT_EQ(chunks.size(), 5u);
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (chunks[i].zero) continue;
    const auto plain = hashed->ReadChunk(i);
    ASSERT_THAT(plain, IsOk());
    EXPECT_EQ(Digest::Of(*plain), chunks[i].digest);
  }
}

TEST_F(HashedSourceTest, EqualChunksAreListedOnce) {
  const auto hashed = BuildManifest(source(), Options().source);
  ASSERT_THAT(hashed, IsOk());
  const auto& files = hashed->manifest().files;
  ASSERT_EQ(files[2].name, "pages-1.img");
  ASSERT_EQ(files[3].name, "pages-2.img");
  EXPECT_EQ(files[2].chunks[0], files[3].chunks[1]);
  EXPECT_EQ(files[2].chunks[1], files[3].chunks[0]);
}

TEST_F(HashedSourceTest, KindsComeFromTheNames) {
  EXPECT_EQ(KindOfCriuFile("pages-1.img"), ChunkKind::kHostPages);
  EXPECT_EQ(KindOfCriuFile("pagemap-1.img"), ChunkKind::kCriuFile);
  SourceOptions options = Options().source;
  options.kind_of_file = [](std::string_view) { return ChunkKind::kDeviceBytes; };
  const auto hashed = BuildManifest(source(), options);
  ASSERT_THAT(hashed, IsOk());
  for (const ManifestChunk& chunk : hashed->manifest().chunks) EXPECT_EQ(chunk.kind, ChunkKind::kDeviceBytes);
}

TEST_F(HashedSourceTest, AFileThatGrewIsNotRead) {
  const auto hashed = BuildManifest(source(), Options().source);
  ASSERT_THAT(hashed, IsOk());
  AddFile("core-1.img", Repetitive(3001, 1));
  EXPECT_THAT(hashed->ReadChunk(0), FailsWith(ErrorCode::kFailedPrecondition, "had 3000 bytes, now it has 3001"));
}

// A store that fails at any chunk ends the whole, with its own words.
TEST_F(HashedSourceTest, StoringFailsWithTheErrorOfTheChunkThatFailed) {
  for (int fail_at = 1; fail_at <= 4; ++fail_at) {
    SCOPED_TRACE(fail_at);
    MemoryChunkStore store;
    FaultyChunkStore faulty(store, fail_at, Error(ErrorCode::kNoSpace, "No space left on device (errno 28)"));
    EXPECT_THAT(StoreFiles(source(), faulty, Options()), FailsWith(ErrorCode::kNoSpace, "No space left on device"));
  }
  MemoryChunkStore store;
  FaultyChunkStore faulty(store, 5, Error(ErrorCode::kNoSpace, ""));
  EXPECT_THAT(StoreFiles(source(), faulty, Options()), IsOk());
}

TEST_F(HashedSourceTest, ChunksThatTheStoreHasAreNotPutAgain) {
  MemoryChunkStore store;
  ASSERT_THAT(StoreFiles(source(), store, Options()), IsOk());
  FaultyChunkStore no_more_puts(store, 1, Error(ErrorCode::kInternal, "put again"));
  EXPECT_THAT(StoreFiles(source(), no_more_puts, Options()), IsOk());
}

// The whole of what a migration does with chunks: offer, send each once, make the files.
TEST_F(HashedSourceTest, AManifestAndItsChunksOneByOneAreAWholeImageElsewhere) {
  const auto hashed = BuildManifest(source(), Options().source);
  ASSERT_THAT(hashed, IsOk());
  auto received = ImageDirectory::Create(image());
  ASSERT_THAT(received, IsOk());
  ChunkStore& store = received->store();
  const auto offered = Manifest::Parse(hashed->manifest_bytes());
  ASSERT_THAT(offered, IsOk());
  int sent = 0;
  for (std::uint32_t index = 0; index < offered->chunks.size(); ++index) {
    if (offered->chunks[index].zero) continue;
    ++sent;
    const auto plain = hashed->ReadChunk(index);
    ASSERT_THAT(plain, IsOk());
    const Bytes encoded = EncodeChunk(*plain, CompressionChoice::Zstd(1));
    ASSERT_THAT(DecodeChunk(encoded, offered->chunks[index].digest, offered->chunks[index].plain_bytes), IsOk());
    ASSERT_THAT(store.Put(offered->chunks[index].digest, encoded), IsOk());
  }
  EXPECT_EQ(sent, 4);  // of five; one is zeros
  ASSERT_THAT(received->Seal(hashed->manifest_bytes()), IsOk());
  const auto report = VerifyImage(image(), VerifyDepth::kFull, Parallel());
  ASSERT_THAT(report, IsOk());
  EXPECT_TRUE(report->ok());
  EXPECT_EQ(report->image_digest, hashed->image_digest());
}

}  // namespace
}  // namespace gpumig
