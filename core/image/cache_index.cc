#include "core/image/cache_index.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "core/base/bytes.h"
#include "core/base/file.h"
#include "core/image/chunk_codec.h"
#include "core/image/image_directory.h"
#include "core/image/image_reader.h"

namespace gpumig {
namespace {

constexpr std::string_view kMagic = "GMCACHE1";
constexpr std::size_t kChunkEntryBytes = Digest::kBytes + 12;
constexpr std::size_t kMaxIndexedChunks = (kMaxCacheIndexBytes - 8192) / kChunkEntryBytes;

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

Result<CacheIndex> IndexOfImage(const std::filesystem::path& path) {
  const UniqueFd manifest_file = GPUMIG_TRY(OpenFile(path / kManifestName, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  const OpenedImage image = GPUMIG_TRY(OpenImage(path));
  CacheIndex index;
  index.kind = CacheKind::kImage;
  index.path = path;
  index.changed_ns = GPUMIG_TRY(StampOfFile(manifest_file.get())).changed_ns;
  for (const ManifestChunk& chunk : image.manifest.chunks) {
    if (chunk.zero) continue;
    index.chunks.push_back({chunk.digest, 0, chunk.plain_bytes});
    index.bytes += chunk.plain_bytes;
  }
  return index;
}

Result<CacheIndex> IndexOfFile(const std::filesystem::path& path, const ParallelOptions& options) {
  const UniqueFd fd = GPUMIG_TRY(OpenFile(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  const CacheStamp before = GPUMIG_TRY(StampOfFile(fd.get()));
  CacheIndex index;
  index.path = path;
  index.bytes = before.bytes;
  index.changed_ns = before.changed_ns;
  const std::uint64_t count = (before.bytes + kMaxChunkBytes - 1) / kMaxChunkBytes;
  if (count > kMaxIndexedChunks)
    return MakeError(ErrorCode::kInvalidArgument, "it has {} bytes, more than can be indexed", before.bytes);
  index.chunks.resize(count);
  std::vector<char> is_zero(count);
  const auto make_worker = [&]() -> PieceWork {
    return [&, buffer = std::vector<std::byte>()](std::size_t i) mutable -> Result<std::uint64_t> {
      const std::uint64_t offset = i * kMaxChunkBytes;
      buffer.resize(std::min<std::uint64_t>(kMaxChunkBytes, before.bytes - offset));
      GPUMIG_TRY(ReadExactlyAt(fd.get(), buffer, offset));
      is_zero[i] = IsAllZero(buffer) ? 1 : 0;
      if (is_zero[i] == 0) index.chunks[i] = {Digest::Of(buffer), offset, static_cast<std::uint32_t>(buffer.size())};
      return buffer.size();
    };
  };
  GPUMIG_TRY(ParallelFor(count, before.bytes, options, make_worker));
  const CacheStamp after = GPUMIG_TRY(StampOfFile(fd.get()));
  if (after.bytes != before.bytes || after.changed_ns != before.changed_ns)
    return MakeError(ErrorCode::kFailedPrecondition, "it was changed while it was read")
        .WithNextStep("add it again once nobody writes to it");
  std::erase_if(index.chunks, [](const CachedChunk& chunk) { return chunk.plain_bytes == 0; });
  return index;
}

}  // namespace

std::string_view Name(CacheKind kind) {
  switch (kind) {
    case CacheKind::kFile:
      return "file";
    case CacheKind::kImage:
      return "image";
    case CacheKind::kKept:
      return "kept";
  }
  return "?";
}

std::vector<std::byte> CacheIndex::Serialise() const {
  ByteWriter writer;
  writer.Bytes(Bytes(kMagic));
  writer.Bytes(Digest::Of(Bytes(kMagic)).bytes());
  writer.U8(static_cast<std::uint8_t>(kind));
  writer.Text(path.string());
  writer.U64(bytes);
  writer.U64(static_cast<std::uint64_t>(changed_ns));
  writer.U32(static_cast<std::uint32_t>(chunks.size()));
  for (const CachedChunk& chunk : chunks) {
    writer.Bytes(chunk.digest.bytes());
    writer.U64(chunk.offset);
    writer.U32(chunk.plain_bytes);
  }
  writer.Bytes(Digest::Of(writer.bytes()).bytes());
  return writer.Take();
}

Result<CacheIndex> CacheIndex::Parse(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  const std::span<const std::byte> magic = GPUMIG_TRY(reader.Bytes(kMagic.size()));
  if (!std::ranges::equal(magic, Bytes(kMagic))) return MakeError(ErrorCode::kDamaged, "it is no index of a cache");
  const std::span<const std::byte> probe = GPUMIG_TRY(reader.Bytes(Digest::kBytes));
  if (!std::ranges::equal(probe, Digest::Of(Bytes(kMagic)).bytes()))
    return MakeError(ErrorCode::kUnsupported, "it was made by a gpumig with other digests");
  if (bytes.size() < reader.offset() + Digest::kBytes ||
      !std::ranges::equal(bytes.last(Digest::kBytes), Digest::Of(bytes.first(bytes.size() - Digest::kBytes)).bytes()))
    return MakeError(ErrorCode::kDamaged, "its bytes are not those that were written");
  CacheIndex index;
  const std::uint8_t kind = GPUMIG_TRY(reader.U8());
  if (kind != static_cast<std::uint8_t>(CacheKind::kFile) && kind != static_cast<std::uint8_t>(CacheKind::kImage))
    return MakeError(ErrorCode::kDamaged, "it says it is of kind {}", kind);
  index.kind = static_cast<CacheKind>(kind);
  index.path = GPUMIG_TRY(reader.Text(PATH_MAX));
  index.bytes = GPUMIG_TRY(reader.U64());
  index.changed_ns = static_cast<std::int64_t>(GPUMIG_TRY(reader.U64()));
  const std::uint32_t count = GPUMIG_TRY(reader.U32());
  if (count > reader.remaining() / kChunkEntryBytes || count * kChunkEntryBytes + Digest::kBytes != reader.remaining())
    return MakeError(ErrorCode::kDamaged, "it claims {} chunks and has {} bytes left", count, reader.remaining());
  index.chunks.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::span<const std::byte> digest = GPUMIG_TRY(reader.Bytes(Digest::kBytes));
    const CachedChunk chunk{Digest(digest.first<Digest::kBytes>()), GPUMIG_TRY(reader.U64()), GPUMIG_TRY(reader.U32())};
    if (chunk.plain_bytes == 0 || chunk.plain_bytes > kMaxChunkBytes)
      return MakeError(ErrorCode::kDamaged, "it claims a chunk of {} bytes", chunk.plain_bytes);
    index.chunks.push_back(chunk);
  }
  return index;
}

Result<CacheStamp> StampOfFile(int fd) {
  struct stat status{};
  if (fstat(fd, &status) != 0) return Error::FromErrno(errno, "fstat");
  if (!S_ISREG(status.st_mode)) return MakeError(ErrorCode::kInvalidArgument, "it is not a regular file");
  return CacheStamp{static_cast<std::uint64_t>(status.st_size),
                    std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec};
}

Result<CacheIndex> MakeCacheIndex(const std::filesystem::path& path, const ParallelOptions& options) {
  std::error_code error;
  const std::filesystem::path whole = std::filesystem::canonical(path, error);
  if (error) return Error::FromErrno(error.value(), fmt::format("look for {}", path.string()));
  const bool is_directory = std::filesystem::is_directory(whole, error);
  return is_directory ? IndexOfImage(whole) : IndexOfFile(whole, options);
}

}  // namespace gpumig
