#include "core/session/live_copy.h"

#include <algorithm>
#include <future>
#include <memory>
#include <thread>
#include <utility>

#include "core/base/check.h"
#include "core/base/file.h"
#include "core/host/direct_memory.h"
#include "core/host/process.h"
#include "core/image/chunk_codec.h"
#include "core/image/parallel_for.h"
#include "core/session/host_memory.h"

namespace gpumig {
namespace {

using std::chrono::steady_clock;

constexpr std::size_t kLargestMapsBytes = std::size_t{64} << 20;
// A round that leaves more than this part of what it copied gains too little to be followed by many others.
constexpr double kLeastGain = 0.8;

std::uint64_t BytesOf(const std::vector<MemoryRange>& ranges) {
  std::uint64_t bytes = 0;
  for (const MemoryRange& range : ranges) bytes += range.bytes;
  return bytes;
}

Result<std::vector<MemoryRange>> MappingsOf(pid_t pid) {
  return EligibleMappings(GPUMIG_TRY(ReadTextFile(fmt::format("/proc/{}/maps", pid), kLargestMapsBytes)));
}

bool IsGone(const Error& error) { return error.code() == ErrorCode::kNotFound; }

}  // namespace

std::vector<MemoryRange> Subtract(const std::vector<MemoryRange>& from, const std::vector<MemoryRange>& what) {
  std::vector<MemoryRange> left;
  auto cut = what.begin();
  for (const MemoryRange& range : from) {
    std::uint64_t at = range.address;
    while (cut != what.end() && cut->end() <= at) ++cut;
    for (auto next = cut; next != what.end() && next->address < range.end(); ++next) {
      if (next->address > at) left.push_back({at, next->address - at});
      at = std::max(at, next->end());
    }
    if (at < range.end()) left.push_back({at, range.end() - at});
  }
  return left;
}

std::vector<MemoryRange> Intersect(const std::vector<MemoryRange>& a, const std::vector<MemoryRange>& b) {
  std::vector<MemoryRange> both;
  auto other = b.begin();
  for (const MemoryRange& range : a) {
    while (other != b.end() && other->end() <= range.address) ++other;
    for (auto next = other; next != b.end() && next->address < range.end(); ++next) {
      const std::uint64_t begin = std::max(range.address, next->address);
      both.push_back({begin, std::min(range.end(), next->end()) - begin});
    }
  }
  return both;
}

Result<void> CheckLivePath(HostPath path) {
  if (path == HostPath::kDirect) return Ok();
  return MakeError(ErrorCode::kInvalidArgument, "what CRIU copies (--host-path criu) cannot be copied by --live")
      .WithNextStep("leave out one of the two");
}

// Pieces of one round, of all processes: read and hashed on all cores, and sent while the next ones are read.
class LiveCopy::Batch {
 public:
  Batch(AheadShipper& shipper, std::stop_token stop) : shipper_(shipper), stop_(std::move(stop)) {}
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  ~Batch() {
    if (sending_.valid()) sending_.wait();
  }

  // `layer` gets those that could be read, in order, once Flush() is done.
  Result<void> Add(pid_t pid, Layer& layer, std::vector<MemoryRange> ranges) {
    const std::uint64_t bytes = BytesOf(ranges);
    waiting_.push_back({pid, &layer, std::move(ranges), {}, {}, false});
    waiting_bytes_ += bytes;
    return waiting_bytes_ < kBatchBytes / 2 ? Ok() : Send();
  }
  Result<void> Flush() {
    GPUMIG_TRY(Send());
    return AwaitSent();
  }
  std::uint64_t bytes() const { return bytes_; }

 private:
  struct Item {
    pid_t pid = 0;
    Layer* layer = nullptr;
    std::vector<MemoryRange> ranges;
    ByteBuffer room_and_plain;
    HashedPlace hashed;
    bool read = false;
  };

