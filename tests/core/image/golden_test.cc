// The image checked in under tests/golden/image_v2 is what version 2 is. A change that breaks one of these breaks every
// image that people keep: it needs another version, and another golden image beside this one.
#include <cstdlib>
#include <fstream>

#include "core/image/materialise.h"
#include "tests/core/image/image_fixture.h"

namespace gpumig {
namespace {

class GoldenImageTest : public ImageFixture {
 protected:
  static std::filesystem::path golden() { return GPUMIG_GOLDEN_DIRECTORY "/image_v2"; }
  static std::string ExpectedDigest() {
    const auto text = ReadTextFile(GPUMIG_GOLDEN_DIRECTORY "/image_v2.digest");
    EXPECT_THAT(text, IsOk());
    return text ? text->substr(0, 2 * Digest::kBytes) : "";
  }

  // The files that the golden image was written of. No random numbers of the library's: they may differ elsewhere.
  void AddGoldenFiles() {
    Bytes counted(600);
    for (std::size_t i = 0; i < counted.size(); ++i) counted[i] = static_cast<std::byte>(i * i * 7 + i / 16);
    AddFile("core-1.img", Repeated("gpumig golden ", 100));
    AddFile("device-0.bin", Repeated("weights ", 200));
    AddFile("empty.img", {});
    AddFile("pages-1.img", Zeros(5000));
    AddFile("pages-2.img", counted);
    AddFile("twin.img", Repeated("gpumig golden ", 100));
    for (const auto& entry : std::filesystem::directory_iterator(source())) {
      std::filesystem::permissions(entry.path(), std::filesystem::perms(0644));
    }
    std::filesystem::permissions(source() / "empty.img", std::filesystem::perms(0600));
  }
  static Bytes Repeated(std::string_view text, int times) {
    Bytes bytes;
    for (int i = 0; i < times; ++i) {
      for (const char c : text) bytes.push_back(static_cast<std::byte>(c));
    }
    return bytes;
  }
  // GPUMIG_REMAKE_GOLDEN=DIR puts what is written now there, for whoever changes the format: docs/image_format.md.
  void CopyWhereAsked(const Digest& image_digest) const {
    const char* directory = std::getenv("GPUMIG_REMAKE_GOLDEN");
    if (directory == nullptr) return;
    const std::string name = golden().filename();
    std::filesystem::copy(image(), std::filesystem::path(directory) / name, std::filesystem::copy_options::recursive);
    std::ofstream(std::filesystem::path(directory) / (name + ".digest")) << image_digest.ToHex() << '\n';
  }
  static WriteOptions GoldenOptions() {
    WriteOptions options = Options();
    options.source.facts_json = R"({"name":"golden","epoch":1})";
    options.source.kind_of_file = [](std::string_view name) {
      return name.starts_with("device-") ? ChunkKind::kDeviceBytes : KindOfCriuFile(name);
    };
    return options;
  }
};

TEST_F(GoldenImageTest, IsWrittenAgainToTheByte) {
  AddGoldenFiles();
  const auto summary = WriteImage(source(), image(), GoldenOptions());
  ASSERT_THAT(summary, IsOk());
  CopyWhereAsked(summary->image_digest);
  EXPECT_EQ(summary->image_digest.ToHex(), ExpectedDigest());
  std::map<std::string, Bytes> written = ReadTree(image());
  const std::map<std::string, Bytes> expected = ReadTree(golden());
  ASSERT_EQ(written.size(), expected.size());
  for (const auto& [name, bytes] : expected) {
    SCOPED_TRACE(name);
    ASSERT_TRUE(written.contains(name));
    // What another version of zstd makes of a chunk may differ; what it holds may not, and that is its name.
    const bool is_zstd = name != kManifestName && ParseChunkHeader(bytes)->codec == ChunkCodec::kZstd;
    if (!is_zstd) {
      EXPECT_EQ(written[name], bytes);
      continue;
    }
    EXPECT_EQ(ParseChunkHeader(written[name])->plain_bytes, ParseChunkHeader(bytes)->plain_bytes);
  }
}

TEST_F(GoldenImageTest, IsReadAsItWasWritten) {
  AddGoldenFiles();
  const auto opened = OpenImage(golden());
  ASSERT_THAT(opened, IsOk());
  EXPECT_EQ(opened->image_digest.ToHex(), ExpectedDigest());
  EXPECT_EQ(opened->manifest.facts_json, GoldenOptions().source.facts_json);
  ASSERT_THAT(MaterialiseImage(opened->manifest, *opened->store, target(), Parallel()), IsOk());
  EXPECT_EQ(ReadTree(target()), ReadTree(source()));
  const auto report = VerifyImage(golden(), VerifyDepth::kFull, Parallel());
  ASSERT_THAT(report, IsOk());
  EXPECT_TRUE(report->ok());
}

TEST_F(GoldenImageTest, HoldsOneOfEverything) {
  const auto described = InspectImage(golden());
  ASSERT_THAT(described, IsOk());
  EXPECT_GT(described->summary.total.zero_bytes, 0u);
  EXPECT_GT(described->summary.of(ChunkKind::kDeviceBytes).chunks, 0u);
  EXPECT_GT(described->summary.of(ChunkKind::kHostPages).chunks, 0u);
  std::map<ChunkCodec, int> codecs;
  for (const auto& [name, bytes] : ReadTree(golden() / kChunksName)) ++codecs[ParseChunkHeader(bytes)->codec];
  EXPECT_EQ(codecs.size(), 2u);
}

}  // namespace
}  // namespace gpumig
