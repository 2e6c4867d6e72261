#include <sys/stat.h>

#include <fstream>

#include "core/image/directory_chunk_store.h"
#include "core/image/pack_chunk_store.h"
#include "tests/core/image/chunk_store_conformance.h"
#include "tests/core/image/faulty_chunk_store.h"
#include "tests/core/image/memory_chunk_store.h"

namespace gpumig {
namespace {

std::shared_ptr<ChunkStore> MakeDirectoryStore(StoreDurability durability) {
  auto directory = TemporaryDirectory::Create(testing::TempDir(), "store-test");
  if (!directory) return nullptr;
  auto store = DirectoryChunkStore::Open(directory->path(), durability);
  if (!store) return nullptr;
  // The pair shares one lifetime, which the test's pointer to the store stands for.
  auto both =
      std::make_shared<std::pair<TemporaryDirectory, DirectoryChunkStore>>(std::move(*directory), std::move(*store));
  return {both, &both->second};
}

std::shared_ptr<ChunkStore> MakePackStore() {
  auto directory = TemporaryDirectory::Create(testing::TempDir(), "store-test");
  if (!directory) return nullptr;
  auto store = PackChunkStore::Open(directory->path());
  if (!store) return nullptr;
  auto both = std::make_shared<std::pair<TemporaryDirectory, PackChunkStore>>(std::move(*directory), std::move(*store));
  return {both, &both->second};
}

std::shared_ptr<ChunkStore> MakeFaultyStore() {
  struct Both {
    MemoryChunkStore inner;
    FaultyChunkStore store{inner, 0, Error(ErrorCode::kIo, "never")};
  };
  auto both = std::make_shared<Both>();
  return {both, &both->store};
}

INSTANTIATE_TEST_SUITE_P(
    All, ChunkStoreConformanceTest,
    testing::Values(ChunkStoreMaker{"Directory", [] { return MakeDirectoryStore(StoreDurability::kNone); }},
                    ChunkStoreMaker{"DirectoryOnSync", [] { return MakeDirectoryStore(StoreDurability::kOnSync); }},
                    ChunkStoreMaker{"DirectoryEach", [] { return MakeDirectoryStore(StoreDurability::kEach); }},
                    ChunkStoreMaker{"Pack", MakePackStore},
                    ChunkStoreMaker{"Memory", [] { return std::make_shared<MemoryChunkStore>(); }},
                    ChunkStoreMaker{"Faulty", MakeFaultyStore}),
    ChunkStoreName);

class DirectoryChunkStoreTest : public ImageFixture {
 protected:
  void SetUp() override {
    ImageFixture::SetUp();
    auto store = DirectoryChunkStore::Open(source(), StoreDurability::kNone);
    ASSERT_THAT(store, IsOk());
    store_.emplace(std::move(*store));
  }
  std::filesystem::path PathOf(const Digest& digest) const {
    return source() / digest.ToHex().substr(0, 2) / digest.ToHex();
  }

  const Digest digest_ = Digest::Of(Random(1, 1));
  std::optional<DirectoryChunkStore> store_;
};

TEST_F(DirectoryChunkStoreTest, AChunkIsOnePrivateFileNamedByItsDigest) {
  const mode_t old_mask = umask(0);
  ASSERT_THAT(store_->Put(digest_, Random(10, 1)), IsOk());
  umask(old_mask);
  EXPECT_EQ(ReadBytes(PathOf(digest_)), Random(10, 1));
  EXPECT_EQ(ModeOf(PathOf(digest_)), 0600u);
  EXPECT_EQ(ModeOf(PathOf(digest_).parent_path()), 0700u);
  EXPECT_EQ(ReadTree(source()).size(), 1u);
}

TEST_F(DirectoryChunkStoreTest, WhatAKilledWriterLeftIsNotListed) {
  ASSERT_THAT(store_->Put(digest_, Random(10, 1)), IsOk());
  WriteBytes(PathOf(digest_).parent_path() / "tmp-0123456789abcdef", Random(5, 1));
  EXPECT_EQ(*store_->List(), std::vector<Digest>{digest_});
}

TEST_F(DirectoryChunkStoreTest, SymbolicLinksLeadNowhere) {
  WriteBytes(root() / "secret", Random(10, 1));
  ASSERT_TRUE(std::filesystem::create_directory(PathOf(digest_).parent_path()));
  std::filesystem::create_symlink(root() / "secret", PathOf(digest_));
  EXPECT_THAT(store_->Get(digest_), FailsWith(ErrorCode::kInvalidArgument, "symbolic link"));
  // A shard that leads elsewhere: nothing is written there.
  const Digest other = Digest::Of(Random(2, 2));
  ASSERT_TRUE(std::filesystem::create_directory(root() / "elsewhere"));
  std::filesystem::create_directory_symlink(root() / "elsewhere", PathOf(other).parent_path());
  EXPECT_THAT(store_->Put(other, Random(10, 1)), FailsWith(ErrorCode::kInvalidArgument, "symbolic link"));
  EXPECT_TRUE(std::filesystem::is_empty(root() / "elsewhere"));
}

TEST_F(DirectoryChunkStoreTest, AFileLongerThanAnyChunkIsNotRead) {
  ASSERT_THAT(store_->Put(digest_, Random(10, 1)), IsOk());
  std::filesystem::resize_file(PathOf(digest_), std::uintmax_t{1} << 40);
  EXPECT_THAT(store_->Get(digest_), FailsWith(ErrorCode::kDamaged, "more than any chunk"));
}

TEST_F(DirectoryChunkStoreTest, ANamedPipeDoesNotHoldReadersUp) {
  ASSERT_TRUE(std::filesystem::create_directory(PathOf(digest_).parent_path()));
  ASSERT_EQ(mkfifo(PathOf(digest_).c_str(), 0600), 0);
  EXPECT_THAT(store_->Get(digest_), FailsWith(ErrorCode::kDamaged, "not a regular file"));
}

TEST_F(DirectoryChunkStoreTest, AMissingDirectoryIsNotFound) {
  EXPECT_THAT(DirectoryChunkStore::Open(root() / "none", StoreDurability::kNone),
              FailsWith(ErrorCode::kNotFound, "none"));
}

class PackChunkStoreTest : public ImageFixture {
 protected:
  void Open() {
    store_.reset();
    auto store = PackChunkStore::Open(source());
    ASSERT_THAT(store, IsOk());
    store_.emplace(std::move(*store));
  }
  Digest Put(std::uint64_t seed) {
    const Bytes plain = Random(100000, seed);
    const Digest digest = Digest::Of(plain);
    EXPECT_THAT(store_->Put(digest, EncodeChunk(plain, CompressionChoice::None())), IsOk());
    return digest;
  }
  void SetUp() override {
    ImageFixture::SetUp();
    Open();
  }

