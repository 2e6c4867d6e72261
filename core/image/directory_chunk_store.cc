#include "core/image/directory_chunk_store.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "core/base/check.h"
#include "core/base/file.h"
#include "core/image/beneath.h"
#include "core/image/chunk_codec.h"

namespace gpumig {
namespace {

constexpr std::size_t kShardDigits = 2;

std::string ShardOf(const std::string& name) { return name.substr(0, kShardDigits); }
std::string FileOf(const std::string& name) { return ShardOf(name) + "/" + name; }

Result<std::string> TemporaryName() {
  std::uint64_t number = 0;
  if (getrandom(&number, sizeof(number), 0) != sizeof(number)) return Error::FromErrno(errno, "getrandom");
  return fmt::format("tmp-{:016x}", number);
}

}  // namespace

Result<DirectoryChunkStore> DirectoryChunkStore::Open(const std::filesystem::path& directory,
                                                      StoreDurability durability) {
  UniqueFd fd = GPUMIG_TRY(OpenFile(directory, O_RDONLY | O_DIRECTORY));
  return DirectoryChunkStore(std::move(fd), directory, durability);
}

DirectoryChunkStore::DirectoryChunkStore(UniqueFd directory, std::filesystem::path path, StoreDurability durability)
    : directory_(std::move(directory)), path_(std::move(path)), durability_(durability) {}

Result<bool> DirectoryChunkStore::Has(const Digest& digest) const {
  const Result<UniqueFd> file = OpenBeneath(directory_.get(), FileOf(digest.ToHex()), O_PATH);
  if (file) return true;
  if (file.error().code() == ErrorCode::kNotFound) return false;
  return Error(file.error()).AddContext(fmt::format("look for chunk in {}", path_.string()));
}

Result<void> DirectoryChunkStore::Put(const Digest& digest, std::span<const std::byte> encoded) {
  GPUMIG_CHECK(encoded.size() <= kMaxEncodedChunkBytes);
  if (GPUMIG_TRY(Has(digest))) return Ok();
  const std::string name = digest.ToHex();
  GPUMIG_TRY(PutFile(name, encoded), "put chunk {} into {}", name, path_.string());
  return Ok();
}

Result<void> DirectoryChunkStore::PutFile(const std::string& name, std::span<const std::byte> encoded) const {
  const UniqueFd shard = GPUMIG_TRY(MakeShard(ShardOf(name)));
  const std::string temporary = GPUMIG_TRY(TemporaryName());
  UniqueFd file = GPUMIG_TRY(OpenBeneath(shard.get(), temporary, O_WRONLY | O_CREAT | O_EXCL, 0600));
  auto write_and_rename = [&]() -> Result<void> {
    GPUMIG_TRY(WriteAll(file.get(), encoded));
    if (durability_ == StoreDurability::kEach) GPUMIG_TRY(SyncFd(file.get(), temporary));
    GPUMIG_TRY(file.Close());
    // Two writers of one chunk may race to here. Both rename equal chunks onto one name, so whoever comes second
    // changes nothing that matters, and readers see all of a chunk or nothing of it.
    if (renameat(shard.get(), temporary.c_str(), shard.get(), name.c_str()) != 0) {
      return Error::FromErrno(errno, fmt::format("rename {} to {}", temporary, name));
    }
    return Ok();
  };
  Result<void> written = write_and_rename();
  if (!written) {
    unlinkat(shard.get(), temporary.c_str(), 0);
    return written;
  }
  if (durability_ != StoreDurability::kEach) return Ok();
  GPUMIG_TRY(SyncFd(shard.get(), ShardOf(name)));
  return SyncFd(directory_.get(), path_.string());  // the shard may be new
}

Result<UniqueFd> DirectoryChunkStore::MakeShard(const std::string& name) const {
  constexpr int kFlags = O_RDONLY | O_DIRECTORY;
  Result<UniqueFd> shard = OpenBeneath(directory_.get(), name, kFlags);
  if (shard || shard.error().code() != ErrorCode::kNotFound) return shard;
  if (mkdirat(directory_.get(), name.c_str(), 0700) != 0 && errno != EEXIST) {
    return Error::FromErrno(errno, fmt::format("mkdir {}", name));
  }
  return OpenBeneath(directory_.get(), name, kFlags);
}

Result<std::vector<std::byte>> DirectoryChunkStore::Get(const Digest& digest) const {
  const std::string name = digest.ToHex();
  const OpenedFile file =
      GPUMIG_TRY(OpenRegularBeneath(directory_.get(), FileOf(name)), "get chunk {} from {}", name, path_.string());
  if (file.bytes > kMaxEncodedChunkBytes) {
    return MakeError(ErrorCode::kDamaged, "get chunk {} from {}: has {} bytes, more than any chunk ({})", name,
                     path_.string(), file.bytes, kMaxEncodedChunkBytes);
  }
  std::vector<std::byte> encoded(file.bytes);
  GPUMIG_TRY(ReadExactlyAt(file.fd.get(), encoded, 0), "get chunk {} from {}", name, path_.string());
  return encoded;
}

Result<std::uint64_t> DirectoryChunkStore::StoredBytes(const Digest& digest) const {
  const std::string name = digest.ToHex();
  return GPUMIG_TRY(OpenRegularBeneath(directory_.get(), FileOf(name)), "chunk {} in {}", name, path_.string()).bytes;
}

Result<std::vector<Digest>> DirectoryChunkStore::List() const {
  std::vector<Digest> digests;
  for (const std::string& shard_name : GPUMIG_TRY(ListDirectory(directory_.get()), "list {}", path_.string())) {
    if (shard_name.size() != kShardDigits) continue;
    const UniqueFd shard =
        GPUMIG_TRY(OpenBeneath(directory_.get(), shard_name, O_RDONLY | O_DIRECTORY), "list {}", path_.string());
    for (const std::string& name : GPUMIG_TRY(ListDirectory(shard.get()), "list {}", path_.string())) {
      const Result<Digest> digest = Digest::FromHex(name);
      if (digest && name.starts_with(shard_name)) digests.push_back(*digest);
    }
  }
  return digests;  // directories are listed in order, and the shard is what names begin with
}

Result<void> DirectoryChunkStore::Remove(const Digest& digest) {
  const std::string name = digest.ToHex();
  const Result<UniqueFd> shard = OpenBeneath(directory_.get(), ShardOf(name), O_RDONLY | O_DIRECTORY);
  if (!shard && shard.error().code() == ErrorCode::kNotFound) return Ok();
  if (!shard) return Error(shard.error()).AddContext(fmt::format("remove chunk {}", name));
  if (unlinkat(shard->get(), name.c_str(), 0) != 0 && errno != ENOENT) {
    return Error::FromErrno(errno, fmt::format("remove chunk {} from {}", name, path_.string()));
  }
  return Ok();
}

Result<void> DirectoryChunkStore::Sync() {
  if (durability_ != StoreDurability::kOnSync) return Ok();
  if (syncfs(directory_.get()) != 0) return Error::FromErrno(errno, fmt::format("syncfs {}", path_.string()));
  return Ok();
}

}  // namespace gpumig
