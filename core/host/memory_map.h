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

// Ranges of one process, seen as one sequence of bytes: that of its file in an image.
class ProcessPages {
 public:
  ProcessPages() = default;
  // REQUIRES: `ranges` are sorted, apart from each other, and not empty
  ProcessPages(pid_t inner_pid, std::vector<MemoryRange> ranges);

  // As the process's own pid namespace numbers it.
  pid_t inner_pid() const { return inner_pid_; }
  const std::vector<MemoryRange>& ranges() const { return ranges_; }
  std::uint64_t bytes() const { return bytes_; }

  // Where [offset, offset + bytes) of the sequence lies. REQUIRES: it is within bytes()
  std::vector<iovec> Pieces(std::uint64_t offset, std::uint64_t bytes) const;

  // Of the process that `pid` is in our own namespace, which must be stopped. Errors: kNotFound, it is gone;
  // kFailedPrecondition, it has no such memory now.
  Result<void> Read(pid_t pid, std::uint64_t offset, std::span<std::byte> into) const;
  Result<void> Write(pid_t pid, std::uint64_t offset, std::span<const std::byte> from) const;

 private:
  pid_t inner_pid_ = 0;
  std::vector<MemoryRange> ranges_;
  std::vector<std::uint64_t> offsets_;  // of each range in the sequence
  std::uint64_t bytes_ = 0;
};

struct MemoryMap {
  std::vector<ProcessPages> processes;  // no two of one pid

  std::uint64_t bytes() const;

  std::vector<std::byte> Serialise() const;
  // Hostile bytes: counts and ranges have limits, and hold together. Errors: kDamaged; kUnsupported, a newer version.
  static Result<MemoryMap> Parse(std::span<const std::byte> bytes);
};

inline constexpr std::size_t kMaxMemoryMapBytes = std::size_t{64} << 20;

// Names in an image: the map itself, and the bytes of one process.
inline constexpr std::string_view kMemoryMapFile = "memory-map.img";
std::string MemoryFileName(pid_t inner_pid);
bool IsMemoryFileName(std::string_view name);

}  // namespace gpumig
