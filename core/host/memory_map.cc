#include "core/host/memory_map.h"

#include <algorithm>
#include <cerrno>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "core/base/bytes.h"
#include "core/base/check.h"

namespace gpumig {
namespace {

constexpr std::string_view kMagic = "GPUMIGMM";
constexpr std::uint32_t kNewestVersion = 2;
constexpr std::uint32_t kMostRecords = 1u << 16;
constexpr std::string_view kFilePrefix = "memory-";
// What process_vm_readv takes at once.
constexpr std::size_t kMostPieces = 1024;

enum class Direction { kRead, kWrite };

// `local` is where the sequence of bytes begins that `pieces` are pieces of.
Result<void> Move(Direction direction, pid_t pid, const std::vector<ProcessPages::Piece>& pieces, std::byte* local) {
  std::vector<iovec> there;
  std::vector<iovec> here;
  there.reserve(pieces.size());
  here.reserve(pieces.size());
  for (const ProcessPages::Piece& piece : pieces) {
    there.push_back(piece.remote);
    // What lies side by side at both ends is one piece for the kernel.
    if (!here.empty() && static_cast<std::byte*>(here.back().iov_base) + here.back().iov_len == local + piece.at &&
        static_cast<std::byte*>(there[there.size() - 2].iov_base) + there[there.size() - 2].iov_len ==
            piece.remote.iov_base) {
      there.pop_back();
      there.back().iov_len += piece.remote.iov_len;
      here.back().iov_len += piece.remote.iov_len;
    } else {
      here.push_back({local + piece.at, piece.remote.iov_len});
    }
  }
  std::size_t first = 0;
  while (first < there.size()) {
    const std::size_t count = std::min(kMostPieces, there.size() - first);
    const ssize_t moved = direction == Direction::kRead
                              ? process_vm_readv(pid, &here[first], count, &there[first], count, 0)
                              : process_vm_writev(pid, &here[first], count, &there[first], count, 0);
    if (moved <= 0) {
      const std::string what =
          fmt::format("{} memory of process {} at {:#x}", direction == Direction::kRead ? "read" : "write", pid,
                      reinterpret_cast<std::uintptr_t>(there[first].iov_base));
      if (moved == 0 || errno == EFAULT)
        return MakeError(ErrorCode::kFailedPrecondition, "{}: there is none that can be used so", what);
      return Error::FromErrno(errno, what);
    }
    for (auto left = static_cast<std::size_t>(moved); left > 0;) {
      const std::size_t step = std::min(left, there[first].iov_len);
      for (iovec* end : {&there[first], &here[first]}) {
        end->iov_base = static_cast<std::byte*>(end->iov_base) + step;
        end->iov_len -= step;
      }
      left -= step;
      if (there[first].iov_len == 0) ++first;
    }
  }
  return Ok();
}

// One record: how it is written depends on the version. Version 1 has no layers, and no gaps.
Result<ProcessPages> ParseProcess(ByteReader& reader, std::uint32_t version) {
  const std::uint32_t pid = GPUMIG_TRY(reader.U32());
  const std::uint32_t layer = version == 1 ? 0 : GPUMIG_TRY(reader.U32());
  const std::uint64_t file_bytes = version == 1 ? 0 : GPUMIG_TRY(reader.U64());
  const std::uint32_t count = GPUMIG_TRY(reader.U32());
  if (pid == 0 || pid > std::numeric_limits<pid_t>::max() || layer >= kMostMemoryLayers)
    return MakeError(ErrorCode::kDamaged, "a memory map names process {}, layer {}", pid, layer);
  const std::size_t extent_bytes = version == 1 ? 16 : 24;
  if (count == 0 || count > reader.remaining() / extent_bytes)
    return MakeError(ErrorCode::kDamaged, "a memory map claims {} ranges and has {} bytes left", count,
                     reader.remaining());
  std::vector<MemoryExtent> extents;
  extents.reserve(count);
  std::uint64_t end = 0;
  std::uint64_t file_end = 0;
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint64_t offset = version == 1 ? file_end : GPUMIG_TRY(reader.U64());
    const std::uint64_t address = GPUMIG_TRY(reader.U64());
    const std::uint64_t bytes = GPUMIG_TRY(reader.U64());
    const bool whole_pages =
        offset % kPageBytes == 0 && address % kPageBytes == 0 && bytes % kPageBytes == 0 && bytes > 0;
    if (!whole_pages || address < end || offset < file_end || bytes > kMost - address || bytes > kMost - offset) {
      return MakeError(ErrorCode::kDamaged, "a memory map has an impossible range of {} bytes at {:#x}", bytes,
                       address);
    }
    end = address + bytes;
    file_end = offset + bytes;
    extents.push_back({offset, address, bytes});
  }
  if (version != 1 && (file_end > file_bytes || file_bytes % kPageBytes != 0))
    return MakeError(ErrorCode::kDamaged, "a memory map has a range of process {} behind its file's end", pid);
  return ProcessPages(static_cast<pid_t>(pid), layer, version == 1 ? file_end : file_bytes, std::move(extents));
}

// No two records of one file, no two extents of one process's address.
Result<void> CheckApart(const MemoryMap& map) {
  std::set<std::pair<pid_t, std::uint32_t>> files;
  std::map<pid_t, std::vector<MemoryRange>> ranges;
  for (const ProcessPages& pages : map.processes) {
    if (!files.emplace(pages.inner_pid(), pages.layer()).second)
      return MakeError(ErrorCode::kDamaged, "a memory map names process {} twice", pages.inner_pid());
    for (const MemoryExtent& extent : pages.extents())
      ranges[pages.inner_pid()].push_back({extent.address, extent.bytes});
  }
  for (auto& [pid, of_process] : ranges) {
    std::ranges::sort(of_process, {}, &MemoryRange::address);
    for (std::size_t i = 1; i < of_process.size(); ++i) {
      if (of_process[i].address < of_process[i - 1].end())
        return MakeError(ErrorCode::kDamaged, "a memory map has two layers of process {} at {:#x}", pid,
                         of_process[i].address);
    }
  }
  return Ok();
}

}  // namespace

