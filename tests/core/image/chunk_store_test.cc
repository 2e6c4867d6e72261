#include <sys/stat.h>

#include "core/image/directory_chunk_store.h"
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

}  // namespace
}  // namespace gpumig
