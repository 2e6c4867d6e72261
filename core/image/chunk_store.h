// ChunkStore: where encoded chunks live, by the digest of their plaintext. On disk, at another host, in a test's
// memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/result.h"
#include "core/image/digest.h"

namespace gpumig {

// A store does not look into chunks: it gives back what was put, or an error, and whoever gets checks it with
// DecodeChunk(). Every implementation passes tests/core/image/chunk_store_conformance.h.
//
// Thread safety: any number of threads at once, also on one chunk.
class ChunkStore {
 public:
  virtual ~ChunkStore() = default;

  virtual Result<bool> Has(const Digest& digest) const = 0;

  // Once it returns, Get() anywhere gives all of it; where it fails, the store holds all of it or nothing. A chunk that
  // is there already is left alone, since chunks of one name are equal; Remove() a damaged one first. REQUIRES:
  // encoded.size() <= kMaxEncodedChunkBytes
  virtual Result<void> Put(const Digest& digest, std::span<const std::byte> encoded) = 0;

  // Errors: kNotFound; kDamaged, it is longer than any chunk can be.
  virtual Result<std::vector<std::byte>> Get(const Digest& digest) const = 0;

  // The size of what Get() would give. Errors: kNotFound.
  virtual Result<std::uint64_t> StoredBytes(const Digest& digest) const = 0;

  // Sorted.
  virtual Result<std::vector<Digest>> List() const = 0;

  // Ok where it is not there.
  virtual Result<void> Remove(const Digest& digest) = 0;

  // All that was put before survives a power cut.
  virtual Result<void> Sync() = 0;
};

}  // namespace gpumig
