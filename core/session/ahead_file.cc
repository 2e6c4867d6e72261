#include "core/session/ahead_file.h"

#include <fcntl.h>

#include <algorithm>

#include "core/base/check.h"
#include "core/base/file.h"
#include "core/image/chunk_codec.h"

namespace gpumig {

Result<AheadFile> AheadFile::Make(const std::filesystem::path& directory) {
  return AheadFile(GPUMIG_TRY(OpenFile(directory / "ahead", O_RDWR | O_CREAT | O_EXCL, 0600)), directory);
}

Result<void> AheadFile::BeginAhead(std::uint64_t host_bytes, std::stop_token) {
  std::error_code error;
  const std::filesystem::space_info room = std::filesystem::space(directory_, error);
  if (error) return Error::FromErrno(error.value(), fmt::format("look at {}", directory_.string()));
  most_bytes_ = room.available - std::min<std::uint64_t>(room.available, host_bytes);
  return Ok();
}

Result<void> AheadFile::ShipAhead(std::span<const AheadChunk> chunks, std::stop_token) {
  for (const AheadChunk& chunk : chunks) {
    const std::span<const std::byte> plain = std::span(chunk.room_and_plain).subspan(kChunkHeaderBytes);
    if (offsets_.contains(chunk.digest) || plain.size() > most_bytes_ - bytes_) continue;
    const Result<void> written = WriteAllAt(file_.get(), plain, bytes_);
    if (!written && written.error().code() == ErrorCode::kNoSpace) {
      most_bytes_ = bytes_;  // others were faster
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
  return ReadExactlyAt(file_.get(), into, offsets_.at(piece.known->digest));
}

void AheadFile::Serve(std::vector<UnwrittenFile>& ahead) const {
  for (UnwrittenFile& file : ahead) {
    std::unordered_map<std::uint64_t, FilePiece> pieces;
    std::uint64_t offset = 0;
    for (const FilePiece& piece : file.pieces) {
      pieces.emplace(offset, piece);
      offset += piece.bytes;
    }
    file.read = [this, pieces = std::move(pieces)](std::uint64_t at, std::span<std::byte> into) {
      return ReadPiece(pieces.at(at), into);
    };
  }
}

}  // namespace gpumig
