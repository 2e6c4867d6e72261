// MemoryChunkStore: a store in memory, for tests that do not care about disks.
#pragma once

#include <map>
#include <mutex>

#include "core/image/chunk_store.h"

namespace gpumig {

class MemoryChunkStore : public ChunkStore {
 public:
  Result<bool> Has(const Digest& digest) const override {
    const std::lock_guard lock(mutex_);
    return chunks_.contains(digest);
  }
  Result<void> Put(const Digest& digest, std::span<const std::byte> encoded) override {
    const std::lock_guard lock(mutex_);
    chunks_.try_emplace(digest, encoded.begin(), encoded.end());
    return Ok();
  }
  Result<std::vector<std::byte>> Get(const Digest& digest) const override {
    const std::lock_guard lock(mutex_);
    const auto found = chunks_.find(digest);
    if (found == chunks_.end()) return MakeError(ErrorCode::kNotFound, "get chunk {}: not in memory", digest.ToHex());
    return found->second;
  }
  Result<std::uint64_t> StoredBytes(const Digest& digest) const override { return GPUMIG_TRY(Get(digest)).size(); }
  Result<std::vector<Digest>> List() const override {
    const std::lock_guard lock(mutex_);
    std::vector<Digest> digests;
    for (const auto& [digest, encoded] : chunks_) digests.push_back(digest);
    return digests;
  }
  Result<void> Remove(const Digest& digest) override {
    const std::lock_guard lock(mutex_);
    chunks_.erase(digest);
    return Ok();
  }
  Result<void> Sync() override { return Ok(); }

 private:
  mutable std::mutex mutex_;
  std::map<Digest, std::vector<std::byte>> chunks_;  // guarded by mutex_
};

}  // namespace gpumig
