#include "core/image/chunk_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <thread>
#include <unordered_set>

#include "core/base/check.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/image/beneath.h"
#include "core/image/chunk_codec.h"
#include "core/image/directory_chunk_store.h"
#include "core/image/image_directory.h"
#include "core/image/manifest.h"

namespace gpumig {
namespace {

constexpr std::size_t kIdDigits = 16;
constexpr std::size_t kReaders = 4;

// Held by whoever changes a cache. A holder that is killed lets go of it.
class CacheLock {
 public:
  static Result<CacheLock> Take(const std::filesystem::path& directory) {
    UniqueFd fd = GPUMIG_TRY(OpenFile(directory / "lock", O_RDWR | O_CREAT | O_NOFOLLOW));
    while (flock(fd.get(), LOCK_EX) != 0) {
      if (errno != EINTR) return Error::FromErrno(errno, fmt::format("lock {}", (directory / "lock").string()));
    }
    return CacheLock(std::move(fd));
  }

 private:
  explicit CacheLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

std::string IdOf(const std::filesystem::path& path) {
  const std::string text = path.string();
  return Digest::Of(std::as_bytes(std::span(text))).ToHex().substr(0, kIdDigits);
}

// Sorted; empty where there is no such directory.
std::vector<std::filesystem::path> Entries(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> entries;
  std::error_code ignored;
  for (std::filesystem::directory_iterator entry(directory, ignored), end; entry != end; entry.increment(ignored))
    entries.push_back(entry->path());
  std::ranges::sort(entries);
  return entries;
}

std::uint64_t BytesOf(const std::filesystem::path& kept) {
  std::uint64_t sum = 0;
  for (const std::filesystem::path& file : Entries(kept)) {
    std::error_code error;
    const std::uint64_t bytes = std::filesystem::file_size(file, error);
    if (!error) sum += bytes;
  }
  return sum;
}

// Those who have its files open would else hold their room for as long.
void Evict(const std::filesystem::path& kept) {
  for (const std::filesystem::path& file : Entries(kept)) [[maybe_unused]]
    const int emptied = truncate(file.c_str(), 0);
  std::error_code ignored;
  std::filesystem::remove_all(kept, ignored);
}

// Names sort by time.
std::string KeptName(const std::string& job) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const std::string name = IsValidFileName(job) && job.size() <= 128 ? job : IdOf(job);
  return fmt::format("{:016x}-{}", std::chrono::duration_cast<std::chrono::microseconds>(now).count(), name);
}

bool IsOfJob(const std::string& kept_name, const std::string& name) {
  return kept_name.size() > kIdDigits && kept_name.substr(kIdDigits) == name.substr(kIdDigits);
}

Result<std::pair<CacheIndex, Digest>> ReadIndex(const std::filesystem::path& file) {
  const std::vector<std::byte> bytes = GPUMIG_TRY(ReadBinaryFile(file, kMaxCacheIndexBytes));
  CacheIndex index = GPUMIG_TRY(CacheIndex::Parse(bytes), "{}", file.string());
  return std::pair(std::move(index), Digest::Of(bytes));
}

CacheItem ItemOf(const std::string& id, const CacheIndex& index) {
  return {.id = id,
          .kind = index.kind,
          .path = index.path,
          .bytes = index.bytes,
          .chunk_count = index.chunks.size(),
          .trouble = ""};
}

}  // namespace

struct CachedChunks::Item {
  CacheKind kind = CacheKind::kFile;
  std::filesystem::path path;
  CacheStamp stamp;
  std::filesystem::path index_file;
  Digest index_digest;
  std::unique_ptr<PackChunkStore> pack;  // of a kept one
  std::atomic<bool> dropped = false;

