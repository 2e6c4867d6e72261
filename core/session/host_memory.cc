#include "core/session/host_memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "core/base/check.h"
#include "core/base/file.h"
#include "core/host/process.h"
#include "core/image/chunk_codec.h"

namespace gpumig {
namespace {

Result<std::map<pid_t, pid_t>> PidsByInner(const std::vector<pid_t>& processes) {
  std::map<pid_t, pid_t> pids;
  for (const pid_t pid : processes) pids.emplace(GPUMIG_TRY(NamespacePids(pid)).back(), pid);
  return pids;
}

// A first layer is cut by address, so that a workload that comes again is cut the same way; later ones are what was
// written lately, here and there.
std::vector<FilePiece> PiecesOf(const ProcessPages& pages) {
  std::vector<MemoryRange> ranges;
  for (const MemoryExtent& extent : pages.extents()) ranges.push_back({extent.address, extent.bytes});
  std::vector<FilePiece> pieces;
  for (const std::vector<MemoryRange>& piece : CutIntoPieces(ranges, /*by_address=*/pages.layer() == 0)) {
    std::uint64_t bytes = 0;
    for (const MemoryRange& range : piece) bytes += range.bytes;
    pieces.push_back({.bytes = static_cast<std::uint32_t>(bytes)});
  }
  return pieces;
}

}  // namespace

std::vector<std::vector<MemoryRange>> CutIntoPieces(const std::vector<MemoryRange>& ranges, bool by_address) {
  std::vector<std::vector<MemoryRange>> pieces;
  std::uint64_t bytes = 0;   // of the last piece
  std::uint64_t window = 0;  // that the last piece lies in
  for (const MemoryRange& range : ranges) {
    for (std::uint64_t at = range.address; at < range.end();) {
      const std::uint64_t begins = at / kMaxChunkBytes;
      const bool fresh = pieces.empty() || (by_address ? begins != window : bytes == kMaxChunkBytes);
      if (fresh) {
        pieces.emplace_back();
        bytes = 0;
        window = begins;
      }
      const std::uint64_t room = by_address ? (begins + 1) * kMaxChunkBytes - at : kMaxChunkBytes - bytes;
      const std::uint64_t length = std::min(room, range.end() - at);
      pieces.back().push_back({at, length});
      bytes += length;
      at += length;
    }
  }
  return pieces;
}

Result<MemoryMap> ReadMemoryMap(const std::filesystem::path& images) {
  const std::filesystem::path path = images / kMemoryMapFile;
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return MemoryMap();
  return MemoryMap::Parse(GPUMIG_TRY(ReadBinaryFile(path, kMaxMemoryMapBytes)));
}

Result<void> WriteMemoryMap(const MemoryMap& map, const std::filesystem::path& images) {
  if (map.processes.empty()) return Ok();
  const std::vector<std::byte> bytes = map.Serialise();
  if (bytes.size() > kMaxMemoryMapBytes) {
    return MakeError(ErrorCode::kResourceExhausted,
                     "its memory was written in too many places to copy it while it runs")
        .WithNextStep("do it without --live");
  }
  const UniqueFd file = GPUMIG_TRY(OpenFile(images / kMemoryMapFile, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  return WriteAll(file.get(), bytes);
}

Result<std::vector<UnwrittenFile>> MemoryAsFiles(const MemoryMap& map, const std::vector<pid_t>& processes) {
  const std::map<pid_t, pid_t> pids = GPUMIG_TRY(PidsByInner(processes));
  std::vector<UnwrittenFile> files;
  for (const ProcessPages& pages : map.processes) {
    const auto found = pids.find(pages.inner_pid());
    if (found == pids.end())
      return MakeError(ErrorCode::kNotFound, "process {} of the workload has ended", pages.inner_pid());
    std::uint64_t bytes = 0;
    for (const MemoryExtent& extent : pages.extents()) bytes += extent.bytes;
    if (bytes != pages.bytes()) {
      return MakeError(ErrorCode::kFailedPrecondition,
                       "memory of process {} was copied while it ran, and cannot be read again", pages.inner_pid())
          .WithNextStep("migrate again");
    }
    UnwrittenFile file;
    file.name = MemoryFileName(pages);
    file.bytes = pages.bytes();
    file.kind = ChunkKind::kHostPages;
    file.pieces = PiecesOf(pages);
    file.read = [pages, pid = found->second](std::uint64_t offset, std::span<std::byte> into) {
      return pages.Read(pid, offset, into);
    };
    files.push_back(std::move(file));
  }
  return files;
}

Result<void> WriteFiles(std::vector<UnwrittenFile>& files, const std::filesystem::path& directory,
                        const ParallelOptions& options) {
  for (UnwrittenFile& file : files) {
    // With whoever reads it later.
    const auto fd =
        std::make_shared<UniqueFd>(GPUMIG_TRY(OpenFile(directory / file.name, O_RDWR | O_CREAT | O_EXCL, 0600)));
    if (ftruncate(fd->get(), static_cast<off_t>(file.bytes)) != 0)
      return Error::FromErrno(errno, fmt::format("make {} {} bytes long", file.name, file.bytes));
    const std::size_t count = (file.bytes + kMaxChunkBytes - 1) / kMaxChunkBytes;
    const auto make_worker = [&]() -> PieceWork {
      return [&, buffer = std::vector<std::byte>()](std::size_t i) mutable -> Result<std::uint64_t> {
        const std::uint64_t offset = i * kMaxChunkBytes;
        buffer.resize(std::min<std::uint64_t>(kMaxChunkBytes, file.bytes - offset));
        GPUMIG_TRY(file.read(offset, buffer));
        if (!IsAllZero(buffer)) GPUMIG_TRY(WriteAllAt(fd->get(), buffer, offset));
        return buffer.size();
      };
    };
    GPUMIG_TRY(ParallelFor(count, file.bytes, options, make_worker), "copy {}", file.name);
    file.read = [fd](std::uint64_t offset, std::span<std::byte> into) {
      return ReadExactlyAt(fd->get(), into, offset);
    };
  }
  return Ok();
}

bool IsMemoryFile(const ManifestFile& file) { return IsMemoryFileName(file.name); }

std::uint64_t BytesWithCriu(const Manifest& manifest) {
  std::uint64_t bytes = 0;
  for (const ManifestFile& file : manifest.files) {
    if (!IsMemoryFile(file)) bytes += file.bytes;
  }
  return bytes;
}

Result<MemoryFill> MemoryFill::Make(const MemoryMap& map, const Manifest& manifest,
                                    const std::vector<pid_t>& processes) {
  const std::map<pid_t, pid_t> pids = GPUMIG_TRY(PidsByInner(processes));
  MemoryFill fill;
  for (const ProcessPages& pages : map.processes) {
    const auto found = pids.find(pages.inner_pid());
    if (found == pids.end())
      return MakeError(ErrorCode::kDamaged, "the image has memory of process {}, which it does not have",
                       pages.inner_pid());
    fill.targets_.emplace(MemoryFileName(pages), Target{pages, found->second});
  }
  std::size_t file_count = 0;
  for (const ManifestFile& file : manifest.files) {
    if (!IsMemoryFile(file)) continue;
    ++file_count;
    const auto target = fill.targets_.find(file.name);
    if (target == fill.targets_.end() || target->second.pages.bytes() != file.bytes)
      return MakeError(ErrorCode::kDamaged, "the image's memory map does not fit its file {}", file.name);
  }
  if (file_count != fill.targets_.size())
    return MakeError(ErrorCode::kDamaged, "the image lacks memory that its memory map names");
  return fill;
}

Result<void> MemoryFill::Place(const ManifestFile& file, std::uint64_t offset, std::span<const std::byte> plain) const {
  const auto target = targets_.find(file.name);
  GPUMIG_CHECK(target != targets_.end());
  return target->second.pages.Write(target->second.pid, offset, plain);
}

}  // namespace gpumig
