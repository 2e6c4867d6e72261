#include "core/image/manifest.h"

#include <algorithm>
#include <cstring>

#include "core/base/bytes.h"
#include "core/base/check.h"
#include "core/image/chunk_codec.h"

namespace gpumig {
namespace {

constexpr std::string_view kMagic = "GPUMIGIM";
constexpr std::size_t kDigestOffset = 24;
constexpr std::size_t kDigestEnd = kDigestOffset + Digest::kBytes;
constexpr std::size_t kTagBytes = 4;
constexpr std::size_t kMaxSections = 64;
constexpr std::size_t kChunkEntryBytes = 40;
constexpr std::size_t kMinFileEntryBytes = 4 + 1 + 4 + 8 + 4;

constexpr std::string_view kFactsTag = "FACT";
constexpr std::string_view kChunksTag = "CHNK";
constexpr std::string_view kFilesTag = "FILE";

constexpr std::uint32_t kCriticalFlag = 1;
constexpr std::uint8_t kZeroFlag = 1;

Error Damaged(std::string_view what) { return MakeError(ErrorCode::kDamaged, "{}", what); }

// ---- What makes a manifest valid; `code` says whose fault it is if it is not.

Result<void> CheckChunk(const ManifestChunk& chunk, std::size_t index, ErrorCode code) {
  if (chunk.plain_bytes == 0 || chunk.plain_bytes > kMaxChunkBytes) {
    return MakeError(code, "chunk {}: plain size {} is not within 1..{}", index, chunk.plain_bytes, kMaxChunkBytes);
  }
  if (static_cast<std::size_t>(chunk.kind) >= kChunkKinds) {
    return MakeError(code, "chunk {}: unknown kind {}", index, static_cast<unsigned>(chunk.kind));
  }
  if (chunk.zero != (chunk.digest == Digest())) {
    return MakeError(code, "chunk {}: a chunk has a digest or is marked as zero, and not both", index);
  }
  return Ok();
}

Result<void> CheckFile(const Manifest& manifest, const ManifestFile& file, std::vector<bool>& used, ErrorCode code) {
  if (!IsValidFileName(file.name)) return MakeError(code, "file name of {} bytes is not allowed", file.name.size());
  if ((file.mode & ~0777u) != 0) return MakeError(code, "file {}: mode {:o} is above 0777", file.name, file.mode);
  std::uint64_t bytes = 0;  // cannot overflow: kMaxFileChunks * kMaxChunkBytes < 2^64
  for (const std::uint32_t index : file.chunks) {
    if (index >= manifest.chunks.size()) {
      return MakeError(code, "file {}: chunk index {}, and the table has {}", file.name, index, manifest.chunks.size());
    }
    bytes += manifest.chunks[index].plain_bytes;
    used[index] = true;
  }
  if (bytes != file.bytes) {
    return MakeError(code, "file {}: has {} bytes, its chunks {}", file.name, file.bytes, bytes);
  }
  return Ok();
}

Result<void> CheckManifest(const Manifest& manifest, ErrorCode code) {
  if (manifest.facts_json.size() > kMaxFactsBytes) {
    return MakeError(code, "workload facts of {} bytes, the limit is {}", manifest.facts_json.size(), kMaxFactsBytes);
  }
  if (manifest.files.size() > kMaxFiles) {
    return MakeError(code, "{} files, the limit is {}", manifest.files.size(), kMaxFiles);
  }
  if (manifest.chunks.size() > kMaxTableChunks) {
    return MakeError(code, "{} chunks, the limit is {}", manifest.chunks.size(), kMaxTableChunks);
  }
  for (std::size_t i = 0; i < manifest.chunks.size(); ++i) GPUMIG_TRY(CheckChunk(manifest.chunks[i], i, code));
  std::size_t file_chunks = 0;
  std::vector<bool> used(manifest.chunks.size());
  const ManifestFile* previous = nullptr;
  for (const ManifestFile& file : manifest.files) {
    file_chunks += file.chunks.size();
    if (file_chunks > kMaxFileChunks) return MakeError(code, "files of more than {} chunks together", kMaxFileChunks);
    GPUMIG_TRY(CheckFile(manifest, file, used, code));
    if (previous != nullptr && previous->name >= file.name) {
      return MakeError(code, "file {} after {}: names are not sorted, or not unique", file.name, previous->name);
    }
    previous = &file;
  }
  const auto unused = std::find(used.begin(), used.end(), false);
  if (unused != used.end()) return MakeError(code, "chunk {} belongs to no file", unused - used.begin());
  return Ok();
}

// ---- Writing

void PutSection(ByteWriter& body, std::string_view tag, std::span<const std::byte> content) {
  GPUMIG_CHECK(tag.size() == kTagBytes);
  body.Bytes(std::as_bytes(std::span(tag)));
  body.U32(kCriticalFlag);
  body.U64(content.size());
  body.Bytes(content);
}

std::vector<std::byte> ChunksSection(const std::vector<ManifestChunk>& chunks) {
  ByteWriter writer;
  writer.U32(static_cast<std::uint32_t>(chunks.size()));
  for (const ManifestChunk& chunk : chunks) {
    writer.Bytes(chunk.digest.bytes());
    writer.U32(chunk.plain_bytes);
    writer.U8(static_cast<std::uint8_t>(chunk.kind));
    writer.U8(chunk.zero ? kZeroFlag : 0);
    writer.U16(0);
  }
  return writer.Take();
}

std::vector<std::byte> FilesSection(const std::vector<ManifestFile>& files) {
  ByteWriter writer;
  writer.U32(static_cast<std::uint32_t>(files.size()));
  for (const ManifestFile& file : files) {
    writer.Text(file.name);
    writer.U32(file.mode);
    writer.U64(file.bytes);
    writer.U32(static_cast<std::uint32_t>(file.chunks.size()));
    for (const std::uint32_t index : file.chunks) writer.U32(index);
  }
  return writer.Take();
}

// The digest covers every byte of the file but itself.
Digest DigestOfAllBut(std::span<const std::byte> manifest) {
  const std::array<std::span<const std::byte>, 2> parts = {manifest.first(kDigestOffset), manifest.subspan(kDigestEnd)};
  return Digest::OfParts(parts);
}

// ---- Reading

Result<std::uint16_t> ParsePrefix(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  const std::span<const std::byte> magic = GPUMIG_TRY(reader.Bytes(kMagic.size()), "prefix");
  if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0) {
    return Damaged("wrong magic: this is not the manifest of a gpumig image");
  }
  const std::uint16_t major = GPUMIG_TRY(reader.U16(), "prefix");
  const std::uint16_t minor = GPUMIG_TRY(reader.U16(), "prefix");
  if (major != kImageMajor) {
    return MakeError(ErrorCode::kUnsupported, "image has format version {}.{}, this program reads {}.x", major, minor,
                     kImageMajor)
        .WithNextStep(major < kImageMajor
                          ? "restore it with the gpumig that wrote it, and checkpoint the workload anew with this one"
                          : fmt::format("use a gpumig that reads image format {}", major));
  }
  const std::uint32_t flags = GPUMIG_TRY(reader.U32(), "prefix");
  const std::uint64_t total_bytes = GPUMIG_TRY(reader.U64(), "prefix");
  const std::span<const std::byte> digest = GPUMIG_TRY(reader.Bytes(Digest::kBytes), "prefix");
  const std::uint64_t reserved = GPUMIG_TRY(reader.U64(), "prefix");
  GPUMIG_CHECK(reader.offset() == kManifestPrefixBytes);
  if (total_bytes != bytes.size()) {
    return MakeError(ErrorCode::kDamaged, "has {} bytes, and its prefix says {}", bytes.size(), total_bytes);
  }
  if (Digest(digest.first<Digest::kBytes>()) != DigestOfAllBut(bytes)) {
    return Damaged("its digest does not hold: bytes were changed");
  }
  if (flags != 0 || reserved != 0) return MakeError(ErrorCode::kUnsupported, "reserved bytes of the prefix are set");
  return minor;
}

Result<std::vector<ManifestChunk>> ParseChunks(std::span<const std::byte> section) {
  ByteReader reader(section);
  const std::uint32_t count = GPUMIG_TRY(reader.U32());
  if (count > kMaxTableChunks) {
    return MakeError(ErrorCode::kDamaged, "{} chunks, the limit is {}", count, kMaxTableChunks);
  }
  if (reader.remaining() != count * kChunkEntryBytes) {
    return MakeError(ErrorCode::kDamaged, "{} bytes for {} chunks of {}", reader.remaining(), count, kChunkEntryBytes);
  }
  std::vector<ManifestChunk> chunks;
  chunks.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    ManifestChunk chunk;
    chunk.digest = Digest(GPUMIG_TRY(reader.Bytes(Digest::kBytes)).first<Digest::kBytes>());
    chunk.plain_bytes = GPUMIG_TRY(reader.U32());
    chunk.kind = static_cast<ChunkKind>(GPUMIG_TRY(reader.U8()));
    const std::uint8_t flags = GPUMIG_TRY(reader.U8());
    const std::uint16_t reserved = GPUMIG_TRY(reader.U16());
    if ((flags & ~kZeroFlag) != 0 || reserved != 0) {
      return MakeError(ErrorCode::kDamaged, "chunk {}: reserved bits are set", i);
    }
    chunk.zero = (flags & kZeroFlag) != 0;
    chunks.push_back(chunk);
  }
  return chunks;
}

