// ImageDirectory: an image while it is being written. It has no `manifest` until Seal(), so nobody takes it for whole.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

#include "core/base/result.h"
#include "core/base/unique_fd.h"
#include "core/image/directory_chunk_store.h"

namespace gpumig {

inline constexpr const char* kManifestName = "manifest";
inline constexpr const char* kIncompleteName = "manifest.incomplete";
inline constexpr const char* kChunksName = "chunks";

// States: incomplete -Seal()-> sealed; incomplete -Keep()-> left behind, for Resume(). Destroyed while incomplete, it
// removes what is in the directory, and the directory too where Create() made it.
//
// Thread safety: one thread at a time; store() as ChunkStore says.
class ImageDirectory {
 public:
  // `directory` must be empty or missing; only its last component is made. Mode 0700.
  // Errors: kAlreadyExists, it holds something; kNotFound, its parent is missing.
  static Result<ImageDirectory> Create(const std::filesystem::path& directory,
                                       StoreDurability durability = StoreDurability::kOnSync);
  // An incomplete one that a writer left: its chunks are there still. The caller sees to it that no one else writes to
  // it. Errors: kNotFound; kAlreadyExists, it is sealed; kInvalidArgument, it is no incomplete image.
  static Result<ImageDirectory> Resume(const std::filesystem::path& directory,
                                       StoreDurability durability = StoreDurability::kOnSync);

  ImageDirectory(ImageDirectory&& other) noexcept = default;
  ImageDirectory& operator=(ImageDirectory&& other) = delete;
  ~ImageDirectory();

  const std::filesystem::path& path() const { return path_; }
  ChunkStore& store() { return *store_; }

  // Makes chunks, then the manifest durable (as far as `durability` asks for), then the image complete. The caller has
  // put all chunks. Where it fails, the image stays incomplete. REQUIRES: not sealed before
  Result<void> Seal(std::span<const std::byte> manifest);

  // Leaves it incomplete. The object must not be used any more.
  void Keep() { owned_ = false; }

 private:
  ImageDirectory(UniqueFd directory, std::filesystem::path path, StoreDurability durability)
      : directory_(std::move(directory)), path_(std::move(path)), durability_(durability) {}
  Result<void> OpenStore();
  Result<void> WriteManifest(std::span<const std::byte> manifest);
  // The manifest's new name, and the directory's where we made it.
  Result<void> SyncNames();
  void RemoveAll();

  UniqueFd directory_;  // not valid: moved from
  std::filesystem::path path_;
  StoreDurability durability_;
  std::unique_ptr<DirectoryChunkStore> store_;
  bool made_directory_ = false;
  bool owned_ = true;
};

}  // namespace gpumig
