// What a directory costs as a chunk store, beside the bytes themselves: the bound is BM_WriteFile, one plain file per
// chunk.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include "bench/bench_bytes.h"
#include "core/base/check.h"
#include "core/base/file.h"
#include "core/image/chunk_codec.h"
#include "core/image/directory_chunk_store.h"
#include "core/image/image_reader.h"
#include "core/image/image_writer.h"

namespace gpumig {
namespace {

TemporaryDirectory MakeDirectory() {
  Result<TemporaryDirectory> directory =
      TemporaryDirectory::Create(std::filesystem::temp_directory_path(), "chunk-store-bench");
  GPUMIG_CHECK(directory.has_value());
  return std::move(*directory);
}

// Names are spread over the shards as digests are.
Digest NumberedDigest(std::uint64_t number) { return Digest::Of(std::as_bytes(std::span(&number, 1))); }

void Put(benchmark::State& state, StoreDurability durability) {
  const std::vector<std::byte> encoded = RandomBytes(static_cast<std::size_t>(state.range(0)), /*seed=*/1);
  const TemporaryDirectory directory = MakeDirectory();
  Result<DirectoryChunkStore> store = DirectoryChunkStore::Open(directory.path(), durability);
  GPUMIG_CHECK(store.has_value());
  std::uint64_t number = 0;
  for (auto _ : state) {
    const Digest digest = NumberedDigest(number++);
    GPUMIG_CHECK(store->Put(digest, encoded).has_value());
    state.PauseTiming();  // so that the disk does not fill up
    GPUMIG_CHECK(store->Remove(digest).has_value());
    state.ResumeTiming();
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
void BM_Put(benchmark::State& state) { Put(state, StoreDurability::kNone); }
void BM_PutDurably(benchmark::State& state) { Put(state, StoreDurability::kEach); }
BENCHMARK(BM_Put)->Arg(4096)->Arg(kMaxChunkBytes);
BENCHMARK(BM_PutDurably)->Arg(4096)->Arg(kMaxChunkBytes);

void BM_WriteFile(benchmark::State& state) {
  const std::vector<std::byte> bytes = RandomBytes(static_cast<std::size_t>(state.range(0)), /*seed=*/1);
  const TemporaryDirectory directory = MakeDirectory();
  const std::filesystem::path path = directory.path() / "file";
  for (auto _ : state) {
    {
      const Result<UniqueFd> fd = OpenFile(path, O_WRONLY | O_CREAT | O_EXCL);
      GPUMIG_CHECK(fd.has_value() && WriteAll(fd->get(), bytes).has_value());
    }
    state.PauseTiming();
    unlink(path.c_str());
    state.ResumeTiming();
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_WriteFile)->Arg(4096)->Arg(kMaxChunkBytes);

void BM_Get(benchmark::State& state) {
  const std::vector<std::byte> encoded = RandomBytes(static_cast<std::size_t>(state.range(0)), /*seed=*/1);
  const TemporaryDirectory directory = MakeDirectory();
  Result<DirectoryChunkStore> store = DirectoryChunkStore::Open(directory.path(), StoreDurability::kNone);
  const Digest digest = NumberedDigest(1);
  GPUMIG_CHECK(store.has_value() && store->Put(digest, encoded).has_value());
  for (auto _ : state) GPUMIG_CHECK(store->Get(digest).has_value());
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_Get)->Arg(4096)->Arg(kMaxChunkBytes);

// What a whole checkpoint's writer sustains with so many workers, page cache to page cache.
void BM_WriteImage(benchmark::State& state) {
  constexpr std::size_t kImageBytes = std::size_t{64} << 20;
  const TemporaryDirectory directory = MakeDirectory();
  const std::filesystem::path source = directory.path() / "source";
  GPUMIG_CHECK(MakeDirectories(source).has_value());
  {
    const Result<UniqueFd> fd = OpenFile(source / "pages-1.img", O_WRONLY | O_CREAT);
    GPUMIG_CHECK(fd.has_value() && WriteAll(fd->get(), HeapLikeBytes(kImageBytes, /*seed=*/1)).has_value());
  }
  WriteOptions options;
  options.source.parallel.workers = static_cast<std::size_t>(state.range(0));
  options.durability = StoreDurability::kNone;
  const std::filesystem::path image = directory.path() / "image";
  for (auto _ : state) {
    GPUMIG_CHECK(WriteImage(source, image, options).has_value());
    state.PauseTiming();
    std::filesystem::remove_all(image);
    state.ResumeTiming();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kImageBytes));
}
BENCHMARK(BM_WriteImage)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace gpumig
