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
#include "core/image/chunk_codec.h"

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
    for (const std::string& name : files_) removed = unlinkat(fd(), name.c_str(), 0) == 0 && removed;
    if (made_) removed = rmdir(path_.c_str()) == 0 && removed;
    if (!removed) spdlog::warn("files of an image that could not be made whole are left in {}", path_.string());
  }

  int fd() const { return directory_.get(); }

  // Of its full size, all holes; ours to write until Commit().
  Result<void> MakeFile(const ManifestFile& file) {
    const UniqueFd made = GPUMIG_TRY(OpenBeneath(fd(), file.name, O_WRONLY | O_CREAT | O_EXCL, 0600));
    files_.push_back(file.name);
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
  Result<void> Commit(const Manifest& manifest) {
    for (const ManifestFile& file : manifest.files) {
      const UniqueFd opened = GPUMIG_TRY(OpenBeneath(fd(), file.name, O_RDONLY));
      if (fchmod(opened.get(), file.mode & 0700) != 0) {
        return Error::FromErrno(errno, fmt::format("chmod {}", file.name));
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
  std::vector<std::string> files_;
};

// Where the bytes of each chunk go.
class Uses {
 public:
  struct Use {
    std::uint32_t file = 0;
    std::uint64_t offset = 0;
  };

  explicit Uses(const Manifest& manifest) : begin_(manifest.chunks.size() + 1) {
    for (const ManifestFile& file : manifest.files) {
      for (const std::uint32_t index : file.chunks) ++begin_[index + 1];
    }
    for (std::size_t i = 1; i < begin_.size(); ++i) begin_[i] += begin_[i - 1];
    uses_.resize(begin_.back());
    std::vector<std::size_t> next(begin_.begin(), begin_.end() - 1);
    for (std::uint32_t i = 0; i < manifest.files.size(); ++i) {
      std::uint64_t offset = 0;
      for (const std::uint32_t index : manifest.files[i].chunks) {
        uses_[next[index]++] = {.file = i, .offset = offset};
        offset += manifest.chunks[index].plain_bytes;
      }
    }
  }

  std::span<const Use> of(std::size_t chunk) const {
    return std::span(uses_).subspan(begin_[chunk], begin_[chunk + 1] - begin_[chunk]);
  }

 private:
  std::vector<std::size_t> begin_;  // of each chunk's uses in uses_, and the end of the last
  std::vector<Use> uses_;
};

// One worker's way from a chunk in the store to its places in files.
class ChunkWriter {
 public:
  ChunkWriter(const Manifest& manifest, const ChunkStore& store, const Uses& uses, const TargetDirectory& target)
      : manifest_(manifest), store_(store), uses_(uses), target_(target) {}

  // Gives the bytes written.
  Result<std::uint64_t> Write(std::size_t index) {
    const ManifestChunk& chunk = manifest_.chunks[index];
    const std::span<const Uses::Use> uses = uses_.of(index);
    if (chunk.zero) return chunk.plain_bytes * uses.size();
    const std::string& first_file = manifest_.files[uses.front().file].name;
    GPUMIG_TRY(Read(chunk), "chunk {} of file {}", chunk.digest.ToHex(), first_file);
    for (const Uses::Use& use : uses) GPUMIG_TRY(target_.WriteAt(manifest_.files[use.file], plain_, use.offset));
    return chunk.plain_bytes * uses.size();
  }

 private:
  Result<void> Read(const ManifestChunk& chunk) {
    const std::vector<std::byte> encoded = GPUMIG_TRY(store_.Get(chunk.digest));
    plain_.resize(chunk.plain_bytes);
    return decoder_.Decode(encoded, chunk.digest, plain_);
  }

  const Manifest& manifest_;
  const ChunkStore& store_;
  const Uses& uses_;
  const TargetDirectory& target_;
  ChunkDecoder decoder_;
  std::vector<std::byte> plain_;
};

struct ImageBytes {
  std::uint64_t all = 0;
  std::uint64_t not_zero = 0;
};

ImageBytes CountBytes(const Manifest& manifest) {
  ImageBytes bytes;
  for (const ManifestFile& file : manifest.files) {
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
                         const ImageBytes& bytes, const ParallelOptions& options) {
  TargetDirectory target = GPUMIG_TRY(TargetDirectory::Make(directory));
  GPUMIG_TRY(CheckRoom(target.fd(), bytes.not_zero));
  for (const ManifestFile& file : manifest.files) GPUMIG_TRY(target.MakeFile(file));
  const Uses uses(manifest);
  const auto make_worker = [&]() -> PieceWork {
    auto writer = std::make_shared<ChunkWriter>(manifest, store, uses, target);
    return [writer](std::size_t i) { return writer->Write(i); };
  };
  GPUMIG_TRY(ParallelFor(manifest.chunks.size(), bytes.all, options, make_worker));
  return target.Commit(manifest);
}

}  // namespace

Result<void> MaterialiseImage(const Manifest& manifest, const ChunkStore& store, const std::filesystem::path& directory,
                              const ParallelOptions& options) {
  const ImageBytes bytes = CountBytes(manifest);
  Result<void> done = Materialise(manifest, store, directory, bytes, options);
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
