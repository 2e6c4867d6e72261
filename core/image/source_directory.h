// SourceDirectory: files that are to become an image, seen as a sequence of chunks that any thread can read. Some need
// not be files at all, but anything that can be read like one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"
#include "core/base/unique_fd.h"
#include "core/image/manifest.h"

namespace gpumig {

// What the bytes of a file are, told by its name.
using KindOfFile = std::function<ChunkKind(std::string_view name)>;

// CRIU's pages-N.img and our own memory-N hold host pages; all else is kCriuFile.
ChunkKind KindOfCriuFile(std::string_view name);

struct SourceFile {
  std::string name;
  std::uint32_t mode = 0;
  std::uint64_t bytes = 0;
  ChunkKind kind = ChunkKind::kOther;
  std::optional<std::size_t> unwritten = std::nullopt;  // which of the files that are not in the directory
};

// What is known of the chunk at one place.
struct HashedPlace {
  Digest digest;
  bool zero = false;
};

// How a file is to be cut where a cut at every kMaxChunkBytes would not do.
struct FilePiece {
  std::uint32_t bytes = 0;  // 1..kMaxChunkBytes
  // Where the piece was hashed before. It is not read again for its digest.
  std::optional<HashedPlace> known = std::nullopt;
};

// What is not in the directory, but to be a file of the image all the same.
struct UnwrittenFile {
  std::string name;
  std::uint64_t bytes = 0;
  ChunkKind kind = ChunkKind::kOther;
  // Fills `into` with what is at `offset`. Called from any number of threads at once. REQUIRES: it is within `bytes`
  std::function<Result<void>(std::uint64_t offset, std::span<std::byte> into)> read;
  std::vector<FilePiece> pieces = {};  // of all of `bytes`, or empty
};

// One chunk's place; a file is cut into chunks of kMaxChunkBytes, the last one is what is left, or into its pieces.
struct ChunkPlace {
  std::uint32_t file = 0;  // index into SourceDirectory::files()
  std::uint64_t offset = 0;
  std::uint32_t bytes = 0;
  std::optional<HashedPlace> known = std::nullopt;
};

// Files must not change while this lives; one that does is found by Read() where its size changed, else by whoever
// decodes the chunk.
//
// Thread safety: Read() from any number of threads at once.
class SourceDirectory {
 public:
  // Errors: kInvalidArgument, it holds something else than regular files, or a name that an image cannot carry or that
  // one of `unwritten` has too, or more files or chunks than an image can; kNotFound and others of open.
  static Result<SourceDirectory> Open(const std::filesystem::path& directory, const KindOfFile& kind_of_file,
                                      std::vector<UnwrittenFile> unwritten = {});

  const std::filesystem::path& path() const { return path_; }
  std::span<const SourceFile> files() const { return files_; }
  // In the order of files(), and within a file in that of offsets.
  std::span<const ChunkPlace> places() const { return places_; }
  std::uint64_t total_bytes() const { return total_bytes_; }

  // Fills `plain`. Errors: kFailedPrecondition, the file has another size than before.
  // REQUIRES: plain.size() == place.bytes
  Result<void> Read(const ChunkPlace& place, std::span<std::byte> plain) const;

 private:
  SourceDirectory() = default;
  Result<void> AddWritten(const std::string& name, const KindOfFile& kind_of_file);
  Result<void> Add(SourceFile file);

  UniqueFd directory_;
  std::filesystem::path path_;
  std::vector<SourceFile> files_;
  std::vector<ChunkPlace> places_;
  std::vector<UnwrittenFile> unwritten_;  // sorted by name
  std::uint64_t total_bytes_ = 0;
};

}  // namespace gpumig
