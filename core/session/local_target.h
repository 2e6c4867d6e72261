// LocalTarget: the TargetWorkload of this host. Chunks come in on disk; the tree is restored up to the gate.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/image/directory_chunk_store.h"
#include "core/image/manifest.h"
#include "core/session/checkpoint.h"
#include "core/session/ports.h"
#include "core/session/restore_workload.h"

namespace gpumig {

// Ownership: borrows context.device. Thread safety: PutManifest(), Lacks(), PutChunk() and Missing() from any thread at
// any time; the rest as TargetWorkload says.
class LocalTarget : public TargetWorkload {
 public:
  // Makes, or finds again, the directory where the image of `migration` comes in.
  static Result<std::unique_ptr<LocalTarget>> Open(SessionContext context, const std::string& migration);

  // The manifest that all else belongs to. Errors: kDamaged; kUnsupported; kNoSpace, there is no room for the image.
  Result<void> PutManifest(std::span<const std::byte> bytes);
  // Which of `digests` are not here yet. Errors: kFailedPrecondition, there is no manifest yet.
  Result<std::vector<bool>> Lacks(std::span<const Digest> digests);
  // Checked before it is kept. Errors: kDamaged; kInvalidArgument, the manifest does not name it; kNoSpace.
  Result<void> PutChunk(const Digest& digest, std::span<const std::byte> encoded);

  Result<ImageStatus> Missing(const ManifestDigest& manifest) override;
  Result<TargetReport> Prepare(const ManifestDigest& manifest, std::stop_token stop) override;
  Result<TargetReport> Start() override;
  Result<void> Discard() override;
  Result<CopyState> Look() override;

 private:
  // What is known of the image that comes in. Never changes once made.
  struct Incoming {
    Manifest manifest;
    Digest digest;
    std::unordered_map<Digest, std::uint32_t> plain_bytes;  // of each chunk that is not all zero
  };

  LocalTarget(SessionContext context, std::filesystem::path directory, std::filesystem::path staging,
              DirectoryChunkStore store)
      : context_(std::move(context)),
        directory_(std::move(directory)),
        staging_(std::move(staging)),
        store_(std::move(store)) {}
  std::shared_ptr<const Incoming> incoming() const;
  Result<void> Adopt(std::span<const std::byte> manifest_bytes);
  Result<void> Remember(const GatedWorkload& gated) const;
  // After a restart of the agent: the copy that an earlier Prepare() left.
  Result<void> FindAgain();
  Result<GatedWorkload> RestoreUpToTheGate(const Incoming& incoming, std::stop_token stop, Timeline& timeline);

  SessionContext context_;
  std::filesystem::path directory_;
  std::filesystem::path staging_;  // of CRIU's files, while it restores
  DirectoryChunkStore store_;
  mutable std::mutex mutex_;
  std::shared_ptr<const Incoming> incoming_;  // guarded by mutex_
  std::optional<GatedWorkload> gated_;
  std::vector<GpuPair> gpu_map_;
};

}  // namespace gpumig