  // Encoded, unchecked.
  Result<std::vector<std::byte>> Read(const CachedChunk& chunk) const {
    switch (kind) {
      case CacheKind::kKept:
        return pack->Get(chunk.digest);
      case CacheKind::kImage: {
        const DirectoryChunkStore store =
            GPUMIG_TRY(DirectoryChunkStore::Open(path / kChunksName, StoreDurability::kNone));
        return store.Get(chunk.digest);
      }
      case CacheKind::kFile:
        break;
    }
    const UniqueFd fd = GPUMIG_TRY(OpenFile(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
    const CacheStamp now = GPUMIG_TRY(StampOfFile(fd.get()));
    if (now.bytes != stamp.bytes || now.changed_ns != stamp.changed_ns)
      return MakeError(ErrorCode::kDamaged, "{} was changed since it was added", path.string());
    std::vector<std::byte> plain(chunk.plain_bytes);
    GPUMIG_TRY(ReadExactlyAt(fd.get(), plain, chunk.offset), "read {}", path.string());
    return EncodeChunk(plain, CompressionChoice::None());
  }
};

CachedChunks::CachedChunks(std::filesystem::path directory, CacheLimits limits, BeforeRead before_read)
    : directory_(std::move(directory)), limits_(limits), before_read_(std::move(before_read)) {}

void CachedChunks::Take(std::span<const Digest> digests, std::vector<bool>& lacking, const PutFn& put) {
  GPUMIG_CHECK(lacking.size() == digests.size());
  std::vector<std::size_t> cached;
  for (std::size_t i = 0; i < digests.size(); ++i) {
    if (lacking[i] && places_.contains(digests[i])) cached.push_back(i);
  }
  if (cached.empty()) return;
  std::call_once(reader_made_, [&] { reader_ = std::make_unique<PatientReader>(kReaders); });
  std::vector<char> taken(cached.size());
  ParallelOptions parallel;
  parallel.workers = std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, kReaders);
  const auto until = std::chrono::steady_clock::now() + limits_.longest_look;
  const auto make_worker = [&]() -> PieceWork {
    return [&](std::size_t i) -> Result<std::uint64_t> {
      if (std::chrono::steady_clock::now() < until) taken[i] = TakeOne(digests[cached[i]], put) ? 1 : 0;
      return 0;
    };
  };
  // No piece of it fails.
  [[maybe_unused]] const Result<void> done = ParallelFor(cached.size(), 0, parallel, make_worker);
  for (std::size_t i = 0; i < cached.size(); ++i) {
    if (taken[i] != 0) lacking[cached[i]] = false;
  }
}

bool CachedChunks::TakeOne(const Digest& digest, const PutFn& put) {
  for (const Place& place : places_.at(digest)) {
    if (place.item->dropped) continue;
    const Result<std::vector<std::byte>> encoded = reader_->Read(
        [item = place.item, chunk = place.chunk, before = before_read_] {
          if (before) before();
          return item->Read(chunk);
        },
        limits_.longest_read);
    if (!encoded) {
      Drop(place, encoded.error());
      continue;
    }
    const Result<void> taken = put(digest, *encoded);
    if (taken) return true;
    // Of anything else the sender is told when it sends the chunk.
    if (taken.error().code() != ErrorCode::kDamaged && taken.error().code() != ErrorCode::kUnsupported) return false;
    Drop(place, taken.error());
  }
  return false;
}

void CachedChunks::Drop(const Place& place, const Error& why) const {
  Item& item = *place.item;
  if (item.kind == CacheKind::kKept && why.code() != ErrorCode::kDeadlineExceeded) {
    spdlog::warn("cache: chunk {} of {} is of no use: {}", place.chunk.digest.ToHex(), item.path.string(),
                 why.message());
    [[maybe_unused]] const Result<void> removed = item.pack->Remove(place.chunk.digest);
    return;
  }
  if (item.dropped.exchange(true)) return;
  spdlog::warn("cache: {} is not used any more: {}", item.path.string(), why.message());
  // A file system that is late now may be there the next time.
  if (why.code() == ErrorCode::kDeadlineExceeded) return;
  const Result<CacheLock> lock = CacheLock::Take(directory_);
  const Result<std::vector<std::byte>> index = ReadBinaryFile(item.index_file, kMaxCacheIndexBytes);
  // It may have been added anew meanwhile.
  if (lock && index && Digest::Of(*index) == item.index_digest) unlink(item.index_file.c_str());
}

Result<CacheItem> ChunkCache::Add(const std::filesystem::path& path, const ParallelOptions& options) {
  const CacheIndex index = GPUMIG_TRY(MakeCacheIndex(path, options), "add {} to the cache", path.string());
  const std::string id = IdOf(index.path);
  const std::vector<std::byte> bytes = index.Serialise();
  GPUMIG_TRY(MakeDirectories(added()));
  const CacheLock lock = GPUMIG_TRY(CacheLock::Take(directory_));
  GPUMIG_TRY(
      WriteFileDurably(added() / id, std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size())));
  return ItemOf(id, index);
}

Result<std::vector<CacheItem>> ChunkCache::List() const {
  std::vector<CacheItem> items;
  for (const std::filesystem::path& file : Entries(added())) {
    if (file.extension() == ".tmp") continue;
    const Result<std::pair<CacheIndex, Digest>> index = ReadIndex(file);
    if (index) {
      items.push_back(ItemOf(file.filename(), index->first));
    } else if (index.error().code() != ErrorCode::kNotFound) {  // Else somebody has just removed it.
      items.push_back({.id = file.filename(), .path = file, .trouble = index.error().message()});
    }
  }
  for (const std::filesystem::path& directory : Entries(kept())) {
    CacheItem item{.id = directory.filename(), .kind = CacheKind::kKept, .path = directory, .trouble = ""};
    item.bytes = BytesOf(directory);
    const CacheLock lock = GPUMIG_TRY(CacheLock::Take(directory_));
    if (!std::filesystem::exists(directory)) continue;
    if (const Result<PackChunkStore> pack = PackChunkStore::Open(directory)) {
      if (const Result<std::vector<Digest>> digests = pack->List()) item.chunk_count = digests->size();
    } else {
      item.trouble = pack.error().message();
    }
    items.push_back(std::move(item));
  }
  return items;
}

Result<void> ChunkCache::Remove(const std::string& id_or_path) {
  std::error_code ignored;
  const std::filesystem::path whole = std::filesystem::weakly_canonical(id_or_path, ignored);
  for (const CacheItem& item : GPUMIG_TRY(List())) {
    if (item.id != id_or_path && item.path != id_or_path && item.path != whole) continue;
    const CacheLock lock = GPUMIG_TRY(CacheLock::Take(directory_));
    if (item.kind == CacheKind::kKept) {
      Evict(item.path);
      return Ok();
    }
    const std::filesystem::path file = added() / item.id;
    if (unlink(file.c_str()) != 0 && errno != ENOENT)
      return Error::FromErrno(errno, fmt::format("remove {}", file.string()));
    return Ok();
  }
  return MakeError(ErrorCode::kNotFound, "the cache has nothing of that id or path: {}", id_or_path)
      .WithNextStep("see what it has with: gpumig cache list");
}

std::uint64_t ChunkCache::FreeOnDisk() const {
  constexpr std::uint64_t kPlenty = std::numeric_limits<std::uint64_t>::max();
  const Result<UniqueFd> fd = OpenFile(directory_, O_RDONLY | O_DIRECTORY);
  if (!fd) return kPlenty;
  const Result<std::optional<std::uint64_t>> free = FreeBytes(fd->get());
  return free ? free->value_or(kPlenty) : 0;
}

Result<bool> ChunkCache::Keep(PackChunkStore& store, const std::string& job) {
  GPUMIG_TRY(MakeDirectories(kept()));
  const CacheLock lock = GPUMIG_TRY(CacheLock::Take(directory_));
  const std::uint64_t bytes = GPUMIG_TRY(store.Trim());
  if (GPUMIG_TRY(store.List()).empty() || bytes > limits_.kept_bytes) {
    GPUMIG_TRY(store.Clear());
    return false;
  }
  const std::string name = KeptName(job);
  std::vector<std::filesystem::path> others;
  std::uint64_t sum = 0;
  for (const std::filesystem::path& other : Entries(kept())) {
    // All that it had and the job still has is in the new one.
    if (IsOfJob(other.filename(), name)) {
      Evict(other);
    } else {
      others.push_back(other);
      sum += BytesOf(other);
    }
  }
  for (const std::filesystem::path& oldest : others) {
    if (sum + bytes <= limits_.kept_bytes && FreeOnDisk() >= limits_.reserve_bytes) break;
    sum -= BytesOf(oldest);
    Evict(oldest);
  }
  if (FreeOnDisk() < limits_.reserve_bytes) {
    GPUMIG_TRY(store.Clear());
    return false;
  }
  GPUMIG_TRY(MakeDirectories(kept() / name));
  GPUMIG_TRY(store.MoveTo(kept() / name));
  GPUMIG_TRY(SyncDirectory(kept() / name));
  GPUMIG_TRY(SyncDirectory(kept()));
  return true;
}

void ChunkCache::MakeRoom(std::uint64_t bytes) const {
  if (FreeOnDisk() >= bytes) return;
  const Result<CacheLock> lock = CacheLock::Take(directory_);
  if (!lock) return;
  for (const std::filesystem::path& oldest : Entries(kept())) {
    if (FreeOnDisk() >= bytes) return;
    Evict(oldest);
  }
}

std::shared_ptr<CachedChunks> ChunkCache::Find(std::span<const Digest> wanted) const {
  // With the image that wants them, and with requests that are under way when that is dropped.
  std::shared_ptr<CachedChunks> found(new CachedChunks(directory_, limits_, before_read_));
  std::error_code ignored;
  if (!std::filesystem::exists(directory_, ignored)) return found;
  const Result<CacheLock> lock = CacheLock::Take(directory_);
  if (!lock) return found;
  const std::unordered_set<Digest> is_wanted(wanted.begin(), wanted.end());
  std::vector<std::filesystem::path> packs = Entries(kept());
  std::ranges::reverse(packs);
  for (const std::filesystem::path& directory : packs) {
    Result<PackChunkStore> pack = PackChunkStore::Open(directory);
    const Result<std::vector<Digest>> digests = pack ? pack->List() : Result<std::vector<Digest>>(pack.error());
    if (!digests) {
      spdlog::warn("cache: {} cannot be used: {}", directory.string(), digests.error().message());
      continue;
    }
    const auto item = std::make_shared<CachedChunks::Item>();
    item->kind = CacheKind::kKept;
    item->path = directory;
    item->pack = std::make_unique<PackChunkStore>(*std::move(pack));
    for (const Digest& digest : *digests) {
      if (is_wanted.contains(digest)) found->places_[digest].push_back({item, {digest, 0, 0}});
    }
  }
  for (const std::filesystem::path& file : Entries(added())) {
    if (file.extension() == ".tmp") continue;
    const Result<std::pair<CacheIndex, Digest>> read = ReadIndex(file);
    if (!read) {
      spdlog::warn("cache: an index cannot be used, add its file again: {}", read.error().message());
      continue;
    }
    const CacheIndex& index = read->first;
    const auto item = std::make_shared<CachedChunks::Item>();
    item->kind = index.kind;
    item->path = index.path;
    item->stamp = {index.bytes, index.changed_ns};
    item->index_file = file;
    item->index_digest = read->second;
    for (const CachedChunk& chunk : index.chunks) {
      if (is_wanted.contains(chunk.digest)) found->places_[chunk.digest].push_back({item, chunk});
    }
  }
  return found;
}

}  // namespace gpumig
