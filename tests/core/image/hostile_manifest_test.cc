// Manifests that were damaged, are newer than we are, or were made to lead us astray.
#include "tests/core/image/manifest_fixture.h"

namespace gpumig {
namespace {

const ManifestChunk kChunk = {
    .digest = Digest::Of(Random(10, 1)), .plain_bytes = 10, .kind = ChunkKind::kCriuFile, .zero = false};

Bytes Facts() { return Section("FACT", 1, std::as_bytes(std::span(std::string_view("{}")))); }

Bytes Chunks(std::uint32_t count, const std::vector<ManifestChunk>& chunks, std::uint8_t more_flags = 0,
             std::uint16_t reserved = 0) {
  ByteWriter writer;
  writer.U32(count);
  for (const ManifestChunk& chunk : chunks) {
    writer.Bytes(chunk.digest.bytes());
    writer.U32(chunk.plain_bytes);
    writer.U8(static_cast<std::uint8_t>(chunk.kind));
    writer.U8(static_cast<std::uint8_t>((chunk.zero ? 1 : 0) | more_flags));
    writer.U16(reserved);
  }
  return Section("CHNK", 1, writer.bytes());
}
Bytes Chunks(const std::vector<ManifestChunk>& chunks) {
  return Chunks(static_cast<std::uint32_t>(chunks.size()), chunks);
}

Bytes Files(std::uint32_t count, const std::vector<ManifestFile>& files) {
  ByteWriter writer;
  writer.U32(count);
  for (const ManifestFile& file : files) {
    writer.Text(file.name);
    writer.U32(file.mode);
    writer.U64(file.bytes);
    writer.U32(static_cast<std::uint32_t>(file.chunks.size()));
    for (const std::uint32_t index : file.chunks) writer.U32(index);
  }
  return Section("FILE", 1, writer.bytes());
}
Bytes Files(const std::vector<ManifestFile>& files) { return Files(static_cast<std::uint32_t>(files.size()), files); }

ManifestFile File(std::string name, std::vector<std::uint32_t> chunks = {0}) {
  const std::uint64_t bytes = 10 * chunks.size();
  return {.name = std::move(name), .mode = 0600, .bytes = bytes, .chunks = std::move(chunks)};
}

Result<Manifest> Parse(std::initializer_list<Bytes> sections) { return Manifest::Parse(ManifestOf(sections)); }

TEST(HostileManifestTest, TheseTestsMakeGoodManifestsToo) {
  EXPECT_THAT(Parse({Facts(), Chunks({kChunk}), Files({File("a")})}), IsOk());
  EXPECT_THAT(Parse({Files({File("a")}), Facts(), Chunks({kChunk})}), IsOk());
}

TEST(HostileManifestTest, RefusesEveryTruncation) {
  const Bytes bytes = *SampleManifest().Serialise();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_THAT(Manifest::Parse(std::span(bytes).first(size)), FailsWith(ErrorCode::kDamaged, "manifest")) << size;
  }
}

TEST(HostileManifestTest, RefusesEveryTruncationThatWasSealedAgain) {
  const Bytes bytes = *SampleManifest().Serialise();
  for (std::size_t size = kManifestPrefixBytes; size < bytes.size(); ++size) {
    const Bytes cut = Reseal(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)));
    ASSERT_THAT(Manifest::Parse(cut), FailsWith(ErrorCode::kDamaged, "manifest")) << size;
  }
}

TEST(HostileManifestTest, RefusesEveryFlippedBit) {
  Bytes bytes = *SampleManifest().Serialise();
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    const std::byte mask = std::byte{1} << (bit % 8);
    bytes[bit / 8] ^= mask;
    const auto parsed = Manifest::Parse(bytes);
    ASSERT_FALSE(parsed.has_value()) << "bit " << bit;
    const bool in_major = bit / 8 == kMajorOffset || bit / 8 == kMajorOffset + 1;
    ASSERT_EQ(parsed.error().code(), in_major ? ErrorCode::kUnsupported : ErrorCode::kDamaged) << "bit " << bit;
    bytes[bit / 8] ^= mask;
  }
}

// With the digest made to fit again, a flip may give another valid manifest, but never a crash or an untyped error.
TEST(HostileManifestTest, SurvivesEveryFlippedBitThatWasSealedAgain) {
  const Bytes bytes = *SampleManifest().Serialise();
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    Bytes flipped = bytes;
    flipped[bit / 8] ^= std::byte{1} << (bit % 8);
    const auto parsed = Manifest::Parse(Reseal(flipped));
    if (parsed) {
      EXPECT_THAT(parsed->Serialise(), IsOk()) << "bit " << bit;
    } else {
      const ErrorCode code = parsed.error().code();
      EXPECT_TRUE(code == ErrorCode::kDamaged || code == ErrorCode::kUnsupported) << "bit " << bit;
    }
  }
}

TEST(HostileManifestTest, RefusesBytesAfterTheEnd) {
  EXPECT_THAT(Manifest::Parse(Concat({*SampleManifest().Serialise(), Zeros(1)})),
              FailsWith(ErrorCode::kDamaged, "says"));
}

