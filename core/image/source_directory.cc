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
  return name.starts_with("pages-") && name.ends_with(".img") ? ChunkKind::kHostPages : ChunkKind::kCriuFile;
}

Result<SourceDirectory> SourceDirectory::Open(const std::filesystem::path& directory, const KindOfFile& kind_of_file) {
  SourceDirectory source;
  source.path_ = directory;
  source.directory_ = GPUMIG_TRY(OpenFile(directory, O_RDONLY | O_DIRECTORY));
  const std::vector<std::string> names =
      GPUMIG_TRY(ListDirectory(source.directory_.get()), "list {}", directory.string());
  for (const std::string& name : names)
    GPUMIG_TRY(source.Add(name, kind_of_file), "file {} of {}", name, directory.string());
  return source;
}

Result<void> SourceDirectory::Add(const std::string& name, const KindOfFile& kind_of_file) {
  if (!IsValidFileName(name)) {
    return MakeError(ErrorCode::kInvalidArgument, "an image carries names of A-Z a-z 0-9 . _ - only, up to {} bytes",
                     kMaxFileNameBytes);
  }
  if (files_.size() == kMaxFiles)
    return MakeError(ErrorCode::kInvalidArgument, "an image holds up to {} files", kMaxFiles);
  Result<OpenedFile> opened = OpenRegularBeneath(directory_.get(), name);
  if (!opened && opened.error().code() == ErrorCode::kDamaged) {
    return MakeError(ErrorCode::kInvalidArgument, "an image holds regular files only, and this is none");
  }
  const OpenedFile file = GPUMIG_TRY(std::move(opened));
  const std::uint64_t chunk_count = (file.bytes + kMaxChunkBytes - 1) / kMaxChunkBytes;
  if (chunk_count > kMaxFileChunks - places_.size()) {
    return MakeError(ErrorCode::kInvalidArgument, "{} bytes more would make an image of more than {} chunks",
                     file.bytes, kMaxFileChunks);
  }
  const auto index = static_cast<std::uint32_t>(files_.size());
  for (std::uint64_t offset = 0; offset < file.bytes; offset += kMaxChunkBytes) {
    const std::uint64_t bytes = std::min<std::uint64_t>(kMaxChunkBytes, file.bytes - offset);
    places_.push_back({.file = index, .offset = offset, .bytes = static_cast<std::uint32_t>(bytes)});
  }
  total_bytes_ += file.bytes;
  files_.push_back({.name = name, .mode = file.mode & 0777, .bytes = file.bytes, .kind = kind_of_file(name)});
  return Ok();
}

Result<void> SourceDirectory::Read(const ChunkPlace& place, std::span<std::byte> plain) const {
  GPUMIG_CHECK(place.file < files_.size() && plain.size() == place.bytes);
  const SourceFile& expected = files_[place.file];
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