  std::optional<PackChunkStore> store_;
};

TEST_F(PackChunkStoreTest, WhatWasPutIsThereAgainAfterAKill) {
  const Digest first = Put(1);
  const Digest removed = Put(2);
  ASSERT_THAT(store_->Remove(removed), IsOk());
  const Digest last = Put(3);
  Open();
  EXPECT_TRUE(*store_->Has(first));
  EXPECT_FALSE(*store_->Has(removed));
  EXPECT_TRUE(*store_->Has(last));
  EXPECT_THAT(DecodeChunk(*store_->Get(last), last, 100000), IsOk());
  // What is put now does not fall upon what is there.
  const Digest more = Put(4);
  Open();
  for (const Digest& digest : {first, last, more}) EXPECT_TRUE(*store_->Has(digest));
}

TEST_F(PackChunkStoreTest, AChunkTornByAPowerCutIsNotThereAndCanBePutAgain) {
  const Digest whole = Put(1);
  const Digest torn = Put(2);
  std::fstream pack(source() / "chunks.pack", std::ios::in | std::ios::out | std::ios::binary);
  pack.seekp(104000 + 50000);
  pack.write("\0\0\0\0", 4);
  pack.close();
  Open();
  EXPECT_TRUE(*store_->Has(whole));
  EXPECT_FALSE(*store_->Has(torn));
  EXPECT_EQ(Put(2), torn);
  Open();
  EXPECT_TRUE(*store_->Has(torn));
}

TEST_F(PackChunkStoreTest, ACutPackAndAHalfWrittenIndexEntryAreSurvived) {
  const Digest whole = Put(1);
  const Digest cut = Put(2);
  std::filesystem::resize_file(source() / "chunks.pack", 150000);
  std::filesystem::resize_file(source() / "chunks.index", 2 * 48 - 7);
  Open();
  EXPECT_TRUE(*store_->Has(whole));
  EXPECT_FALSE(*store_->Has(cut));
  EXPECT_EQ(Put(2), cut);
  Open();
  EXPECT_TRUE(*store_->Has(cut));
}

TEST_F(PackChunkStoreTest, OnceClearedItTakesNoDiskAndCanBeFilledAgain) {
  const Digest digest = Put(1);
  ASSERT_THAT(store_->Reserve(1 << 20), IsOk());
  ASSERT_THAT(store_->Clear(), IsOk());
  EXPECT_FALSE(*store_->Has(digest));
  struct stat status{};
  ASSERT_EQ(stat((source() / "chunks.pack").c_str(), &status), 0);
  EXPECT_EQ(status.st_blocks, 0);
  EXPECT_EQ(Put(1), digest);
  Open();
  EXPECT_TRUE(*store_->Has(digest));
}

TEST_F(PackChunkStoreTest, AnIndexThatPointsAnywhereIsNotFollowed) {
  Put(1);
  std::fstream index(source() / "chunks.index", std::ios::in | std::ios::out | std::ios::binary);
  index.seekp(32);
  index.write("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 16);
  index.close();
  Open();
  EXPECT_TRUE(store_->List()->empty());
}

}  // namespace
}  // namespace gpumig