  Result<void> Send() {
    std::vector<Item> items = std::exchange(waiting_, {});
    waiting_bytes_ = 0;
    ParallelOptions parallel;
    parallel.workers = std::max(1u, std::thread::hardware_concurrency());
    parallel.stop = stop_;
    const auto make_worker = [&]() -> PieceWork {
      return [&](std::size_t i) -> Result<std::uint64_t> {
        Item& item = items[i];
        const ProcessPages pages(1, item.ranges);
        item.room_and_plain.resize(kChunkHeaderBytes + pages.bytes());
        const std::span<std::byte> plain = std::span(item.room_and_plain).subspan(kChunkHeaderBytes);
        // What is unmapped just now is no error: it will not be in the dump, or be written by then.
        item.read = pages.Read(item.pid, 0, plain).has_value();
        if (!item.read) return 0;
        item.hashed.zero = IsAllZero(plain);
        if (!item.hashed.zero) item.hashed.digest = Digest::Of(plain);
        return plain.size();
      };
    };
    GPUMIG_TRY(ParallelFor(items.size(), 0, parallel, make_worker));
    GPUMIG_TRY(AwaitSent());
    auto chunks = std::make_shared<std::vector<AheadChunk>>();
    for (Item& item : items) {
      if (!item.read) continue;
      bytes_ += BytesOf(item.ranges);
      item.layer->valid.insert(item.layer->valid.end(), item.ranges.begin(), item.ranges.end());
      item.layer->pieces.push_back({std::move(item.ranges), item.hashed});
      if (!item.hashed.zero) chunks->push_back({item.hashed.digest, std::move(item.room_and_plain)});
    }
    if (chunks->empty()) return Ok();
    sending_ = std::async(std::launch::async, [this, chunks] { return shipper_.ShipAhead(*chunks, stop_); });
    return Ok();
  }
  Result<void> AwaitSent() { return sending_.valid() ? sending_.get() : Ok(); }