Result<ManifestFile> ParseFile(ByteReader& reader) {
  ManifestFile file;
  file.name = GPUMIG_TRY(reader.Text(kMaxFileNameBytes), "file name");
  file.mode = GPUMIG_TRY(reader.U32(), "file mode");
  file.bytes = GPUMIG_TRY(reader.U64(), "file size");
  const std::uint32_t count = GPUMIG_TRY(reader.U32(), "chunks of a file");
  if (count > reader.remaining() / sizeof(std::uint32_t)) {
    return MakeError(ErrorCode::kDamaged, "a file of {} chunks in {} bytes", count, reader.remaining());
  }
  file.chunks.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) file.chunks.push_back(GPUMIG_TRY(reader.U32()));
  return file;
}

Result<std::vector<ManifestFile>> ParseFiles(std::span<const std::byte> section) {
  ByteReader reader(section);
  const std::uint32_t count = GPUMIG_TRY(reader.U32());
  if (count > kMaxFiles) return MakeError(ErrorCode::kDamaged, "{} files, the limit is {}", count, kMaxFiles);
  if (count > reader.remaining() / kMinFileEntryBytes) {
    return MakeError(ErrorCode::kDamaged, "{} files in {} bytes", count, reader.remaining());
  }
  std::vector<ManifestFile> files;
  files.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) files.push_back(GPUMIG_TRY(ParseFile(reader), "file {}", i));
  if (reader.remaining() != 0)
    return MakeError(ErrorCode::kDamaged, "{} bytes follow the last file", reader.remaining());
  return files;
}

