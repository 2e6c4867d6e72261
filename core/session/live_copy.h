// LiveCopy: copies memory of a workload while it runs, in rounds, so that little is left to copy once it stands still.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "core/base/byte_buffer.h"
#include "core/base/result.h"
#include "core/host/memory_map.h"
#include "core/host/workload_tree.h"
#include "core/host/write_tracker.h"
#include "core/image/digest.h"
#include "core/image/source_directory.h"

namespace gpumig {

// A chunk of memory as it was at some moment, with room for a chunk's header before it (kChunkHeaderBytes).
struct AheadChunk {
  Digest digest;
  ByteBuffer room_and_plain;
};

// Where chunks go, to a target or a file, before there is a manifest that names them.
class AheadShipper {
 public:
  virtual ~AheadShipper() = default;

  // Before the first chunk: `host_bytes` at most are to be expected in one round. Errors: the target's for saying no.
  virtual Result<void> BeginAhead(std::uint64_t host_bytes, std::stop_token stop) = 0;
  // Returns once all of them are at the target. Errors: as ImageShipper::Ship().
  virtual Result<void> ShipAhead(std::span<const AheadChunk> chunks, std::stop_token stop) = 0;
  // Which of them the target does not have, or not whole.
  virtual Result<std::vector<bool>> LacksAhead(std::span<const Digest> digests, std::stop_token stop) = 0;
};

struct LiveOptions {
  std::uint32_t most_rounds = 8;
  std::uint64_t enough_bytes = std::uint64_t{16} << 20;  // so little left is copied while it stands still
};

struct LiveRound {
  std::uint64_t bytes = 0;  // copied
  std::chrono::microseconds duration{0};
};

// Errors: kInvalidArgument, memory that goes `path` cannot be copied while its workload runs.
Result<void> CheckLivePath(HostPath path);

// For the report.
struct LiveReport {
  std::vector<LiveRound> rounds;
  // It writes no faster than can be copied: what the last round left was less than what it began with, or enough.
  bool converged = true;
  std::uint64_t bytes_left = 0;         // that were copied while it stood still, of what Finish() was given
  std::vector<std::string> left_alone;  // processes whose memory could not be copied ahead, and why
};

// One life of a workload from the first round to the dump. The copies of one round are a layer (see ProcessPages): a
// page counts in the last layer that it was copied into unwritten since, by the kernel's account; pages of processes
// without one are left to the stop.
//
// Memory: about kBatchBytes, and 48 bytes per run of pages.
// Ownership: borrows `shipper`. Thread safety: one thread at a time.
class LiveCopy {
 public:
  static constexpr std::uint64_t kBatchBytes = std::uint64_t{64} << 20;

  LiveCopy(AheadShipper& shipper, const LiveOptions& options) : shipper_(shipper), options_(options) {}

  // Copies what `processes` hold, until little is left or nothing is gained any more.
  // Errors: those of the shipper; kCancelled. A process that ends, or cannot be watched, is none.
  Result<void> CopyInRounds(const std::function<Result<std::vector<pid_t>>()>& processes, std::stop_token stop);

  // What the stopped and dumped workload's memory is made of: `dumped` is what has to travel past CRIU, and the result
  // is that in layers, with the files that carry them.
  struct Finished {
    MemoryMap map;
    std::vector<UnwrittenFile> ahead;  // in pieces that are known; where they went only the shipper can tell
    std::vector<UnwrittenFile> last;   // read out of the processes, as MemoryAsFiles() does
  };
  Result<Finished> Finish(const MemoryMap& dumped, const std::vector<pid_t>& processes, std::stop_token stop);

  const LiveReport& report() const { return report_; }

 private:
  // Copied in one piece.
  struct Piece {
    std::vector<MemoryRange> ranges;
    HashedPlace hashed;
  };
  struct Layer {
    std::vector<Piece> pieces;
    std::vector<MemoryRange> valid;  // of their ranges, those not written since; sorted
  };
  struct Watched {
    std::uint64_t start_ticks = 0;
    std::optional<WriteTracker> tracker;  // none: left alone
    std::vector<Layer> layers;            // by layer number
  };
  class Batch;

  // `processes`: all of the workload's.
  void Meet(pid_t pid, const std::vector<pid_t>& processes);
  void LeaveAlone(pid_t pid, Watched& watched, const std::string& why);
  // What was written since the last look, of a process that can be watched; its layers are told.
  Result<std::vector<MemoryRange>> TakeWritten(pid_t pid, Watched& watched);
  Result<std::uint64_t> CopyRound(const std::vector<pid_t>& processes, std::stop_token stop);
  Result<std::uint64_t> CountLeft(const std::vector<pid_t>& processes);
  Result<void> DropWhatTargetLacks(std::stop_token stop);

  AheadShipper& shipper_;
  const LiveOptions options_;
  std::map<pid_t, Watched> watched_;
  LiveReport report_;
};

// Sorted lists of ranges, each apart from the others. Subtract: what of `from` is not in `what`.
std::vector<MemoryRange> Subtract(const std::vector<MemoryRange>& from, const std::vector<MemoryRange>& what);
std::vector<MemoryRange> Intersect(const std::vector<MemoryRange>& a, const std::vector<MemoryRange>& b);

}  // namespace gpumig
