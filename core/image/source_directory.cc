#include "core/image/source_directory.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "core/base/check.h"
#include "core/base/file.h"
#include "core/image/beneath.h"
#include "core/image/chunk_codec.h"

namespace gpumig {

ChunkKind KindOfCriuFile(std::string_view name) {
  const bool pages = name.starts_with("pages-") && name.ends_with(".img");
  const bool memory = name.starts_with("memory-") && !name.ends_with(".img");
  return pages || memory ? ChunkKind::kHostPages : ChunkKind::kCriuFile;
}

Result<SourceDirectory> SourceDirectory::Open(const std::filesystem::path& directory, const KindOfFile& kind_of_file,
                                              std::vector<UnwrittenFile> unwritten) {
  SourceDirectory source;
  source.path_ = directory;
  source.directory_ = GPUMIG_TRY(OpenFile(directory, O_RDONLY | O_DIRECTORY));
  std::ranges::sort(unwritten, {}, &UnwrittenFile::name);
  source.unwritten_ = std::move(unwritten);
  const std::vector<std::string> names =
      GPUMIG_TRY(ListDirectory(source.directory_.get()), "list {}", directory.string());
  // Both lists are sorted by name, and so must be the files of an image.
  std::size_t next = 0;
  const auto add_unwritten_before = [&](const std::string* name) -> Result<void> {
    for (; next < source.unwritten_.size() && (name == nullptr || source.unwritten_[next].name < *name); ++next) {
      const UnwrittenFile& file = source.unwritten_[next];
      GPUMIG_TRY(
          source.Add({.name = file.name, .mode = 0600, .bytes = file.bytes, .kind = file.kind, .unwritten = next}),
          "file {}", file.name);
    }
    return Ok();
  };
  for (const std::string& name : names) {
    GPUMIG_TRY(add_unwritten_before(&name));
    GPUMIG_TRY(source.AddWritten(name, kind_of_file), "file {} of {}", name, directory.string());
  }
  GPUMIG_TRY(add_unwritten_before(nullptr));
  return source;
}

Result<void> SourceDirectory::AddWritten(const std::string& name, const KindOfFile& kind_of_file) {
  if (!IsValidFileName(name)) {
    return MakeError(ErrorCode::kInvalidArgument, "an image carries names of A-Z a-z 0-9 . _ - only, up to {} bytes",
                     kMaxFileNameBytes);
  }
  Result<OpenedFile> opened = OpenRegularBeneath(directory_.get(), name);
  if (!opened && opened.error().code() == ErrorCode::kDamaged) {
    return MakeError(ErrorCode::kInvalidArgument, "an image holds regular files only, and this is none");
  }
  const OpenedFile file = GPUMIG_TRY(std::move(opened));
  return Add({.name = name, .mode = file.mode & 0777, .bytes = file.bytes, .kind = kind_of_file(name)});
}

Result<void> SourceDirectory::Add(SourceFile file) {
  if (files_.size() == kMaxFiles)
    return MakeError(ErrorCode::kInvalidArgument, "an image holds up to {} files", kMaxFiles);
  if (!IsValidFileName(file.name) || (!files_.empty() && files_.back().name >= file.name))
    return MakeError(ErrorCode::kInvalidArgument, "its name is not one of its own that an image can carry");
  const std::vector<FilePiece> none;
  const std::vector<FilePiece>& pieces = file.unwritten ? unwritten_[*file.unwritten].pieces : none;
  const std::uint64_t chunk_count = pieces.empty() ? (file.bytes + kMaxChunkBytes - 1) / kMaxChunkBytes : pieces.size();
  if (chunk_count > kMaxFileChunks - places_.size()) {
    return MakeError(ErrorCode::kInvalidArgument, "{} bytes more would make an image of more than {} chunks",
                     file.bytes, kMaxFileChunks);
  }
  const auto index = static_cast<std::uint32_t>(files_.size());
  std::uint64_t end = 0;
  for (const FilePiece& piece : pieces) {
    GPUMIG_CHECK(piece.bytes > 0 && piece.bytes <= kMaxChunkBytes);
    places_.push_back({.file = index, .offset = end, .bytes = piece.bytes, .known = piece.known});
    end += piece.bytes;
  }
  GPUMIG_CHECK(pieces.empty() || end == file.bytes);
  for (std::uint64_t offset = end; offset < file.bytes; offset += kMaxChunkBytes) {
    const std::uint64_t bytes = std::min<std::uint64_t>(kMaxChunkBytes, file.bytes - offset);
    places_.push_back({.file = index, .offset = offset, .bytes = static_cast<std::uint32_t>(bytes)});
  }
  total_bytes_ += file.bytes;
  files_.push_back(std::move(file));
  return Ok();
}

Result<void> SourceDirectory::Read(const ChunkPlace& place, std::span<std::byte> plain) const {
  GPUMIG_CHECK(place.file < files_.size() && plain.size() == place.bytes);
  const SourceFile& expected = files_[place.file];
  if (expected.unwritten) return unwritten_[*expected.unwritten].read(place.offset, plain);
  const OpenedFile file =
      GPUMIG_TRY(OpenRegularBeneath(directory_.get(), expected.name), "read {} of {}", expected.name, path_.string());
  if (file.bytes != expected.bytes) {
    return MakeError(ErrorCode::kFailedPrecondition, "read {} of {}: it had {} bytes, now it has {}", expected.name,
                     path_.string(), expected.bytes, file.bytes);
  }
  GPUMIG_TRY(ReadExactlyAt(file.fd.get(), plain, place.offset), "read {} of {}", expected.name, path_.string());
  return Ok();
}

}  // namespace gpumig
