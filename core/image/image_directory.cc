#include "core/image/image_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "core/base/check.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/image/beneath.h"

namespace gpumig {
namespace {

std::filesystem::path ParentOf(const std::filesystem::path& path) {
  // "a/b/" has an empty last component.
  const std::filesystem::path named = path.has_filename() ? path : path.parent_path();
  return named.has_parent_path() ? named.parent_path() : std::filesystem::path(".");
}

}  // namespace

Result<ImageDirectory> ImageDirectory::Create(const std::filesystem::path& directory, StoreDurability durability) {
  const bool made = mkdir(directory.c_str(), 0700) == 0;
  if (!made && errno != EEXIST) return Error::FromErrno(errno, fmt::format("mkdir {}", directory.string()));
  UniqueFd fd = GPUMIG_TRY(OpenFile(directory, O_RDONLY | O_DIRECTORY));
  const std::vector<std::string> names = GPUMIG_TRY(ListDirectory(fd.get()), "list {}", directory.string());
  if (!names.empty()) {
    return MakeError(ErrorCode::kAlreadyExists, "{} is not empty: it holds {}{}", directory.string(), names.front(),
                     names.size() > 1 ? fmt::format(" and {} more", names.size() - 1) : "")
        .WithNextStep("name a directory that is empty or does not exist; nothing was written");
  }
  // Whoever makes the marker owns the directory, should two come at once.
  Result<UniqueFd> marker = OpenBeneath(fd.get(), kIncompleteName, O_WRONLY | O_CREAT | O_EXCL, 0600);
  if (!marker) {
    if (made) rmdir(directory.c_str());
    return marker.error().AddContext(fmt::format("image {}", directory.string()));
  }
  ImageDirectory image(std::move(fd), directory, durability);
  image.made_directory_ = made;
  if (fchmod(image.directory_.get(), 0700) != 0) {
    return Error::FromErrno(errno, fmt::format("chmod {}", directory.string()));
  }
  if (mkdirat(image.directory_.get(), kChunksName, 0700) != 0) {
    return Error::FromErrno(errno, fmt::format("mkdir {}/{}", directory.string(), kChunksName));
  }
  GPUMIG_TRY(image.OpenStore());
  return image;
}

Result<ImageDirectory> ImageDirectory::Resume(const std::filesystem::path& directory, StoreDurability durability) {
  ImageDirectory image(GPUMIG_TRY(OpenFile(directory, O_RDONLY | O_DIRECTORY)), directory, durability);
  image.owned_ = false;  // until we know that it is what we take it for
  if (OpenBeneath(image.directory_.get(), kManifestName, O_PATH)) {
    return MakeError(ErrorCode::kAlreadyExists, "image {} is complete", directory.string());
  }
  if (!OpenBeneath(image.directory_.get(), kIncompleteName, O_PATH)) {
    return MakeError(ErrorCode::kInvalidArgument, "{} holds no incomplete image: no {}", directory.string(),
                     kIncompleteName);
  }
  GPUMIG_TRY(image.OpenStore());
  image.owned_ = true;
  return image;
}

Result<void> ImageDirectory::OpenStore() {
  UniqueFd chunks =
      GPUMIG_TRY(OpenBeneath(directory_.get(), kChunksName, O_RDONLY | O_DIRECTORY), "image {}", path_.string());
  store_ = std::make_unique<DirectoryChunkStore>(std::move(chunks), path_ / kChunksName, durability_);
  return Ok();
}

Result<void> ImageDirectory::WriteManifest(std::span<const std::byte> manifest) {
  UniqueFd fd = GPUMIG_TRY(OpenBeneath(directory_.get(), kIncompleteName, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  GPUMIG_TRY(WriteAll(fd.get(), manifest), "{}", kIncompleteName);
  if (durability_ != StoreDurability::kNone) GPUMIG_TRY(SyncFd(fd.get(), kIncompleteName));
  return fd.Close();
}

Result<void> ImageDirectory::Seal(std::span<const std::byte> manifest) {
  GPUMIG_CHECK(owned_);
  GPUMIG_TRY(store_->Sync(), "seal image {}", path_.string());
  GPUMIG_TRY(WriteManifest(manifest), "seal image {}", path_.string());
  if (renameat(directory_.get(), kIncompleteName, directory_.get(), kManifestName) != 0) {
    return Error::FromErrno(errno, fmt::format("seal image {}: rename {}", path_.string(), kIncompleteName));
  }
  Result<void> synced = SyncNames();
  if (!synced) {
    // What was reported as failed must not look whole.
    renameat(directory_.get(), kManifestName, directory_.get(), kIncompleteName);
    return synced.error().AddContext(fmt::format("seal image {}", path_.string()));
  }
  owned_ = false;
  return Ok();
}

Result<void> ImageDirectory::SyncNames() {
  if (durability_ == StoreDurability::kNone) return Ok();
  GPUMIG_TRY(SyncFd(directory_.get(), path_.string()));
  if (made_directory_) GPUMIG_TRY(SyncDirectory(ParentOf(path_)));
  return Ok();
}

ImageDirectory::~ImageDirectory() {
  if (owned_ && directory_.valid()) RemoveAll();
}

void ImageDirectory::RemoveAll() {
  // The marker goes last: what is left, should this fail half way, is still visibly incomplete.
  std::error_code error;
  std::filesystem::remove_all(path_ / kChunksName, error);
  if (!error && unlinkat(directory_.get(), kIncompleteName, 0) != 0 && errno != ENOENT) {
    error = std::error_code(errno, std::generic_category());
  }
  if (!error && made_directory_ && rmdir(path_.c_str()) != 0) error = std::error_code(errno, std::generic_category());
  if (error) spdlog::warn("an incomplete image is left in {}: {}", path_.string(), error.message());
}

}  // namespace gpumig
