// ChunkCache: what a node has already of images that may come: files and images that a user named, and images that
// came before. Nothing depends on it: what is not there any more, is damaged, or does not answer, is fetched instead.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/base/result.h"
#include "core/image/cache_index.h"
#include "core/image/chunk_store.h"
#include "core/image/pack_chunk_store.h"
#include "core/image/parallel_for.h"
#include "core/image/patient_reader.h"

namespace gpumig {

struct CacheLimits {
  std::uint64_t kept_bytes = std::uint64_t{8} << 30;     // of images that came; 0: none is kept
  std::uint64_t reserve_bytes = std::uint64_t{4} << 30;  // that keeping leaves free on the disk
  // A place that takes longer for one chunk is not asked again for the same image.
  std::chrono::milliseconds longest_read = std::chrono::seconds(8);
  // After which Take() begins no more chunks.
  std::chrono::milliseconds longest_look = std::chrono::seconds(5);
};

struct CacheItem {
  std::string id;
  CacheKind kind = CacheKind::kFile;
  std::filesystem::path path;
  std::uint64_t bytes = 0;  // of a kept one: on disk
  std::uint64_t chunk_count = 0;
  std::string trouble;  // empty: none; else why it is of no use
};

// The chunks of one image that a cache has. Each is looked at only when it is taken.
//
// Thread safety: any number of threads.
class CachedChunks {
 public:
  // Errors: kDamaged, `encoded` is not what `digest` names; all others say nothing of the chunk.
  using PutFn = std::function<Result<void>(const Digest& digest, std::span<const std::byte> encoded)>;
  // For tests: called before each read, in the thread that reads.
  using BeforeRead = std::function<void()>;

  // Of each of `digests` that is `lacking` and cached, the chunk is read and given to `put`, from several threads at
  // once; what `put` took is not lacking any more. What was found damaged, changed or gone leaves the cache. Returns
  // within longest_look + longest_read of the limits, and what `put` takes. REQUIRES: lacking.size() == digests.size()
  void Take(std::span<const Digest> digests, std::vector<bool>& lacking, const PutFn& put);

  std::size_t chunk_count() const { return places_.size(); }

 private:
  friend class ChunkCache;
  struct Item;
  struct Place {
    std::shared_ptr<Item> item;  // with the other places, and with a read that hangs
    CachedChunk chunk;
  };

  CachedChunks(std::filesystem::path directory, CacheLimits limits, BeforeRead before_read);
  bool TakeOne(const Digest& digest, const PutFn& put);
  void Drop(const Place& place, const Error& why) const;

  std::filesystem::path directory_;
  CacheLimits limits_;
  BeforeRead before_read_;
  std::unordered_map<Digest, std::vector<Place>> places_;
  std::once_flag reader_made_;
  std::unique_ptr<PatientReader> reader_;
};

// DIRECTORY/added/ID is the index of one file or image that was named; DIRECTORY/kept/TIME-JOB/ holds an image that
// came, as PackChunkStore has it. Whoever changes anything holds DIRECTORY/lock, so any number of processes may.
//
// Thread safety: any number of threads and processes.
class ChunkCache {
 public:
  explicit ChunkCache(std::filesystem::path directory, CacheLimits limits = {},
                      CachedChunks::BeforeRead before_read = {})
      : directory_(std::move(directory)), limits_(limits), before_read_(std::move(before_read)) {}

  // Where that of a node is.
  static std::filesystem::path DirectoryIn(const std::filesystem::path& state) { return state / "cache"; }

  // Reads what is at `path` and notes what chunks it has; it is not copied. One that was added before is noted anew.
  // Errors: those of MakeCacheIndex().
  Result<CacheItem> Add(const std::filesystem::path& path, const ParallelOptions& options);

  // Those added, then those kept, oldest first.
  Result<std::vector<CacheItem>> List() const;

  // What has this id or path. A file that was named stays where it is. Errors: kNotFound.
  Result<void> Remove(const std::string& id_or_path);

  // Moves the chunks of an image that is not needed any more out of `store` and keeps them, in place of an earlier one
  // of the same job, and of the oldest where kept_bytes or the reserve ask for it; drops them where there is no room.
  // `store` is empty afterwards. Gives whether they were kept. Errors: those of the disk; the store is as it is then.
  Result<bool> Keep(PackChunkStore& store, const std::string& job);

  // Drops the oldest of those kept until `bytes` are free, as far as that helps.
  void MakeRoom(std::uint64_t bytes) const;

  // What it has of `wanted`. What of it cannot be used is left out.
  std::shared_ptr<CachedChunks> Find(std::span<const Digest> wanted) const;

 private:
  std::filesystem::path added() const { return directory_ / "added"; }
  std::filesystem::path kept() const { return directory_ / "kept"; }
  std::uint64_t FreeOnDisk() const;

  std::filesystem::path directory_;
  CacheLimits limits_;
  CachedChunks::BeforeRead before_read_;
};

}  // namespace gpumig
