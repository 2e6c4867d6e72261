// The receiving side of chunk transfer: which chunks a migration still lacks, and taking them.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "transport/chunk_protocol.h"
#include "transport/router.h"

namespace gpumig {

// Where received chunks go. The digest decides what a chunk is; a sink takes no peer's word for it.
//
// Thread safety: any number of threads.
class ChunkSink {
 public:
  virtual ~ChunkSink() = default;

  // One bit per digest: true, it is lacking. What is not lacking must survive a crash of this host.
  virtual Result<std::vector<bool>> Lacks(std::span<const ChunkDigest> digests) = 0;

  // Checks that `encoded` decodes to what `digest` names, then stores it. A chunk that is there already is no error.
  // Errors: kDamaged, it does not; the sender sends it again, up to three times; kNoSpace, kIo and others end the
  //     transfer.
  virtual Result<void> Put(const ChunkDigest& digest, std::span<const std::byte> encoded) = 0;
};

// The sink of a migration that this peer may send to. Errors: kNotFound, kPermissionDenied, kFailedPrecondition.
// shared_ptr: the migration's owner may let go of the sink while a request still uses it.
using ChunkSinkFinder =
    std::function<Result<std::shared_ptr<ChunkSink>>(const std::string& migration_id, const HttpPeer& peer)>;

// Adds POST /v1/migrations/{migration}/lacking and PUT /v1/migrations/{migration}/chunks/{digest}.
// Ownership: `find` and what it borrows must outlive the server.
void AddChunkRoutes(Router& router, ChunkSinkFinder find);

}  // namespace gpumig
