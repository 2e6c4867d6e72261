#include "core/host/memory_map.h"

#include <algorithm>
#include <cerrno>
#include <limits>

#include "core/base/bytes.h"
#include "core/base/check.h"

namespace gpumig {
namespace {

constexpr std::string_view kMagic = "GPUMIGMM";
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kMostProcesses = 1u << 16;
constexpr std::string_view kFilePrefix = "memory-";
// What process_vm_readv takes at once.
constexpr std::size_t kMostPieces = 1024;

enum class Direction { kRead, kWrite };

Result<void> Move(Direction direction, pid_t pid, std::vector<iovec> pieces, std::byte* local) {
  std::size_t first = 0;
  while (first < pieces.size()) {
    const std::size_t count = std::min(kMostPieces, pieces.size() - first);
    std::size_t wanted = 0;
    for (std::size_t i = first; i < first + count; ++i) wanted += pieces[i].iov_len;
    const iovec here{local, wanted};
    const ssize_t moved = direction == Direction::kRead ? process_vm_readv(pid, &here, 1, &pieces[first], count, 0)
                                                        : process_vm_writev(pid, &here, 1, &pieces[first], count, 0);
    if (moved <= 0) {
      const std::string what =
          fmt::format("{} memory of process {} at {:#x}", direction == Direction::kRead ? "read" : "write", pid,
                      reinterpret_cast<std::uintptr_t>(pieces[first].iov_base));
      if (moved == 0 || errno == EFAULT)
        return MakeError(ErrorCode::kFailedPrecondition, "{}: there is none that can be used so", what);
      return Error::FromErrno(errno, what);
    }
    local += moved;
    for (auto left = static_cast<std::size_t>(moved); left > 0;) {
      iovec& piece = pieces[first];
      const std::size_t step = std::min(left, piece.iov_len);
      piece.iov_base = static_cast<std::byte*>(piece.iov_base) + step;
      piece.iov_len -= step;
      left -= step;
      if (piece.iov_len == 0) ++first;
    }
  }
  return Ok();
}

Result<ProcessPages> ParseProcess(ByteReader& reader) {
  const std::uint32_t pid = GPUMIG_TRY(reader.U32());
  const std::uint32_t count = GPUMIG_TRY(reader.U32());
  if (pid == 0 || pid > std::numeric_limits<pid_t>::max())
    return MakeError(ErrorCode::kDamaged, "a memory map names process {}", pid);
  if (count == 0 || count > reader.remaining() / 16)
    return MakeError(ErrorCode::kDamaged, "a memory map claims {} ranges and has {} bytes left", count,
                     reader.remaining());
  std::vector<MemoryRange> ranges;
  ranges.reserve(count);
  std::uint64_t end = 0;
  std::uint64_t sum = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint64_t address = GPUMIG_TRY(reader.U64());
    const std::uint64_t bytes = GPUMIG_TRY(reader.U64());
    const bool whole_pages = address % kPageBytes == 0 && bytes % kPageBytes == 0 && bytes > 0;
    if (!whole_pages || address < end || bytes > std::numeric_limits<std::uint64_t>::max() - address ||
        bytes > std::numeric_limits<std::uint64_t>::max() - sum) {
      return MakeError(ErrorCode::kDamaged, "a memory map has an impossible range of {} bytes at {:#x}", bytes,
                       address);
    }
    end = address + bytes;
    sum += bytes;
    ranges.push_back({address, bytes});
  }
  return ProcessPages(static_cast<pid_t>(pid), std::move(ranges));
}

}  // namespace

ProcessPages::ProcessPages(pid_t inner_pid, std::vector<MemoryRange> ranges)
    : inner_pid_(inner_pid), ranges_(std::move(ranges)) {
  offsets_.reserve(ranges_.size());
  for (const MemoryRange& range : ranges_) {
    offsets_.push_back(bytes_);
    bytes_ += range.bytes;
  }
}