ProcessPages::ProcessPages(pid_t inner_pid, const std::vector<MemoryRange>& ranges) : inner_pid_(inner_pid) {
  extents_.reserve(ranges.size());
  for (const MemoryRange& range : ranges) {
    extents_.push_back({bytes_, range.address, range.bytes});
    bytes_ += range.bytes;
  }
}

ProcessPages::ProcessPages(pid_t inner_pid, std::uint32_t layer, std::uint64_t file_bytes,
                           std::vector<MemoryExtent> extents)
    : inner_pid_(inner_pid), layer_(layer), extents_(std::move(extents)), bytes_(file_bytes) {}

std::vector<ProcessPages::Piece> ProcessPages::Pieces(std::uint64_t offset, std::uint64_t bytes) const {
  GPUMIG_CHECK(offset <= bytes_ && bytes <= bytes_ - offset);
  std::vector<Piece> pieces;
  const std::uint64_t end = offset + bytes;
  auto extent = std::ranges::upper_bound(extents_, offset, {}, &MemoryExtent::offset);
  if (extent != extents_.begin()) --extent;
  for (; extent != extents_.end() && extent->offset < end; ++extent) {
    const std::uint64_t from = std::max(offset, extent->offset);
    const std::uint64_t to = std::min(end, extent->offset + extent->bytes);
    if (from >= to) continue;
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of another process.
    pieces.push_back({from - offset, {reinterpret_cast<void*>(extent->address + (from - extent->offset)), to - from}});
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

// The oldest version that can say it.
std::vector<std::byte> MemoryMap::Serialise() const {
  bool plain = true;
  for (const ProcessPages& process : processes) {
    std::uint64_t offset = 0;
    for (const MemoryExtent& extent : process.extents()) {
      plain = plain && extent.offset == offset;
      offset += extent.bytes;
    }
    plain = plain && process.layer() == 0 && process.bytes() == offset;
  }
  ByteWriter writer;
  writer.Bytes(std::as_bytes(std::span(kMagic)));
  writer.U32(plain ? 1 : kNewestVersion);
  writer.U32(static_cast<std::uint32_t>(processes.size()));
  for (const ProcessPages& process : processes) {
    writer.U32(static_cast<std::uint32_t>(process.inner_pid()));
    if (!plain) {
      writer.U32(process.layer());
      writer.U64(process.bytes());
    }
    writer.U32(static_cast<std::uint32_t>(process.extents().size()));
    for (const MemoryExtent& extent : process.extents()) {
      if (!plain) writer.U64(extent.offset);
      writer.U64(extent.address);
      writer.U64(extent.bytes);
    }
  }
  return writer.Take();
}

Result<MemoryMap> MemoryMap::Parse(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  const std::span<const std::byte> magic = GPUMIG_TRY(reader.Bytes(kMagic.size()));
  if (!std::ranges::equal(magic, std::as_bytes(std::span(kMagic))))
    return MakeError(ErrorCode::kDamaged, "a memory map does not begin with {}", kMagic);
  const std::uint32_t version = GPUMIG_TRY(reader.U32());
  if (version == 0 || version > kNewestVersion)
    return MakeError(ErrorCode::kUnsupported, "the memory map is of version {}, this gpumig reads up to {}", version,
                     kNewestVersion);
  const std::uint32_t count = GPUMIG_TRY(reader.U32());
  if (count > kMostRecords) return MakeError(ErrorCode::kDamaged, "a memory map claims {} processes", count);
  MemoryMap map;
  for (std::uint32_t i = 0; i < count; ++i) map.processes.push_back(GPUMIG_TRY(ParseProcess(reader, version)));
  if (reader.remaining() != 0)
    return MakeError(ErrorCode::kDamaged, "a memory map has {} bytes behind its end", reader.remaining());
  GPUMIG_TRY(CheckApart(map));
  return map;
}

std::string MemoryFileName(pid_t inner_pid, std::uint32_t layer) {
  return layer == 0 ? fmt::format("{}{}", kFilePrefix, inner_pid)
                    : fmt::format("{}{}.{}", kFilePrefix, inner_pid, layer);
}

bool IsMemoryFileName(std::string_view name) {
  if (!name.starts_with(kFilePrefix)) return false;
  name.remove_prefix(kFilePrefix.size());
  const auto is_number = [](std::string_view text) {
    return !text.empty() && text.size() <= 10 && text.find_first_not_of("0123456789") == std::string_view::npos;
  };
  const std::size_t dot = name.find('.');
  return is_number(name.substr(0, dot)) && (dot == std::string_view::npos || is_number(name.substr(dot + 1)));
}

}  // namespace gpumig
