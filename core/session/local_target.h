// LocalTarget: the TargetWorkload of this host. Chunks come in, are checked, and go to where they are to be: those of
// CRIU's files onto the disk; as soon as all of these are here the tree is restored up to the gate, and memory that
// comes after that goes straight into its processes. All of it goes onto the disk too, where it is found again after a
// crash.
#pragma once

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/image/chunk_cache.h"
#include "core/image/chunk_uses.h"
#include "core/image/manifest.h"
#include "core/image/pack_chunk_store.h"
#include "core/session/ahead_memory.h"
#include "core/session/checkpoint.h"
#include "core/session/host_memory.h"
#include "core/session/ports.h"
#include "core/session/restore_workload.h"

namespace gpumig {

// What ImageStatus::lacking says between a LocalTarget and whoever ships to it: one byte.
inline constexpr std::byte kLacksManifest{1};
inline constexpr std::byte kLacksChunks{2};

// Ownership: borrows context.device. Thread safety: PutManifest(), Lacks(), PutChunk() and Missing() from any thread at
// any time; the rest as TargetWorkload says.
class LocalTarget : public TargetWorkload {
 public:
  // Makes, or finds again, the directory where the image of `migration` comes in. What an agent that was killed had
  // restored in part is removed.
  static Result<std::unique_ptr<LocalTarget>> Open(SessionContext context, const std::string& migration,
                                                   const CacheLimits& cache = {});
  ~LocalTarget() override;

  // Chunks may come before their manifest from now on: memory of a workload that still runs, of `host_bytes`. Errors:
  // kNoSpace, there is no room for them; kInvalidArgument.
  Result<void> TakeAhead(std::uint64_t host_bytes);

  // The manifest that all else belongs to. Errors: kDamaged; kUnsupported; kNoSpace, there is no room for the image.
  Result<void> PutManifest(std::span<const std::byte> bytes);
  // Which of `digests` are not here yet; what the node's cache has of them is taken from there first. Errors:
  // kFailedPrecondition, there is no manifest yet, and none may come ahead of it.
  Result<std::vector<bool>> Lacks(std::span<const Digest> digests);
  // Checked before it is kept. Errors: kDamaged; kInvalidArgument, the manifest does not name it; kNoSpace; why the
  // tree could not be restored from what came before.
  Result<void> PutChunk(const Digest& digest, std::span<const std::byte> encoded);

  Result<ImageStatus> Missing(const ManifestDigest& manifest) override;
  Result<TargetReport> Prepare(const ManifestDigest& manifest, std::stop_token stop) override;
  Result<TargetReport> Start() override;
  Result<void> Discard() override;
  Result<CopyState> Look() override;

  // No OFFER came of what came ahead: removes the image, its directory and all. Nobody may use this after it.
  Result<void> Remove();

  // The workload runs here and the source knows: the image is not needed any more. In the background it goes into the
  // node's cache, where that has room for it, or is removed.
  void DropImage();

 private:
  // What is known of the image that comes in. Never changes once made.
  struct Incoming {
    explicit Incoming(Manifest parsed) : manifest(std::move(parsed)), uses(manifest) {}

    struct Chunk {
      std::uint32_t plain_bytes = 0;
      std::vector<std::uint32_t> indexes;  // into the manifest's table: it may be of several kinds
    };
    Manifest manifest;
    ChunkUses uses;
    Digest digest;
    std::unordered_map<Digest, Chunk> chunks;  // those that are not all zero
    std::unordered_set<Digest> for_criu;       // those of them that CRIU's files need
    std::shared_ptr<CachedChunks> cached;      // what of them the node has already; with requests under way
  };
  // A tree that is restored while the rest still comes in.
  struct EarlyCopy;

  LocalTarget(SessionContext context, std::filesystem::path directory, std::filesystem::path staging,
              PackChunkStore store, const CacheLimits& cache);
  std::shared_ptr<const Incoming> incoming() const;
  Result<void> Adopt(std::span<const std::byte> manifest_bytes);
  Result<TargetReport> PrepareImage(const ManifestDigest& manifest, std::stop_token stop);
  Result<void> PutAhead(const Digest& digest, std::span<const std::byte> encoded);
  bool IsTimeToSync(std::uint64_t bytes_more);
  Result<void> Remember(const GatedWorkload& gated) const;
  // After a restart of the agent: the copy that an earlier Prepare() left.
  Result<void> FindAgain();
  Result<void> RemovePrepared();
  Result<void> RemoveImage();
  // Its chunks go to the cache, if there is one.
  Result<void> KeepImage();

  // The copy to place memory in; begins to restore it once all that CRIU needs is here, else gives null.
  std::shared_ptr<EarlyCopy> EarlyCopyFor(const std::shared_ptr<const Incoming>& image);
  void RestoreEarly(const std::shared_ptr<const Incoming>& image, EarlyCopy& copy) const;
  // What came ahead of its manifest, into the tree that there is now. Errors are left to whoever places the rest.
  void PlaceKept(const Incoming& image, EarlyCopy& copy) const;
  static Result<void> PlaceMemory(const Incoming& image, const Incoming::Chunk& chunk, const MemoryFill& fill,
                                  std::span<const std::byte> plain);
  Result<void> PlaceRest(const Incoming& image, EarlyCopy& copy, std::stop_token stop) const;
  Result<TargetReport> Finish(const Incoming& image, EarlyCopy& copy, std::stop_token stop);
  Result<void> DropEarlyCopy();
  Result<void> Drop(EarlyCopy* copy) const;
  Result<void> ForgetEarlyCopy() const;
  // Of an agent that was killed.
  Result<void> RemovePartialCopy();

  SessionContext context_;
  std::filesystem::path directory_;
  std::filesystem::path staging_;  // of CRIU's files, while it restores
  PackChunkStore store_;
  ChunkCache cache_;
  std::atomic<std::uint64_t> known_bytes_ = 0;  // plain bytes of chunks from the cache, since this was opened
  mutable std::mutex mutex_;
  std::shared_ptr<const Incoming> incoming_;     // guarded by mutex_
  std::unordered_set<Digest> lacking_for_criu_;  // guarded by mutex_
  std::shared_ptr<EarlyCopy> early_;             // guarded by mutex_
  std::shared_ptr<AheadMemory> ahead_;           // guarded by mutex_; null: nothing comes ahead of its manifest
  std::uint64_t ahead_bytes_left_ = 0;           // guarded by mutex_; so much more may come
  std::uint64_t ahead_unsynced_bytes_ = 0;       // guarded by mutex_
  std::uint64_t ahead_host_bytes_ = 0;           // guarded by mutex_; that the workload will need
  bool preparing_ = false;                       // guarded by mutex_; no other image may come in
  int dropping_count_ = 0;                       // guarded by mutex_; above 0, none may be begun
  std::optional<GatedWorkload> gated_;
  std::vector<GpuPair> gpu_map_;
  std::future<void> cleaner_;  // last: it uses the others
};

}  // namespace gpumig