std::vector<iovec> ProcessPages::Pieces(std::uint64_t offset, std::uint64_t bytes) const {
  GPUMIG_CHECK(offset <= bytes_ && bytes <= bytes_ - offset);
  std::vector<iovec> pieces;
  std::size_t i =
      static_cast<std::size_t>(std::upper_bound(offsets_.begin(), offsets_.end(), offset) - offsets_.begin());
  if (i > 0) --i;
  for (; bytes > 0; ++i) {
    const std::uint64_t within = offset - offsets_[i];
    const std::uint64_t length = std::min(bytes, ranges_[i].bytes - within);
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of another process.
    pieces.push_back({reinterpret_cast<void*>(ranges_[i].address + within), length});
    offset += length;
    bytes -= length;
  }
  return pieces;
}

Result<void> ProcessPages::Read(pid_t pid, std::uint64_t offset, std::span<std::byte> into) const {
  return Move(Direction::kRead, pid, Pieces(offset, into.size()), into.data());
}

Result<void> ProcessPages::Write(pid_t pid, std::uint64_t offset, std::span<const std::byte> from) const {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast): iovec knows no const; it is only read from.
  return Move(Direction::kWrite, pid, Pieces(offset, from.size()), const_cast<std::byte*>(from.data()));
}

std::uint64_t MemoryMap::bytes() const {
  std::uint64_t sum = 0;
  for (const ProcessPages& process : processes) sum += process.bytes();
  return sum;
}

std::vector<std::byte> MemoryMap::Serialise() const {
  ByteWriter writer;
  writer.Bytes(std::as_bytes(std::span(kMagic)));
  writer.U32(kVersion);
  writer.U32(static_cast<std::uint32_t>(processes.size()));
  for (const ProcessPages& process : processes) {
    writer.U32(static_cast<std::uint32_t>(process.inner_pid()));
    writer.U32(static_cast<std::uint32_t>(process.ranges().size()));
    for (const MemoryRange& range : process.ranges()) {
      writer.U64(range.address);
      writer.U64(range.bytes);
    }
  }
  return writer.Take();
}

Result<MemoryMap> MemoryMap::Parse(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  const std::span<const std::byte> magic = GPUMIG_TRY(reader.Bytes(kMagic.size()));
  if (!std::ranges::equal(magic, std::as_bytes(std::span(kMagic))))
    return MakeError(ErrorCode::kDamaged, "a memory map does not begin with {}", kMagic);
  if (const std::uint32_t version = GPUMIG_TRY(reader.U32()); version != kVersion)
    return MakeError(ErrorCode::kUnsupported, "the memory map is of version {}, this gpumig reads {}", version,
                     kVersion);
  const std::uint32_t count = GPUMIG_TRY(reader.U32());
  if (count > kMostProcesses) return MakeError(ErrorCode::kDamaged, "a memory map claims {} processes", count);
  MemoryMap map;
  for (std::uint32_t i = 0; i < count; ++i) {
    ProcessPages process = GPUMIG_TRY(ParseProcess(reader));
    for (const ProcessPages& other : map.processes) {
      if (other.inner_pid() == process.inner_pid())
        return MakeError(ErrorCode::kDamaged, "a memory map names process {} twice", process.inner_pid());
    }
    map.processes.push_back(std::move(process));
  }
  if (reader.remaining() != 0)
    return MakeError(ErrorCode::kDamaged, "a memory map has {} bytes behind its end", reader.remaining());
  return map;
}

std::string MemoryFileName(pid_t inner_pid) { return fmt::format("{}{}", kFilePrefix, inner_pid); }

bool IsMemoryFileName(std::string_view name) {
  if (!name.starts_with(kFilePrefix)) return false;
  name.remove_prefix(kFilePrefix.size());
  return !name.empty() && name.size() <= 10 && name.find_first_not_of("0123456789") == std::string_view::npos;
}

}  // namespace gpumig
