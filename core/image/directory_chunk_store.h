// DirectoryChunkStore: one file per chunk, DIRECTORY/ab/abcd....
#pragma once

#include <filesystem>
#include <string>

#include "core/base/unique_fd.h"
#include "core/image/chunk_store.h"

namespace gpumig {

// When what was put is safe from a power cut.
enum class StoreDurability {
  kNone,    // never; Sync() does nothing. For a store that does not outlive its use
  kOnSync,  // after Sync(), which flushes the whole file system at once
  kEach,    // when Put() returns
};

// Directories have mode 0700, files 0600. A chunk is written beside its place and renamed, so that readers see all of
// it or nothing; a writer that was killed leaves a file "tmp-...", which nobody reads and List() leaves out. Nothing
// outside the directory is reached, whatever symbolic links somebody put into it.
class DirectoryChunkStore : public ChunkStore {
 public:
  // The directory must exist. Errors: kNotFound and others of open.
  static Result<DirectoryChunkStore> Open(const std::filesystem::path& directory, StoreDurability durability);
  // `directory` is open for reading; `path` is what messages call it.
  DirectoryChunkStore(UniqueFd directory, std::filesystem::path path, StoreDurability durability);

  Result<bool> Has(const Digest& digest) const override;
  Result<void> Put(const Digest& digest, std::span<const std::byte> encoded) override;
  Result<std::vector<std::byte>> Get(const Digest& digest) const override;
  Result<std::uint64_t> StoredBytes(const Digest& digest) const override;
  Result<std::vector<Digest>> List() const override;
  Result<void> Remove(const Digest& digest) override;
  Result<void> Sync() override;

 private:
  // The directory "ab"; made where it is missing.
  Result<UniqueFd> MakeShard(const std::string& name) const;
  Result<void> PutFile(const std::string& name, std::span<const std::byte> encoded) const;

  UniqueFd directory_;
  std::filesystem::path path_;
  StoreDurability durability_;
};

}  // namespace gpumig