struct Section {
  bool present = false;
  std::span<const std::byte> content;
};

struct Sections {
  Section facts;
  Section chunks;
  Section files;

  Section* Find(std::string_view tag) {
    if (tag == kFactsTag) return &facts;
    if (tag == kChunksTag) return &chunks;
    if (tag == kFilesTag) return &files;
    return nullptr;
  }
};

Result<void> ParseSection(ByteReader& reader, Sections& sections) {
  const std::span<const std::byte> tag_bytes = GPUMIG_TRY(reader.Bytes(kTagBytes), "section tag");
  const std::string tag(reinterpret_cast<const char*>(tag_bytes.data()), kTagBytes);
  if (!std::all_of(tag.begin(), tag.end(), [](char c) { return c >= 'A' && c <= 'Z'; })) {
    return MakeError(ErrorCode::kDamaged, "section tag {} is not four letters A-Z", ToHex(tag_bytes));
  }
  const std::uint32_t flags = GPUMIG_TRY(reader.U32(), "section {}", tag);
  if ((flags & ~kCriticalFlag) != 0) return MakeError(ErrorCode::kUnsupported, "section {}: unknown flags", tag);
  const std::uint64_t bytes = GPUMIG_TRY(reader.U64(), "section {}", tag);
  const std::span<const std::byte> content = GPUMIG_TRY(reader.Bytes(bytes), "section {}", tag);
  Section* known = sections.Find(tag);
  if (known == nullptr) {
    if ((flags & kCriticalFlag) == 0) return Ok();
    return MakeError(
        ErrorCode::kUnsupported,
        "section {} has to be understood to read this image, and this program (image format {}.{}) does not", tag,
        kImageMajor, kImageMinor);
  }
  if (known->present) return MakeError(ErrorCode::kDamaged, "section {} is there twice", tag);
  *known = {.present = true, .content = content};
  return Ok();
}