TEST(HostileManifestTest, NamesBothVersionsOfANewerImage) {
  Bytes bytes = *SampleManifest().Serialise();
  bytes[kMajorOffset] = std::byte{3};
  bytes[kMinorOffset] = std::byte{5};
  EXPECT_THAT(Manifest::Parse(Reseal(bytes)),
              FailsWith(ErrorCode::kUnsupported, "image has format version 3.5, this program reads 2.x"));
  // Nothing behind the version is looked at: what a newer format has there is not ours to judge.
  EXPECT_THAT(Manifest::Parse(std::span(bytes).first(12)), FailsWith(ErrorCode::kUnsupported, "3.5"));
}

// Format 1 named chunks by their SHA-256.
TEST(HostileManifestTest, RefusesFormatOneByItsNumberAndSaysWhatToDo) {
  Bytes bytes = *SampleManifest().Serialise();
  bytes[kMajorOffset] = std::byte{1};
  const auto parsed = Manifest::Parse(bytes);
  ASSERT_THAT(parsed, FailsWith(ErrorCode::kUnsupported, "image has format version 1.0, this program reads 2.x"));
  EXPECT_THAT(parsed.error().next_step(), testing::HasSubstr("restore it with the gpumig that wrote it"));
}

TEST(HostileManifestTest, RefusesReservedBitsOfThePrefix) {
  for (const std::size_t offset : {kFlagsOffset, kReservedOffset}) {
    Bytes bytes = *SampleManifest().Serialise();
    bytes[offset] = std::byte{1};
    EXPECT_THAT(Manifest::Parse(Reseal(bytes)), FailsWith(ErrorCode::kUnsupported, "reserved"));
  }
}

TEST(HostileManifestTest, NamesTheCriticalSectionThatItDoesNotKnow) {
  const Bytes bytes = *SampleManifest().Serialise();
  EXPECT_THAT(Manifest::Parse(Reseal(Concat({bytes, Section("SEAL", 1, Zeros(3))}))),
              FailsWith(ErrorCode::kUnsupported, "section SEAL has to be understood"));
  EXPECT_THAT(Manifest::Parse(Reseal(Concat({bytes, Section("NEWS", 2, Zeros(3))}))),
              FailsWith(ErrorCode::kUnsupported, "section NEWS: unknown flags"));
}

TEST(HostileManifestTest, RefusesSectionsThatAreMissingTwiceThereOrMisnamed) {
  EXPECT_THAT(Parse({Chunks({}), Files(std::vector<ManifestFile>{})}),
              FailsWith(ErrorCode::kDamaged, "FACT is missing"));
  EXPECT_THAT(Parse({Facts(), Files(std::vector<ManifestFile>{})}), FailsWith(ErrorCode::kDamaged, "CHNK is missing"));
  EXPECT_THAT(Parse({Facts(), Chunks({})}), FailsWith(ErrorCode::kDamaged, "FILE is missing"));
  EXPECT_THAT(Parse({Facts(), Facts(), Chunks({})}), FailsWith(ErrorCode::kDamaged, "FACT is there twice"));
  EXPECT_THAT(Parse({Section("a/..", 0, {})}), FailsWith(ErrorCode::kDamaged, "not four letters"));
}

TEST(HostileManifestTest, RefusesLengthsThatReachPastTheEnd) {
  for (const std::uint64_t length : {std::uint64_t{100}, std::uint64_t{1} << 32, UINT64_MAX, UINT64_MAX - 15}) {
    ByteWriter section;
    section.Bytes(std::as_bytes(std::span(std::string_view("FACT"))));
    section.U32(1);
    section.U64(length);
    EXPECT_THAT(Parse({section.bytes()}), FailsWith(ErrorCode::kDamaged, "bytes early")) << length;
  }
}

TEST(HostileManifestTest, RefusesMoreSectionsThanItsLimit) {
  Bytes bytes = *SampleManifest().Serialise();
  for (int i = 0; i < 61; ++i) bytes = Concat({bytes, Section("NEWS", 0, {})});
  EXPECT_THAT(Manifest::Parse(Reseal(bytes)), IsOk());
  EXPECT_THAT(Manifest::Parse(Reseal(Concat({bytes, Section("NEWS", 0, {})}))),
              FailsWith(ErrorCode::kDamaged, "more than 64 sections"));
}

TEST(HostileManifestTest, RefusesCountsThatTheBytesDoNotBear) {
  for (const std::uint32_t count : {0u, 2u, 1000000u, UINT32_MAX}) {
    EXPECT_THAT(Parse({Facts(), Chunks(count, {kChunk}), Files({File("a")})}), FailsWith(ErrorCode::kDamaged, "CHNK"));
    EXPECT_THAT(Parse({Facts(), Chunks({kChunk}), Files(count, {File("a")})}), FailsWith(ErrorCode::kDamaged, "FILE"));
  }
  ByteWriter files;
  files.U32(1);
  files.Text("a");
  files.U32(0600);
  files.U64(10);
  files.U32(UINT32_MAX);
  EXPECT_THAT(Parse({Facts(), Chunks({kChunk}), Section("FILE", 1, files.bytes())}),
              FailsWith(ErrorCode::kDamaged, "a file of 4294967295 chunks in 0 bytes"));
}