  AheadShipper& shipper_;
  const std::stop_token stop_;
  std::vector<Item> waiting_;
  std::uint64_t waiting_bytes_ = 0;
  std::uint64_t bytes_ = 0;
  std::future<Result<void>> sending_;
};

void LiveCopy::LeaveAlone(pid_t pid, Watched& watched, const std::string& why) {
  watched.tracker.reset();
  watched.layers.clear();
  report_.left_alone.push_back(fmt::format("process {}: {}", pid, why));
}

void LiveCopy::Meet(pid_t pid, const std::vector<pid_t>& processes) {
  const Result<ProcessStat> stat = ReadProcessStat(pid);
  if (!stat) return;
  const auto known = watched_.find(pid);
  if (known != watched_.end() && known->second.start_ticks == stat->start_ticks) return;
  watched_.erase(pid);
  // A child of vfork() is met once it has memory of its own; its parent cannot be asked until then.
  const auto shares = [&] {
    return std::ranges::any_of(processes, [&](pid_t other) {
      const Result<bool> shared = other == pid ? false : SharesMemory(pid, other);
      return shared ? *shared : !IsGone(shared.error());
    });
  };
  if (shares() || WaitsForVforkChild(pid)) return;
  Watched& watched = watched_[pid] = Watched{stat->start_ticks, std::nullopt, {}};
  const Result<std::string> unseen = MayBeWrittenUnseen(pid);
  if (!unseen || !unseen->empty()) {
    if (unseen || !IsGone(unseen.error())) LeaveAlone(pid, watched, unseen ? *unseen : unseen.error().message());
    return;
  }
  Result<WriteTracker> tracker = WriteTracker::Attach(pid);
  if (tracker && shares()) {
    watched_.erase(pid);
  } else if (tracker) {
    watched.tracker.emplace(std::move(*tracker));
  } else if (!IsGone(tracker.error())) {
    LeaveAlone(pid, watched, tracker.error().message());
  }
}

Result<std::vector<MemoryRange>> LiveCopy::TakeWritten(pid_t pid, Watched& watched) {
  const std::string unseen = GPUMIG_TRY(MayBeWrittenUnseen(pid));
  if (!unseen.empty()) {
    LeaveAlone(pid, watched, unseen);
    return std::vector<MemoryRange>();
  }
  WriteTracker::Written written = GPUMIG_TRY(watched.tracker->TakeWritten(GPUMIG_TRY(MappingsOf(pid))));
  for (Layer& layer : watched.layers) {
    layer.valid = Subtract(layer.valid, written.pages);
    layer.valid = Subtract(layer.valid, written.fresh);
  }
  return Subtract(written.pages, written.unwatched);
}

Result<std::uint64_t> LiveCopy::CopyRound(const std::vector<pid_t>& processes, std::stop_token stop) {
  Batch batch(shipper_, std::move(stop));
  for (const pid_t pid : processes) {
    Meet(pid, processes);
    const auto found = watched_.find(pid);
    if (found == watched_.end() || !found->second.tracker) continue;
    Watched& watched = found->second;
    const Result<std::vector<MemoryRange>> written = TakeWritten(pid, watched);
    if (!written) {
      // Another program is another process to us, and met anew.
      if (IsGone(written.error())) {
        watched_.erase(found);
      } else {
        LeaveAlone(pid, watched, written.error().message());
      }
      continue;
    }
    if (!watched.tracker || written->empty()) continue;
    // A list, so that those that batches know stay where they are: reserve for all rounds.
    watched.layers.reserve(options_.most_rounds);
    const bool base = watched.layers.empty();
    Layer& layer = watched.layers.emplace_back();
    for (std::vector<MemoryRange>& ranges : CutIntoPieces(*written, /*by_address=*/base))
      GPUMIG_TRY(batch.Add(pid, layer, std::move(ranges)));
  }
  GPUMIG_TRY(batch.Flush());
  return batch.bytes();
}

Result<std::uint64_t> LiveCopy::CountLeft(const std::vector<pid_t>& processes) {
  std::uint64_t bytes = 0;
  for (const pid_t pid : processes) {
    const auto found = watched_.find(pid);
    if (found == watched_.end() || !found->second.tracker) continue;
    const Result<std::vector<MemoryRange>> mappings = MappingsOf(pid);
    if (!mappings) continue;
    if (const Result<std::uint64_t> written = found->second.tracker->CountWritten(*mappings)) bytes += *written;
  }
  return bytes;
}

Result<void> LiveCopy::CopyInRounds(const std::function<Result<std::vector<pid_t>>()>& processes,
                                    std::stop_token stop) {
  GPUMIG_CHECK(options_.most_rounds < kMostMemoryLayers);
  std::vector<pid_t> tree = GPUMIG_TRY(processes());
  GPUMIG_TRY(shipper_.BeginAhead(MemoryOf(tree).anonymous_bytes, stop));
  for (std::uint32_t round = 0; round < options_.most_rounds; ++round) {
    const auto began = steady_clock::now();
    const std::uint64_t bytes = GPUMIG_TRY(CopyRound(tree, stop));
    const auto took = std::chrono::duration_cast<std::chrono::microseconds>(steady_clock::now() - began);
    report_.rounds.push_back({bytes, took});
    if (stop.stop_requested()) return MakeError(ErrorCode::kCancelled, "it was called off");
    tree = GPUMIG_TRY(processes());
    const std::uint64_t left = GPUMIG_TRY(CountLeft(tree));
    if (left <= options_.enough_bytes) return Ok();
    report_.converged = static_cast<double>(left) < kLeastGain * static_cast<double>(bytes);
    if (!report_.converged) return Ok();
  }
  return Ok();
}

Result<void> LiveCopy::DropWhatTargetLacks(std::stop_token stop) {
  std::vector<Digest> digests;
  const auto each = [&](const auto& work) {
    for (auto& [pid, watched] : watched_) {
      for (Layer& layer : watched.layers) {
        for (Piece& piece : layer.pieces) {
          if (!piece.hashed.zero) work(layer, piece);
        }
      }
    }
  };
  each([&](Layer&, Piece& piece) { digests.push_back(piece.hashed.digest); });
  if (digests.empty()) return Ok();
  const std::vector<bool> lacks = GPUMIG_TRY(shipper_.LacksAhead(digests, std::move(stop)));
  GPUMIG_CHECK(lacks.size() == digests.size());
  std::size_t i = 0;
  each([&](Layer& layer, Piece& piece) {
    if (lacks[i++]) layer.valid = Subtract(layer.valid, piece.ranges);
  });
  return Ok();
}

Result<LiveCopy::Finished> LiveCopy::Finish(const MemoryMap& dumped, const std::vector<pid_t>& processes,
                                            std::stop_token stop) {
  for (auto& [pid, watched] : watched_) {
    if (!watched.tracker) continue;
    const Result<ProcessStat> stat = ReadProcessStat(pid);
    if (!stat || stat->start_ticks != watched.start_ticks) {
      watched.layers.clear();
      continue;
    }
    const Result<std::vector<MemoryRange>> written = TakeWritten(pid, watched);
    if (!written && IsGone(written.error())) {
      watched.layers.clear();
    } else if (!written) {
      LeaveAlone(pid, watched, written.error().message());
    }
  }
  GPUMIG_TRY(DropWhatTargetLacks(std::move(stop)));

  std::map<pid_t, pid_t> pid_of;
  for (const pid_t pid : processes) pid_of.emplace(GPUMIG_TRY(NamespacePids(pid)).back(), pid);
  Finished finished;
  MemoryMap rest;  // what is read out of the stopped processes
  for (const ProcessPages& all : dumped.processes) {
    std::vector<MemoryRange> left;
    for (const MemoryExtent& extent : all.extents()) left.push_back({extent.address, extent.bytes});
    const auto pid = pid_of.find(all.inner_pid());
    const auto found = pid == pid_of.end() ? watched_.end() : watched_.find(pid->second);
    std::uint32_t number = 0;
    if (found != watched_.end()) {
      for (const Layer& layer : found->second.layers) {
        const std::vector<MemoryRange> counts = Intersect(left, layer.valid);
        if (counts.empty()) continue;
        std::vector<MemoryExtent> extents;
        UnwrittenFile file;
        auto next = counts.begin();
        for (const Piece& piece : layer.pieces) {
          std::uint64_t offset = file.bytes;
          const std::size_t before = extents.size();
          for (const MemoryRange& range : piece.ranges) {
            while (next != counts.end() && next->end() <= range.address) ++next;
            for (auto part = next; part != counts.end() && part->address < range.end(); ++part) {
              const std::uint64_t begin = std::max(range.address, part->address);
              extents.push_back({offset + (begin - range.address), begin, std::min(range.end(), part->end()) - begin});
            }
            offset += range.bytes;
          }
          if (extents.size() == before) continue;  // all of it was written since
          file.pieces.push_back({static_cast<std::uint32_t>(offset - file.bytes), piece.hashed});
          file.bytes = offset;
        }
        file.name = MemoryFileName(all.inner_pid(), number);
        file.kind = ChunkKind::kHostPages;
        file.read = [name = file.name](std::uint64_t, std::span<std::byte>) -> Result<void> {
          return MakeError(
                     ErrorCode::kFailedPrecondition,
                     "the target has lost a part of {} that was sent while the workload ran, and which is no more",
                     name)
              .WithNextStep("migrate again");
        };
        finished.map.processes.emplace_back(all.inner_pid(), number, file.bytes, std::move(extents));
        finished.ahead.push_back(std::move(file));
        left = Subtract(left, counts);
        ++number;
      }
    }
    report_.bytes_left += BytesOf(left);
    if (left.empty()) continue;
    std::vector<MemoryExtent> extents;
    std::uint64_t bytes = 0;
    for (const MemoryRange& range : left) {
      extents.push_back({bytes, range.address, range.bytes});
      bytes += range.bytes;
    }
    rest.processes.emplace_back(all.inner_pid(), number, bytes, std::move(extents));
  }
  finished.last = GPUMIG_TRY(MemoryAsFiles(rest, processes));
  finished.map.processes.insert(finished.map.processes.end(), rest.processes.begin(), rest.processes.end());
  return finished;
}

}  // namespace gpumig
