#include "core/session/ahead_file.h"

#include <fcntl.h>

#include <algorithm>

#include "core/base/check.h"
#include "core/base/file.h"
#include "core/host/process.h"
#include "core/image/chunk_codec.h"

namespace gpumig {
namespace {

// Of what this host has in memory, so much is left alone.
constexpr std::uint64_t kSpareMemoryBytes = std::uint64_t{256} << 20;

std::uint64_t Without(std::uint64_t bytes, std::uint64_t less) { return bytes - std::min(bytes, less); }

// Of a file's bytes from `offset` on those that lie in no extent.
void ClearOutside(const std::vector<MemoryExtent>& extents, std::uint64_t offset, std::span<std::byte> bytes) {
  std::uint64_t clear_from = offset;
  const std::uint64_t end = offset + bytes.size();
  const auto clear_up_to = [&](std::uint64_t to) {
    if (to > clear_from) std::ranges::fill(bytes.subspan(clear_from - offset, to - clear_from), std::byte{0});
  };
  auto extent = std::ranges::upper_bound(extents, offset, {}, &MemoryExtent::offset);
  if (extent != extents.begin()) --extent;
  for (; extent != extents.end() && extent->offset < end; ++extent) {
    clear_up_to(extent->offset);
    clear_from = std::max(clear_from, extent->offset + extent->bytes);
  }
  clear_up_to(end);
}

}  // namespace

Result<AheadFile> AheadFile::Make(const std::filesystem::path& directory, std::uint64_t beside_bytes) {
  const std::filesystem::path path = directory / "ahead";
  UniqueFd file = GPUMIG_TRY(OpenFile(path, O_RDWR | O_CREAT | O_EXCL, 0600));
  std::error_code error;
  std::filesystem::remove(path, error);  // so that it is gone with us, however we end
  if (error) return Error::FromErrno(error.value(), fmt::format("remove {}", path.string()));
  return AheadFile(std::move(file), directory, beside_bytes);
}

Result<void> AheadFile::BeginAhead(std::uint64_t host_bytes, std::stop_token) {
  std::error_code error;
  const std::filesystem::space_info room = std::filesystem::space(directory_, error);
  if (error) return Error::FromErrno(error.value(), fmt::format("look at {}", directory_.string()));
  const std::uint64_t to_leave = host_bytes + beside_bytes_;
  most_bytes_ = std::min(host_bytes + host_bytes / 4, Without(room.available, to_leave));
  if (IsInMemory(directory_)) {
    most_bytes_ = std::min(most_bytes_, Without(GPUMIG_TRY(AvailableMemory()), to_leave + kSpareMemoryBytes));
  }
  return Ok();
}

Result<void> AheadFile::ShipAhead(std::span<const AheadChunk> chunks, std::stop_token) {
  for (const AheadChunk& chunk : chunks) {
    const std::span<const std::byte> plain = std::span(chunk.room_and_plain).subspan(kChunkHeaderBytes);
    if (offsets_.contains(chunk.digest)) continue;
    if (plain.size() > Without(most_bytes_, bytes_)) {
      dropped_bytes_ += plain.size();
      continue;
    }
    const Result<void> written = WriteAllAt(file_.get(), plain, bytes_);
    if (!written && written.error().code() == ErrorCode::kNoSpace) {
      most_bytes_ = bytes_;  // others were faster
      dropped_bytes_ += plain.size();
      continue;
    }
    GPUMIG_TRY(written, "keep memory that was copied ahead in {}", directory_.string());
    offsets_.emplace(chunk.digest, bytes_);
    bytes_ += plain.size();
  }
  return Ok();
}

Result<std::vector<bool>> AheadFile::LacksAhead(std::span<const Digest> digests, std::stop_token) {
  std::vector<bool> lacks;
  for (const Digest& digest : digests) lacks.push_back(!offsets_.contains(digest));
  return lacks;
}

Result<void> AheadFile::ReadPiece(const FilePiece& piece, std::span<std::byte> into) const {
  GPUMIG_CHECK(into.size() == piece.bytes);
  if (piece.known->zero) {
    std::ranges::fill(into, std::byte{0});
    return Ok();
  }
  GPUMIG_TRY(ReadExactlyAt(file_.get(), into, offsets_.at(piece.known->digest)));
  if (Digest::Of(into) == piece.known->digest) return Ok();
  return MakeError(ErrorCode::kDamaged, "memory that was copied ahead is not in {} as it was written",
                   directory_.string())
      .WithNextStep("look at that disk, or name another staging directory (GPUMIG_STAGING_DIR)");
}

void AheadFile::Serve(std::vector<UnwrittenFile>& ahead, const MemoryMap& map) const {
  for (UnwrittenFile& file : ahead) {
    std::unordered_map<std::uint64_t, FilePiece> pieces;
    std::uint64_t offset = 0;
    for (const FilePiece& piece : file.pieces) {
      pieces.emplace(offset, piece);
      offset += piece.bytes;
    }
    const auto pages =
        std::ranges::find(map.processes, file.name, [](const ProcessPages& each) { return MemoryFileName(each); });
    GPUMIG_CHECK(pages != map.processes.end());
    file.read = [this, pieces = std::move(pieces), extents = pages->extents()](
                    std::uint64_t at, std::span<std::byte> into) -> Result<void> {
      GPUMIG_TRY(ReadPiece(pieces.at(at), into));
      ClearOutside(extents, at, into);
      return Ok();
    };
  }
}

}  // namespace gpumig