Result<Sections> ParseSections(std::span<const std::byte> body) {
  ByteReader reader(body);
  Sections sections;
  for (std::size_t count = 0; reader.remaining() != 0; ++count) {
    if (count == kMaxSections) return MakeError(ErrorCode::kDamaged, "more than {} sections", kMaxSections);
    GPUMIG_TRY(ParseSection(reader, sections));
  }
  for (const std::string_view tag : {kFactsTag, kChunksTag, kFilesTag}) {
    if (!sections.Find(tag)->present) return MakeError(ErrorCode::kDamaged, "section {} is missing", tag);
  }
  return sections;
}

Result<Manifest> ParseManifest(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxManifestBytes) {
    return MakeError(ErrorCode::kDamaged, "{} bytes, the limit is {}", bytes.size(), kMaxManifestBytes);
  }
  Manifest manifest;
  manifest.minor = GPUMIG_TRY(ParsePrefix(bytes));
  const Sections sections = GPUMIG_TRY(ParseSections(bytes.subspan(kManifestPrefixBytes)));
  manifest.chunks = GPUMIG_TRY(ParseChunks(sections.chunks.content), "section {}", kChunksTag);
  manifest.files = GPUMIG_TRY(ParseFiles(sections.files.content), "section {}", kFilesTag);
  const std::span<const std::byte> facts = sections.facts.content;
  if (facts.size() > kMaxFactsBytes) {
    return MakeError(ErrorCode::kDamaged, "section {}: {} bytes, the limit is {}", kFactsTag, facts.size(),
                     kMaxFactsBytes);
  }
  manifest.facts_json.assign(reinterpret_cast<const char*>(facts.data()), facts.size());
  GPUMIG_TRY(CheckManifest(manifest, ErrorCode::kDamaged));
  return manifest;
}

}  // namespace

std::string_view ChunkKindName(ChunkKind kind) {
  switch (kind) {
    case ChunkKind::kOther:
      return "other";
    case ChunkKind::kCriuFile:
      return "criu_file";
    case ChunkKind::kHostPages:
      return "host_pages";
    case ChunkKind::kDeviceBytes:
      return "device_bytes";
  }
  return "other";
}

Result<Manifest> Manifest::Parse(std::span<const std::byte> bytes) {
  return GPUMIG_TRY(ParseManifest(bytes), "manifest");
}

Result<std::vector<std::byte>> Manifest::Serialise() const {
  GPUMIG_TRY(CheckManifest(*this, ErrorCode::kInvalidArgument), "manifest");
  ByteWriter body;
  PutSection(body, kFactsTag, std::as_bytes(std::span(facts_json)));
  PutSection(body, kChunksTag, ChunksSection(chunks));
  PutSection(body, kFilesTag, FilesSection(files));
  const std::uint64_t total_bytes = kManifestPrefixBytes + body.bytes().size();
  if (total_bytes > kMaxManifestBytes) {
    return MakeError(ErrorCode::kInvalidArgument, "manifest of {} bytes, the limit is {}", total_bytes,
                     kMaxManifestBytes);
  }
  ByteWriter writer;
  writer.Bytes(std::as_bytes(std::span(kMagic)));
  writer.U16(kImageMajor);
  writer.U16(kImageMinor);
  writer.U32(0);
  writer.U64(total_bytes);
  writer.Bytes(Digest().bytes());
  writer.U64(0);
  writer.Bytes(body.bytes());
  std::vector<std::byte> bytes = writer.Take();
  const Digest digest = DigestOfAllBut(bytes);
  std::memcpy(bytes.data() + kDigestOffset, digest.bytes().data(), Digest::kBytes);
  return bytes;
}

bool IsValidFileName(std::string_view name) {
  if (name.empty() || name.size() > kMaxFileNameBytes || name == "." || name == "..") return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  });
}

}  // namespace gpumig
