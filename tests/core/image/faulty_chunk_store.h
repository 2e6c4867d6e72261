// FaultyChunkStore: a store that fails when told to, around one that works.
#pragma once

#include <atomic>

#include "core/image/chunk_store.h"

namespace gpumig {

// The `fail_at`-th Put() or Get() (counted from 1, together) fails with `error`; the others go to `inner`.
//
// Ownership: borrows `inner`.
class FaultyChunkStore : public ChunkStore {
 public:
  FaultyChunkStore(ChunkStore& inner, int fail_at, Error error)
      : inner_(inner), fail_at_(fail_at), error_(std::move(error)) {}

  Result<bool> Has(const Digest& digest) const override { return inner_.Has(digest); }
  Result<void> Put(const Digest& digest, std::span<const std::byte> encoded) override {
    if (++calls_ == fail_at_) return error_;
    return inner_.Put(digest, encoded);
  }
  Result<std::vector<std::byte>> Get(const Digest& digest) const override {
    if (++calls_ == fail_at_) return error_;
    return inner_.Get(digest);
  }
  Result<std::uint64_t> StoredBytes(const Digest& digest) const override { return inner_.StoredBytes(digest); }
  Result<std::vector<Digest>> List() const override { return inner_.List(); }
  Result<void> Remove(const Digest& digest) override { return inner_.Remove(digest); }
  Result<void> Sync() override { return inner_.Sync(); }

 private:
  ChunkStore& inner_;
  const int fail_at_;
  const Error error_;
  mutable std::atomic<int> calls_{0};
};

}  // namespace gpumig
