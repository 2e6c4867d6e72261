#include "core/image/materialise.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/unique_fd.h"
#include "core/image/beneath.h"

namespace gpumig {
namespace {

// The directory that files are made in. Destroyed before Commit(), it removes them.
class TargetDirectory {
 public:
  static Result<TargetDirectory> Make(const std::filesystem::path& path) {
    const bool made = mkdir(path.c_str(), 0700) == 0;
    if (!made && errno != EEXIST) return Error::FromErrno(errno, fmt::format("mkdir {}", path.string()));
    TargetDirectory target(GPUMIG_TRY(OpenFile(path, O_RDONLY | O_DIRECTORY)), path, made);
    const std::vector<std::string> names = GPUMIG_TRY(ListDirectory(target.fd()));
    if (!names.empty()) {
      return MakeError(ErrorCode::kAlreadyExists, "{} is not empty: it holds {}", path.string(), names.front());
    }
    if (fchmod(target.fd(), 0700) != 0) return Error::FromErrno(errno, "chmod");
    return target;
  }
  TargetDirectory(TargetDirectory&&) noexcept = default;
  TargetDirectory& operator=(TargetDirectory&&) = delete;
  ~TargetDirectory() {
    if (!directory_.valid() || committed_) return;
    bool removed = true;
    for (const auto& [name, mode] : files_) removed = unlinkat(fd(), name.c_str(), 0) == 0 && removed;
    if (made_) removed = rmdir(path_.c_str()) == 0 && removed;
    if (!removed) spdlog::warn("files of an image that could not be made whole are left in {}", path_.string());
  }

  int fd() const { return directory_.get(); }

  // Of its full size, all holes; ours to write until Commit().
  Result<void> MakeFile(const ManifestFile& file) {
    const UniqueFd made = GPUMIG_TRY(OpenBeneath(fd(), file.name, O_WRONLY | O_CREAT | O_EXCL, 0600));
    files_.push_back({file.name, file.mode});
    if (ftruncate(made.get(), static_cast<off_t>(file.bytes)) != 0) {
      return Error::FromErrno(errno, fmt::format("make {} {} bytes long", file.name, file.bytes));
    }
    return Ok();
  }

  Result<void> WriteAt(const ManifestFile& file, std::span<const std::byte> plain, std::uint64_t offset) const {
    UniqueFd opened = GPUMIG_TRY(OpenBeneath(fd(), file.name, O_WRONLY));
    GPUMIG_TRY(WriteAllAt(opened.get(), plain, offset), "file {}", file.name);
    return opened.Close();
  }

  // Gives the files their modes; they stay.
  Result<void> Commit() {
    for (const auto& [name, mode] : files_) {
      const UniqueFd opened = GPUMIG_TRY(OpenBeneath(fd(), name, O_RDONLY));
      if (fchmod(opened.get(), mode & 0700) != 0) {
        return Error::FromErrno(errno, fmt::format("chmod {}", name));
      }
    }
    committed_ = true;
    return Ok();
  }

 private:
  TargetDirectory(UniqueFd directory, std::filesystem::path path, bool made)
      : directory_(std::move(directory)), path_(std::move(path)), made_(made) {}

  UniqueFd directory_;
  std::filesystem::path path_;
  bool made_;
  bool committed_ = false;
  std::vector<std::pair<std::string, std::uint32_t>> files_;  // names and modes
};

struct ImageBytes {
  std::uint64_t all = 0;
  std::uint64_t not_zero = 0;
};

ImageBytes CountBytes(const Manifest& manifest, const FileFilter& wanted) {
  ImageBytes bytes;
  for (const ManifestFile& file : manifest.files) {
    if (!wanted(file)) continue;
    bytes.all += file.bytes;
    for (const std::uint32_t index : file.chunks) {
      if (!manifest.chunks[index].zero) bytes.not_zero += manifest.chunks[index].plain_bytes;
    }
  }
  return bytes;
}

Result<void> CheckRoom(int directory, std::uint64_t bytes_needed) {
  const std::optional<std::uint64_t> free_bytes = GPUMIG_TRY(FreeBytes(directory));
  if (!free_bytes || *free_bytes >= bytes_needed) return Ok();
  return MakeError(ErrorCode::kNoSpace, "its files take {} bytes, and {} are free", bytes_needed, *free_bytes);
}

Result<void> Materialise(const Manifest& manifest, const ChunkStore& store, const std::filesystem::path& directory,
                         const FileFilter& wanted, std::uint64_t bytes_needed, const ParallelOptions& options) {
  TargetDirectory target = GPUMIG_TRY(TargetDirectory::Make(directory));
  GPUMIG_TRY(CheckRoom(target.fd(), bytes_needed));
  for (const ManifestFile& file : manifest.files) {
    if (wanted(file)) GPUMIG_TRY(target.MakeFile(file));
  }
  const PlaceFn place = [&](const ManifestFile& file, std::uint64_t offset, std::span<const std::byte> plain) {
    return target.WriteAt(file, plain, offset);
  };
  GPUMIG_TRY(PlaceChunks(manifest, store, wanted, place, options));
  return target.Commit();
}

}  // namespace

Result<void> MaterialiseImage(const Manifest& manifest, const ChunkStore& store, const std::filesystem::path& directory,
                              const ParallelOptions& options, const FileFilter& wanted) {
  const ImageBytes bytes = CountBytes(manifest, wanted);
  Result<void> done = Materialise(manifest, store, directory, wanted, bytes.not_zero, options);
  if (done) return done;
  Error error = std::move(done).error();
  if (error.code() == ErrorCode::kNoSpace) {
    error.WithNextStep(
        fmt::format("free {} bytes for {}; files made so far were removed", bytes.not_zero, directory.string()));
  }
  error.AddContext(fmt::format("make files of the image in {}", directory.string()));
  return error;
}

}  // namespace gpumig
