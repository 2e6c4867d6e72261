#include "core/image/pack_chunk_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "core/base/byte_buffer.h"
#include "core/base/bytes.h"
#include "core/base/check.h"
#include "core/base/file.h"
#include "core/image/beneath.h"
#include "core/image/chunk_codec.h"

namespace gpumig {
namespace {

constexpr const char* kPackFile = "chunks.pack";
constexpr const char* kIndexFile = "chunks.index";
constexpr std::size_t kBlockBytes = kBufferAlignment;
constexpr std::size_t kIndexEntryBytes = Digest::kBytes + 16;
constexpr std::size_t kMaxIndexBytes = std::size_t{512} << 20;

std::uint64_t InWholeBlocks(std::uint64_t bytes) { return (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes; }

// Checks what was found in a file of an earlier run.
bool IsWhole(std::span<const std::byte> encoded, const Digest& digest) {
  const Result<ChunkHeader> header = ParseChunkHeader(encoded);
  return header && ChunkDecoder().View(encoded, digest, header->plain_bytes).has_value();
}

}  // namespace

struct PackChunkStore::State {
  std::filesystem::path path;
  UniqueFd write;  // past the page cache where the file system can
  UniqueFd read;
  UniqueFd index;
  std::mutex mutex;
  std::unordered_map<Digest, Entry> entries;  // guarded by mutex
  std::uint64_t end = 0;                      // guarded by mutex: where the next chunk goes
};

PackChunkStore::PackChunkStore(std::unique_ptr<State> state) : state_(std::move(state)) {}
PackChunkStore::PackChunkStore(PackChunkStore&&) noexcept = default;
PackChunkStore::~PackChunkStore() = default;

Result<PackChunkStore> PackChunkStore::Open(const std::filesystem::path& directory) {
  auto state = std::make_unique<State>();
  state->path = directory / kPackFile;
  state->write = GPUMIG_TRY(OpenFile(state->path, O_WRONLY | O_CREAT | O_NOFOLLOW));
  fcntl(state->write.get(), F_SETFL, O_DIRECT);  // Not every file system can, and none must.
  state->read = GPUMIG_TRY(OpenFile(state->path, O_RDONLY | O_NOFOLLOW));
  state->index = GPUMIG_TRY(OpenFile(directory / kIndexFile, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW));
  PackChunkStore store(std::move(state));
  GPUMIG_TRY(store.ReadIndex(), "{}", (directory / kIndexFile).string());
  return store;
}

Result<void> PackChunkStore::ReadIndex() {
  struct stat pack{};
  struct stat index{};
  if (fstat(state_->read.get(), &pack) != 0 || fstat(state_->index.get(), &index) != 0)
    return Error::FromErrno(errno, "fstat");
  const auto index_bytes = static_cast<std::uint64_t>(index.st_size) / kIndexEntryBytes * kIndexEntryBytes;
  if (index_bytes > kMaxIndexBytes) return MakeError(ErrorCode::kDamaged, "the index has {} bytes", index.st_size);
  // An entry that was being written when its writer was killed is none.
  if (ftruncate(state_->index.get(), static_cast<off_t>(index_bytes)) != 0) return Error::FromErrno(errno, "ftruncate");
  std::vector<std::byte> bytes(index_bytes);
  GPUMIG_TRY(ReadExactlyAt(state_->index.get(), bytes, 0));
  ByteReader reader(bytes);
  const auto pack_bytes = static_cast<std::uint64_t>(pack.st_size);
  state_->end = InWholeBlocks(pack_bytes);
  while (reader.remaining() > 0) {
    const std::span<const std::byte> digest_bytes = GPUMIG_TRY(reader.Bytes(Digest::kBytes));
    const Digest digest(digest_bytes.first<Digest::kBytes>());
    const Entry entry{GPUMIG_TRY(reader.U64()), GPUMIG_TRY(reader.U64()), /*checked=*/false};
    const bool possible = entry.bytes > 0 && entry.bytes <= kMaxEncodedChunkBytes && entry.offset <= pack_bytes &&
                          entry.bytes <= pack_bytes - entry.offset;
    if (possible) {
      state_->entries.insert_or_assign(digest, entry);
    } else {
      state_->entries.erase(digest);
    }
  }
  return Ok();
}

Result<void> PackChunkStore::Reserve(std::uint64_t bytes) {
  std::uint64_t end = 0;
  {
    const std::lock_guard lock(state_->mutex);
    end = state_->end;
  }
  if (bytes == 0 || fallocate(state_->write.get(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(end),
                              static_cast<off_t>(InWholeBlocks(bytes))) == 0) {
    return Ok();
  }
  if (errno == EOPNOTSUPP) return Ok();
  return Error::FromErrno(errno, fmt::format("take {} bytes for {}", bytes, state_->path.string()));
}

Result<void> PackChunkStore::Clear() {
  const std::lock_guard lock(state_->mutex);
  state_->entries.clear();
  state_->end = 0;
  // The index first: without it, what is left of the pack is nobody's.
  if (ftruncate(state_->index.get(), 0) != 0 || ftruncate(state_->write.get(), 0) != 0)
    return Error::FromErrno(errno, fmt::format("empty {}", state_->path.string()));
  return Ok();
}

Result<std::uint64_t> PackChunkStore::Trim() {
  const std::lock_guard lock(state_->mutex);
  // Where a file ends, what is allocated beyond is given back too.
  if (ftruncate(state_->write.get(), static_cast<off_t>(state_->end)) != 0)
    return Error::FromErrno(errno, fmt::format("shorten {}", state_->path.string()));
  struct stat index{};
  if (fstat(state_->index.get(), &index) != 0) return Error::FromErrno(errno, "fstat");
  return state_->end + static_cast<std::uint64_t>(index.st_size);
}

Result<void> PackChunkStore::MoveTo(const std::filesystem::path& directory) {
  const std::lock_guard lock(state_->mutex);
  state_->entries.clear();
  state_->end = 0;
  const std::filesystem::path from = state_->path.parent_path();
  for (const char* name : {kPackFile, kIndexFile}) {
    if (rename((from / name).c_str(), (directory / name).c_str()) != 0)
      return Error::FromErrno(errno, fmt::format("move {} to {}", (from / name).string(), directory.string()));
  }
  const PackChunkStore fresh = GPUMIG_TRY(Open(from));
  // Under the same numbers, which somebody may be about to read or write.
  for (const auto& [ours, theirs] :
       {std::pair(&state_->write, &fresh.state_->write), std::pair(&state_->read, &fresh.state_->read),
        std::pair(&state_->index, &fresh.state_->index)}) {
    if (dup3(theirs->get(), ours->get(), O_CLOEXEC) < 0) return Error::FromErrno(errno, "dup3");
  }
  return Ok();
}

Result<PackChunkStore::Entry> PackChunkStore::Find(const Digest& digest) const {
  const std::lock_guard lock(state_->mutex);
  const auto found = state_->entries.find(digest);
  if (found == state_->entries.end())
    return MakeError(ErrorCode::kNotFound, "chunk {} is not in {}", digest.ToHex(), state_->path.string());
  return found->second;
}

Result<std::vector<std::byte>> PackChunkStore::Read(const Digest& digest, const Entry& entry) const {
  std::vector<std::byte> encoded(entry.bytes);
  GPUMIG_TRY(ReadExactlyAt(state_->read.get(), encoded, entry.offset), "get chunk {} from {}", digest.ToHex(),
             state_->path.string());
  return encoded;
}

Result<bool> PackChunkStore::Has(const Digest& digest) const {
  const Result<Entry> entry = Find(digest);
  if (!entry) return false;
  if (entry->checked) return true;
  const bool whole = IsWhole(GPUMIG_TRY(Read(digest, *entry)), digest);
  const std::lock_guard lock(state_->mutex);
  if (whole) {
    state_->entries[digest].checked = true;
  } else {
    state_->entries.erase(digest);
  }
  return whole;
}

Result<void> PackChunkStore::Put(const Digest& digest, std::span<const std::byte> encoded) {
  GPUMIG_CHECK(!encoded.empty() && encoded.size() <= kMaxEncodedChunkBytes);
  if (GPUMIG_TRY(Has(digest))) return Ok();
  std::uint64_t offset = 0;
  {
    const std::lock_guard lock(state_->mutex);
    offset = state_->end;
    state_->end += InWholeBlocks(encoded.size());
  }
  auto write = [&]() -> Result<void> {
    std::size_t done = 0;
    if (reinterpret_cast<std::uintptr_t>(encoded.data()) % kBlockBytes == 0) {
      done = encoded.size() / kBlockBytes * kBlockBytes;
      GPUMIG_TRY(WriteAllAt(state_->write.get(), encoded.first(done), offset));
    }
    const std::span<const std::byte> rest = encoded.subspan(done);
    if (rest.empty()) return Ok();
    thread_local ByteBuffer block;
    block.resize(InWholeBlocks(rest.size()));
    std::memcpy(block.data(), rest.data(), rest.size());
    std::memset(block.data() + rest.size(), 0, block.size() - rest.size());
    return WriteAllAt(state_->write.get(), block, offset + done);
  };
  GPUMIG_TRY(write(), "put chunk {} into {}", digest.ToHex(), state_->path.string());
  const std::lock_guard lock(state_->mutex);
  // Of two writers of one chunk the first counts; the other's bytes lie there unused.
  if (!state_->entries.emplace(digest, Entry{offset, encoded.size()}).second) return Ok();
  Result<void> noted = Note(digest, offset, encoded.size());
  if (!noted) state_->entries.erase(digest);
  return noted;
}

// REQUIRES: the mutex is held, so that entries of one chunk stand in the order of what happened
Result<void> PackChunkStore::Note(const Digest& digest, std::uint64_t offset, std::uint64_t bytes) const {
  ByteWriter writer;
  writer.Bytes(digest.bytes());
  writer.U64(offset);
  writer.U64(bytes);
  return WriteAll(state_->index.get(), writer.bytes());
}

Result<std::vector<std::byte>> PackChunkStore::Get(const Digest& digest) const {
  return Read(digest, GPUMIG_TRY(Find(digest)));
}

Result<std::uint64_t> PackChunkStore::StoredBytes(const Digest& digest) const { return GPUMIG_TRY(Find(digest)).bytes; }

Result<std::vector<Digest>> PackChunkStore::List() const {
  std::vector<Digest> digests;
  {
    const std::lock_guard lock(state_->mutex);
    for (const auto& [digest, entry] : state_->entries) digests.push_back(digest);
  }
  std::sort(digests.begin(), digests.end());
  return digests;
}

Result<void> PackChunkStore::Remove(const Digest& digest) {
  const std::lock_guard lock(state_->mutex);
  if (state_->entries.erase(digest) == 0) return Ok();
  return Note(digest, 0, 0);
}

Result<void> PackChunkStore::Sync() {
  GPUMIG_TRY(SyncFd(state_->write.get(), state_->path.string()));
  return SyncFd(state_->index.get(), kIndexFile);
}

}  // namespace gpumig
