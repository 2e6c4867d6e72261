// SourceDirectory: files that are to become an image, seen as a sequence of chunks that any thread can read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
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

// CRIU's pages-N.img hold host pages; all else is kCriuFile.
ChunkKind KindOfCriuFile(std::string_view name);

struct SourceFile {
  std::string name;
  std::uint32_t mode = 0;
  std::uint64_t bytes = 0;
  ChunkKind kind = ChunkKind::kOther;
};

// One chunk's place; a file is cut into chunks of kMaxChunkBytes, the last one is what is left.
struct ChunkPlace {
  std::uint32_t file = 0;  // index into SourceDirectory::files()
  std::uint64_t offset = 0;
  std::uint32_t bytes = 0;
};

// Files must not change while this lives; one that does is found by Read() where its size changed, else by whoever
// decodes the chunk.
//
// Thread safety: Read() from any number of threads at once.
class SourceDirectory {
 public:
  // Errors: kInvalidArgument, it holds something else than regular files, or a name that an image cannot carry, or more
  // files or chunks than an image can; kNotFound and others of open.
  static Result<SourceDirectory> Open(const std::filesystem::path& directory, const KindOfFile& kind_of_file);

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
  Result<void> Add(const std::string& name, const KindOfFile& kind_of_file);

  UniqueFd directory_;
  std::filesystem::path path_;
  std::vector<SourceFile> files_;
  std::vector<ChunkPlace> places_;
  std::uint64_t total_bytes_ = 0;
};

}  // namespace gpumig
