// What every ChunkStore promises. An implementation instantiates the suite:
//
//   INSTANTIATE_TEST_SUITE_P(All, ChunkStoreConformanceTest, testing::Values(ChunkStoreMaker{"Directory", Make}),
//                            ChunkStoreName);
//
// where Make() gives an empty store and whatever must live as long as it.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/image/chunk_codec.h"
#include "core/image/chunk_store.h"
#include "tests/core/image/image_fixture.h"

namespace gpumig {

struct ChunkStoreMaker {
  std::string name;
  std::function<std::shared_ptr<ChunkStore>()> make;
};
inline std::string ChunkStoreName(const testing::TestParamInfo<ChunkStoreMaker>& made) { return made.param.name; }
inline void PrintTo(const ChunkStoreMaker& maker, std::ostream* out) { *out << maker.name; }

class ChunkStoreConformanceTest : public testing::TestWithParam<ChunkStoreMaker> {
 protected:
  void SetUp() override {
    store_ = GetParam().make();
    ASSERT_NE(store_, nullptr);
  }
  ChunkStore& store() { return *store_; }

 private:
  std::shared_ptr<ChunkStore> store_;
};

TEST_P(ChunkStoreConformanceTest, GivesBackWhatWasPut) {
  for (const std::size_t size : {std::size_t{1}, std::size_t{25}, kMaxEncodedChunkBytes}) {
    const Bytes encoded = Random(size, size);
    const Digest digest = Digest::Of(encoded);
    EXPECT_EQ(*store().Has(digest), false);
    ASSERT_THAT(store().Put(digest, encoded), IsOk());
    EXPECT_EQ(*store().Has(digest), true);
    EXPECT_EQ(*store().Get(digest), encoded);
    EXPECT_EQ(*store().StoredBytes(digest), size);
  }
  EXPECT_THAT(store().Sync(), IsOk());
}

TEST_P(ChunkStoreConformanceTest, SaysWhichChunkIsNotThere) {
  const Digest digest = Digest::Of(Random(1, 1));
  EXPECT_THAT(store().Get(digest), FailsWith(ErrorCode::kNotFound, digest.ToHex()));
  EXPECT_THAT(store().StoredBytes(digest), FailsWith(ErrorCode::kNotFound, digest.ToHex()));
}

TEST_P(ChunkStoreConformanceTest, KeepsTheFirstOfTwoPuts) {
  const Digest digest = Digest::Of(Random(1, 1));
  ASSERT_THAT(store().Put(digest, Random(10, 1)), IsOk());
  ASSERT_THAT(store().Put(digest, Random(20, 2)), IsOk());
  EXPECT_EQ(*store().Get(digest), Random(10, 1));
}

TEST_P(ChunkStoreConformanceTest, ARemovedChunkIsGoneAndCanBePutAgain) {
  const Digest digest = Digest::Of(Random(1, 1));
  EXPECT_THAT(store().Remove(digest), IsOk());
  ASSERT_THAT(store().Put(digest, Random(10, 1)), IsOk());
  EXPECT_THAT(store().Remove(digest), IsOk());
  EXPECT_EQ(*store().Has(digest), false);
  ASSERT_THAT(store().Put(digest, Random(20, 2)), IsOk());
  EXPECT_EQ(*store().Get(digest), Random(20, 2));
}

TEST_P(ChunkStoreConformanceTest, ListsWhatItHoldsInOrder) {
  EXPECT_TRUE(store().List()->empty());
  std::vector<Digest> digests;
  for (std::uint64_t i = 0; i < 40; ++i) {
    digests.push_back(Digest::Of(Random(32, i)));
    ASSERT_THAT(store().Put(digests.back(), Random(10, i)), IsOk());
  }
  std::sort(digests.begin(), digests.end());
  EXPECT_EQ(*store().List(), digests);
}

// Readers race with writers of the same chunk: they see all of it or nothing.
TEST_P(ChunkStoreConformanceTest, WritersAndReadersOfOneChunkDoNotDisturbEachOther) {
  constexpr int kChunks = 20;
  const Bytes encoded = Random(300000, 5);
  std::vector<Digest> digests;
  for (std::uint64_t i = 0; i < kChunks; ++i) digests.push_back(Digest::Of(Random(32, i)));
  const auto put_all = [&] {
    for (const Digest& digest : digests) EXPECT_THAT(store().Put(digest, encoded), IsOk());
  };
  const auto read_all = [&] {
    for (const Digest& digest : digests) {
      const auto read = store().Get(digest);
      if (read) {
        EXPECT_EQ(*read, encoded);
      } else {
        EXPECT_EQ(read.error().code(), ErrorCode::kNotFound);
      }
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back(put_all);
      threads.emplace_back(read_all);
    }
  }
  EXPECT_EQ(store().List()->size(), std::size_t{kChunks});
  read_all();
}

}  // namespace gpumig