TEST(HostileManifestTest, RefusesFactsBeyondTheirLimit) {
  EXPECT_THAT(Parse({Section("FACT", 1, Zeros(kMaxFactsBytes + 1)), Chunks({}), Files(std::vector<ManifestFile>{})}),
              FailsWith(ErrorCode::kDamaged, "the limit is 16777216"));
}

TEST(HostileManifestTest, RefusesNamesThatAreNotOnePlainComponent) {
  for (const std::string& name : UnfitNames()) {
    EXPECT_THAT(Parse({Facts(), Chunks({kChunk}), Files({File(name)})}), FailsWith(ErrorCode::kDamaged, "")) << name;
  }
}

TEST(HostileManifestTest, RefusesNamesThatAreUnsortedOrThereTwice) {
  EXPECT_THAT(Parse({Facts(), Chunks({kChunk}), Files({File("b"), File("a")})}),
              FailsWith(ErrorCode::kDamaged, "file a after b"));
  EXPECT_THAT(Parse({Facts(), Chunks({kChunk}), Files({File("a"), File("a")})}),
              FailsWith(ErrorCode::kDamaged, "not unique"));
}

TEST(HostileManifestTest, RefusesModesThatGrantMoreThanAccess) {
  ManifestFile file = File("a");
  file.mode = 04755;
  EXPECT_THAT(Parse({Facts(), Chunks({kChunk}), Files({file})}), FailsWith(ErrorCode::kDamaged, "mode 4755"));
}

TEST(HostileManifestTest, RefusesFilesThatDoNotAddUp) {
  EXPECT_THAT(Parse({Facts(), Chunks({kChunk}), Files({File("a", {0, 1})})}),
              FailsWith(ErrorCode::kDamaged, "chunk index 1, and the table has 1"));
  ManifestFile file = File("a");
  file.bytes = 11;
  EXPECT_THAT(Parse({Facts(), Chunks({kChunk}), Files({file})}),
              FailsWith(ErrorCode::kDamaged, "has 11 bytes, its chunks 10"));
  file.bytes = UINT64_MAX;
  EXPECT_THAT(Parse({Facts(), Chunks({kChunk}), Files({file})}), FailsWith(ErrorCode::kDamaged, "its chunks 10"));
  EXPECT_THAT(Parse({Facts(), Chunks({kChunk, kChunk}), Files({File("a")})}),
              FailsWith(ErrorCode::kDamaged, "chunk 1 belongs to no file"));
}

TEST(HostileManifestTest, RefusesChunksThatCannotBe) {
  const auto parse_with = [](ManifestChunk chunk) { return Parse({Facts(), Chunks({chunk}), Files({File("a")})}); };
  ManifestChunk chunk = kChunk;
  chunk.plain_bytes = 0;
  EXPECT_THAT(parse_with(chunk), FailsWith(ErrorCode::kDamaged, "plain size 0 is not within"));
  chunk.plain_bytes = kMaxChunkBytes + 1;
  EXPECT_THAT(parse_with(chunk), FailsWith(ErrorCode::kDamaged, "plain size 4194305 is not within"));
  chunk = kChunk;
  chunk.kind = static_cast<ChunkKind>(4);
  EXPECT_THAT(parse_with(chunk), FailsWith(ErrorCode::kDamaged, "unknown kind 4"));
  chunk = kChunk;
  chunk.zero = true;
  EXPECT_THAT(parse_with(chunk), FailsWith(ErrorCode::kDamaged, "and not both"));
  chunk.zero = false;
  chunk.digest = Digest();
  EXPECT_THAT(parse_with(chunk), FailsWith(ErrorCode::kDamaged, "and not both"));
  EXPECT_THAT(Parse({Facts(), Chunks(1, {kChunk}, 2), Files({File("a")})}),
              FailsWith(ErrorCode::kDamaged, "reserved bits"));
  EXPECT_THAT(Parse({Facts(), Chunks(1, {kChunk}, 0, 1), Files({File("a")})}),
              FailsWith(ErrorCode::kDamaged, "reserved bits"));
}

TEST(HostileManifestTest, DoesNotWriteWhatItWouldNotRead) {
  Manifest manifest = SampleManifest();
  manifest.files[0].name = "../core";
  EXPECT_THAT(manifest.Serialise(), FailsWith(ErrorCode::kInvalidArgument, "file name"));
  manifest = SampleManifest();
  manifest.files[0].bytes = 11;
  EXPECT_THAT(manifest.Serialise(), FailsWith(ErrorCode::kInvalidArgument, "its chunks 10"));
  manifest = SampleManifest();
  manifest.facts_json.assign(kMaxFactsBytes + 1, 'x');
  EXPECT_THAT(manifest.Serialise(), FailsWith(ErrorCode::kInvalidArgument, "the limit is"));
}

}  // namespace
}  // namespace gpumig
