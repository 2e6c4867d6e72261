// PackChunkStore: all chunks of one image that comes in, one behind the other in one file, with an index beside it.
//
// One file is made durable by one fdatasync, whatever else the file system is busy with; room can be taken beforehand;
// and chunks are written past the page cache, since they are not read again unless something goes wrong.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "core/base/unique_fd.h"
#include "core/image/chunk_store.h"

namespace gpumig {

// DIRECTORY/chunks.pack holds chunks, each beginning at a multiple of 4096 bytes. DIRECTORY/chunks.index holds for each
// 48 bytes: digest (32), offset (8), size (8), little-endian; size 0 says that the chunk was removed.
//
// What a store finds when it is opened again may have been torn by a power cut: such a chunk counts as there only once
// it was read and checked, which Has() does when first asked.
class PackChunkStore : public ChunkStore {
 public:
  // The directory must exist. Errors: kNotFound and others of open.
  static Result<PackChunkStore> Open(const std::filesystem::path& directory);
  PackChunkStore(PackChunkStore&&) noexcept;
  ~PackChunkStore() override;

  // Takes so much room on the disk, beside what is taken already. Errors: kNoSpace.
  Result<void> Reserve(std::uint64_t bytes);

  // Forgets all chunks and gives their room on the disk back at once, though the files stay open.
  Result<void> Clear();

  // Gives back what Reserve() took and Put() did not need. How many bytes the store's files have then.
  Result<std::uint64_t> Trim();

  // Its files go into `directory`, which is on the same file system and holds none, and this one is empty afterwards,
  // as after Clear().
  Result<void> MoveTo(const std::filesystem::path& directory);

  Result<bool> Has(const Digest& digest) const override;
  Result<void> Put(const Digest& digest, std::span<const std::byte> encoded) override;
  Result<std::vector<std::byte>> Get(const Digest& digest) const override;
  Result<std::uint64_t> StoredBytes(const Digest& digest) const override;
  Result<std::vector<Digest>> List() const override;
  Result<void> Remove(const Digest& digest) override;
  Result<void> Sync() override;

 private:
  struct Entry {
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    bool checked = true;  // was put by us, or was read and found good
  };
  struct State;

  explicit PackChunkStore(std::unique_ptr<State> state);
  Result<void> ReadIndex();
  // Errors: kNotFound.
  Result<Entry> Find(const Digest& digest) const;
  Result<std::vector<std::byte>> Read(const Digest& digest, const Entry& entry) const;
  Result<void> Note(const Digest& digest, std::uint64_t offset, std::uint64_t bytes) const;

  std::unique_ptr<State> state_;
};

}  // namespace gpumig
