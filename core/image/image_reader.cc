#include "core/image/image_reader.h"

#include <fcntl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "core/base/file.h"
#include "core/image/beneath.h"
#include "core/image/chunk_codec.h"
#include "core/image/directory_chunk_store.h"
#include "core/image/image_directory.h"

namespace gpumig {
namespace {

Error NoManifest(int directory) {
  if (OpenBeneath(directory, kIncompleteName, O_PATH)) {
    return MakeError(ErrorCode::kDamaged, "not a complete image: its writer was stopped, or still writes ({} is there)",
                     kIncompleteName)
        .WithNextStep("wait for its writer, or remove the directory and write the image again");
  }
  return MakeError(ErrorCode::kDamaged, "not a complete image: it has no {}", kManifestName);
}

Result<OpenedImage> OpenIn(const std::filesystem::path& path) {
  const UniqueFd directory = GPUMIG_TRY(OpenFile(path, O_RDONLY | O_DIRECTORY));
  Result<OpenedFile> opened = OpenRegularBeneath(directory.get(), kManifestName);
  if (!opened && opened.error().code() == ErrorCode::kNotFound) return NoManifest(directory.get());
  const OpenedFile file = GPUMIG_TRY(std::move(opened));
  if (file.bytes > kMaxManifestBytes) {
    return MakeError(ErrorCode::kDamaged, "manifest: {} bytes, the limit is {}", file.bytes, kMaxManifestBytes);
  }
  OpenedImage image;
  image.manifest_bytes.resize(file.bytes);
  GPUMIG_TRY(ReadExactlyAt(file.fd.get(), image.manifest_bytes, 0), "manifest");
  image.manifest = GPUMIG_TRY(Manifest::Parse(image.manifest_bytes));
  image.image_digest = Digest::Of(image.manifest_bytes);
  Result<UniqueFd> chunks = OpenBeneath(directory.get(), kChunksName, O_RDONLY | O_DIRECTORY);
  if (!chunks && chunks.error().code() == ErrorCode::kNotFound) {
    return MakeError(ErrorCode::kDamaged, "it has no directory '{}'", kChunksName);
  }
  image.store =
      std::make_unique<DirectoryChunkStore>(GPUMIG_TRY(std::move(chunks)), path / kChunksName, StoreDurability::kNone);
  return image;
}

// One worker's checks.
class ChunkVerifier {
 public:
  ChunkVerifier(const ChunkStore& store, VerifyDepth depth) : store_(store), depth_(depth) {}

  Result<void> Verify(const ManifestChunk& chunk) {
    if (chunk.zero) return Ok();
    return depth_ == VerifyDepth::kQuick ? VerifySize(chunk) : VerifyContent(chunk);
  }

 private:
  Result<void> VerifySize(const ManifestChunk& chunk) const {
    const std::uint64_t bytes = GPUMIG_TRY(store_.StoredBytes(chunk.digest));
    if (bytes <= kChunkHeaderBytes || bytes > kChunkHeaderBytes + chunk.plain_bytes) {
      return MakeError(ErrorCode::kDamaged, "{} bytes are stored for {} bytes of content", bytes, chunk.plain_bytes);
    }
    return Ok();
  }

  Result<void> VerifyContent(const ManifestChunk& chunk) {
    const std::vector<std::byte> encoded = GPUMIG_TRY(store_.Get(chunk.digest));
    plain_.resize(chunk.plain_bytes);
    return decoder_.Decode(encoded, chunk.digest, plain_);
  }

  const ChunkStore& store_;
  const VerifyDepth depth_;
  ChunkDecoder decoder_;
  std::vector<std::byte> plain_;
};

// Fills in which files use which damaged chunk, in one walk over all files.
void NameFiles(const Manifest& manifest, const std::map<std::size_t, std::size_t>& damaged_by_index,
               std::vector<DamagedChunk>& damaged) {
  for (const ManifestFile& file : manifest.files) {
    for (const std::uint32_t index : file.chunks) {
      const auto found = damaged_by_index.find(index);
      if (found == damaged_by_index.end()) continue;
      std::vector<std::string>& files = damaged[found->second].files;
      if (files.empty() || files.back() != file.name) files.push_back(file.name);
    }
  }
}

}  // namespace

Result<OpenedImage> OpenImage(const std::filesystem::path& image) {
  return GPUMIG_TRY(OpenIn(image), "open image {}", image.string());
}

Result<VerifyReport> VerifyChunks(const Manifest& manifest, const ChunkStore& store, VerifyDepth depth,
                                  const ParallelOptions& options) {
  std::uint64_t total_bytes = 0;
  for (const ManifestChunk& chunk : manifest.chunks) total_bytes += chunk.plain_bytes;
  std::mutex mutex;
  std::map<std::size_t, std::string> reasons;  // guarded by mutex
  const auto make_worker = [&]() -> PieceWork {
    auto verifier = std::make_shared<ChunkVerifier>(store, depth);
    return [&, verifier](std::size_t i) -> Result<std::uint64_t> {
      const Result<void> verified = verifier->Verify(manifest.chunks[i]);
      if (!verified) {
        const std::lock_guard lock(mutex);
        reasons.emplace(i, verified.error().message());
      }
      return manifest.chunks[i].plain_bytes;
    };
  };
  GPUMIG_TRY(ParallelFor(manifest.chunks.size(), total_bytes, options, make_worker));
  VerifyReport report;
  report.chunks_checked = manifest.chunks.size();
  report.bytes_checked = total_bytes;
  std::map<std::size_t, std::size_t> damaged_by_index;
  for (auto& [index, reason] : reasons) {
    damaged_by_index.emplace(index, report.damaged.size());
    report.damaged.push_back({.digest = manifest.chunks[index].digest, .reason = std::move(reason), .files = {}});
  }
  NameFiles(manifest, damaged_by_index, report.damaged);
  return report;
}

Result<VerifyReport> VerifyImage(const std::filesystem::path& image, VerifyDepth depth,
                                 const ParallelOptions& options) {
  const OpenedImage opened = GPUMIG_TRY(OpenImage(image));
  VerifyReport report =
      GPUMIG_TRY(VerifyChunks(opened.manifest, *opened.store, depth, options), "verify image {}", image.string());
  report.image_digest = opened.image_digest;
  return report;
}

Result<ImageDescription> InspectImage(const std::filesystem::path& image) {
  OpenedImage opened = GPUMIG_TRY(OpenImage(image));
  ImageDescription description;
  description.minor = opened.manifest.minor;
  description.summary =
      GPUMIG_TRY(Summarise(opened.manifest, opened.image_digest, *opened.store), "inspect image {}", image.string());
  description.manifest = std::move(opened.manifest);
  return description;
}

}  // namespace gpumig
