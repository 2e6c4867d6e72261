// MemoryMap: memory that does not pass through CRIU's files, but straight from the frozen process into the restored
// one.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"

namespace gpumig {

inline constexpr std::uint64_t kPageBytes = 4096;

// Whole pages.
struct MemoryRange {
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;

  std::uint64_t end() const { return address + bytes; }
  friend bool operator==(const MemoryRange&, const MemoryRange&) = default;
};

// Where a piece of a memory file belongs.
struct MemoryExtent {
  std::uint64_t offset = 0;  // in the file
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;

  std::uint64_t end() const { return address + bytes; }
  friend bool operator==(const MemoryExtent&, const MemoryExtent&) = default;
};

// Memory of one process, seen as one sequence of bytes: that of its file in an image. Memory that was copied while the
// process ran is in layers, each a file of its own: what an earlier layer had and a later one has anew belongs to the
// later one's extents only, and is of no meaning in the earlier file. No two extents of a process are of one address.
class ProcessPages {
 public:
  ProcessPages() = default;
  // All of a process in one layer, without gaps.
  // REQUIRES: `ranges` are sorted, apart from each other, and not empty
  ProcessPages(pid_t inner_pid, const std::vector<MemoryRange>& ranges);
  // REQUIRES: `extents` are sorted by offset and by address, do not overlap, and lie within file_bytes
  ProcessPages(pid_t inner_pid, std::uint32_t layer, std::uint64_t file_bytes, std::vector<MemoryExtent> extents);

  // As the process's own pid namespace numbers it.
  pid_t inner_pid() const { return inner_pid_; }
  std::uint32_t layer() const { return layer_; }
  const std::vector<MemoryExtent>& extents() const { return extents_; }
  // Of the file.
  std::uint64_t bytes() const { return bytes_; }

  // A piece of the process that is also one of [offset, offset + bytes) of the sequence.
  struct Piece {
    std::uint64_t at = 0;  // from `offset` on
    iovec remote{};
  };
  // In the order of the sequence; gaps are left out. REQUIRES: it is within bytes()
  std::vector<Piece> Pieces(std::uint64_t offset, std::uint64_t bytes) const;

  // Of the process that `pid` is in our own namespace, which must be stopped unless what is read may be torn; gaps are
  // left as they are. Errors: kNotFound, it is gone; kFailedPrecondition, it has no such memory now.
  Result<void> Read(pid_t pid, std::uint64_t offset, std::span<std::byte> into) const;
  Result<void> Write(pid_t pid, std::uint64_t offset, std::span<const std::byte> from) const;

 private:
  pid_t inner_pid_ = 0;
  std::uint32_t layer_ = 0;
  std::vector<MemoryExtent> extents_;
  std::uint64_t bytes_ = 0;
};

struct MemoryMap {
  std::vector<ProcessPages> processes;  // no two of one pid and layer

  std::uint64_t bytes() const;

  std::vector<std::byte> Serialise() const;
  // Hostile bytes: counts and ranges have limits, and hold together. Errors: kDamaged; kUnsupported, a newer version.
  static Result<MemoryMap> Parse(std::span<const std::byte> bytes);
};

inline constexpr std::size_t kMaxMemoryMapBytes = std::size_t{64} << 20;

// Names in an image: the map itself, and the bytes of one layer of one process.
inline constexpr std::string_view kMemoryMapFile = "memory-map.img";
inline constexpr std::uint32_t kMostMemoryLayers = 64;
std::string MemoryFileName(pid_t inner_pid, std::uint32_t layer = 0);
inline std::string MemoryFileName(const ProcessPages& pages) {
  return MemoryFileName(pages.inner_pid(), pages.layer());
}
bool IsMemoryFileName(std::string_view name);

}  // namespace gpumig
