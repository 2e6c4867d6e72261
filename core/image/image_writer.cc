#include "core/image/image_writer.h"

#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_set>
#include <utility>

#include "core/base/file.h"
#include "core/image/beneath.h"

namespace gpumig {
namespace {

// Which worker puts a chunk that several come upon: the first.
class ClaimedDigests {
 public:
  bool Claim(const Digest& digest) {
    const std::lock_guard lock(mutex_);
    return digests_.insert(digest).second;
  }

 private:
  std::mutex mutex_;
  std::unordered_set<Digest> digests_;  // guarded by mutex_
};

// One worker's way from a place in a file to a chunk in the store.
class PlaceStorer {
 public:
  PlaceStorer(const SourceDirectory& source, ChunkStore& store, ClaimedDigests& claimed, CompressionChoice compression,
              CodecPolicy& policy)
      : source_(source),
        store_(store),
        claimed_(claimed),
        policy_(policy),
        encoder_(compression, compression.automatic ? &policy : nullptr) {}

  Result<HashedPlace> Store(const ChunkPlace& place) {
    plain_.resize(place.bytes);
    GPUMIG_TRY(source_.Read(place, plain_));
    if (IsAllZero(plain_)) return HashedPlace{.digest = {}, .zero = true};
    const Digest digest = Digest::Of(plain_);
    if (claimed_.Claim(digest) && !GPUMIG_TRY(store_.Has(digest))) {
      GPUMIG_TRY(Put(digest, encoder_.Encode(plain_)));
    }
    return HashedPlace{.digest = digest, .zero = false};
  }

 private:
  // To the policy a store is a link like another.
  Result<void> Put(const Digest& digest, std::span<const std::byte> encoded) {
    const auto begin = std::chrono::steady_clock::now();
    policy_.SendBegins(encoded.size(), begin);
    Result<void> put = store_.Put(digest, encoded);
    const auto end = std::chrono::steady_clock::now();
    // Waiting for the disk included: this worker encodes nothing meanwhile.
    policy_.SendEnds(encoded.size(), put.has_value(), end, end - begin);
    return put;
  }

  const SourceDirectory& source_;
  ChunkStore& store_;
  ClaimedDigests& claimed_;
  CodecPolicy& policy_;
  ChunkEncoder encoder_;
  std::vector<std::byte> plain_;
};

Result<HashedSource> StoreSource(SourceDirectory source, ChunkStore& store, const WriteOptions& options) {
  const std::span<const ChunkPlace> places = source.places();
  std::vector<HashedPlace> hashed(places.size());
  ClaimedDigests claimed;
  CodecPolicy::Limits limits;
  limits.cores = std::max(1u, static_cast<unsigned>(options.source.parallel.workers));
  limits.most_bytes_per_second = options.most_bytes_per_second;
  CodecPolicy policy(limits);
  const auto make_worker = [&]() -> PieceWork {
    // std::function wants to be able to copy what it holds.
    auto storer = std::make_shared<PlaceStorer>(source, store, claimed, options.compression, policy);
    return [&, storer](std::size_t i) -> Result<std::uint64_t> {
      hashed[i] = GPUMIG_TRY(storer->Store(places[i]));
      return places[i].bytes;
    };
  };
  GPUMIG_TRY(ParallelFor(places.size(), source.total_bytes(), options.source.parallel, make_worker));
  return AssembleManifest(std::move(source), hashed, options.source.facts_json);
}

Result<ImageSummary> WriteInto(ImageDirectory& image, SourceDirectory source, const WriteOptions& options) {
  const HashedSource stored = GPUMIG_TRY(StoreSource(std::move(source), image.store(), options));
  const ImageSummary summary = GPUMIG_TRY(Summarise(stored.manifest(), stored.image_digest(), image.store()));
  GPUMIG_TRY(image.Seal(stored.manifest_bytes()));
  return summary;
}

// A page cache takes bytes at the speed of memory, and the disk behind it gets them when the image is made safe. What
// that one does is not known in time; a good one writes 1 GB/s.
double LikelyRate(const std::filesystem::path& directory) {
  return IsInMemory(directory) ? std::numeric_limits<double>::infinity() : 1e9;
}

// What a person needs to know once the disk was full: how much it takes, and how much there is, now that what was
// written is gone.
Error ExplainFullDisk(Error error, const std::filesystem::path& image, std::uint64_t bytes_needed) {
  std::optional<std::uint64_t> free_bytes;
  const std::filesystem::path parent = image.has_parent_path() ? image.parent_path() : std::filesystem::path(".");
  if (const Result<UniqueFd> fd = OpenFile(parent, O_RDONLY | O_DIRECTORY)) {
    free_bytes = FreeBytes(fd->get()).value_or(std::nullopt);
  }
  error.AddContext(fmt::format("the image takes up to {} bytes", bytes_needed));
  return std::move(error).WithNextStep(fmt::format(
      "free {} bytes for {} ({} are free now), or name another directory; what was written has been removed",
      bytes_needed, image.string(), free_bytes ? fmt::format("{}", *free_bytes) : "an unknown number"));
}

}  // namespace

Result<HashedSource> StoreFiles(const std::filesystem::path& source, ChunkStore& store, const WriteOptions& options) {
  SourceDirectory files =
      GPUMIG_TRY(SourceDirectory::Open(source, options.source.kind_of_file, options.source.unwritten));
  return StoreSource(std::move(files), store, options);
}

Result<ImageSummary> WriteImage(const std::filesystem::path& source, const std::filesystem::path& image,
                                const WriteOptions& options) {
  SourceDirectory files =
      GPUMIG_TRY(SourceDirectory::Open(source, options.source.kind_of_file, options.source.unwritten), "write image");
  const std::uint64_t total_bytes = files.total_bytes();
  auto write = [&]() -> Result<ImageSummary> {
    ImageDirectory directory = GPUMIG_TRY(ImageDirectory::Create(image, options.durability));
    WriteOptions with_rate = options;
    with_rate.most_bytes_per_second = std::min(options.most_bytes_per_second, LikelyRate(image));
    return WriteInto(directory, std::move(files), with_rate);  // `directory` removes what was written where this fails
  };
  Result<ImageSummary> written = write();
  if (written) return written;
  Error error = std::move(written).error();
  if (error.code() == ErrorCode::kNoSpace) error = ExplainFullDisk(std::move(error), image, total_bytes);
  error.AddContext(fmt::format("write image {}", image.string()));
  return error;
}

}  // namespace gpumig
