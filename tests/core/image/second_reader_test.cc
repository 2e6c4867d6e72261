// docs/image_format.md says enough: a reader that was written from it alone gets the same out of our images as we do.
#include <set>

#include "core/base/child_process.h"
#include "core/base/json.h"
#include "tests/core/image/image_fixture.h"
#include "tests/support/needs.h"

namespace gpumig {
namespace {

class SecondReaderTest : public ImageFixture {
 protected:
  void SetUp() override {
    GPUMIG_NEEDS("python3", CanRun("python3"), "needs python3");
    GPUMIG_NEEDS("zstd", CanRun("zstd"), "needs the zstd program");
    GPUMIG_NEEDS("b3sum", CanRun("b3sum"), "needs the b3sum program");
    ImageFixture::SetUp();
  }
  static bool CanRun(const std::string& program) {
    const auto run = RunCommand({program, "--version"}, std::chrono::seconds(20));
    return run && run->status.ok();
  }
  static CommandOutput Read(const std::filesystem::path& image) {
    auto run = RunCommand({"python3", GPUMIG_READ_IMAGE, image.string()}, std::chrono::seconds(60));
    EXPECT_THAT(run, IsOk());
    return run ? *run : CommandOutput();
  }
  // The files of `directory`, as the reader prints them.
  static Json Listing(const std::filesystem::path& directory) {
    Json files = Json::object();
    for (const auto& [name, bytes] : ReadTree(directory)) {
      files[name] = {{"blake3", Digest::Of(bytes).ToHex()}, {"bytes", bytes.size()}};
    }
    return files;
  }
};

TEST_F(SecondReaderTest, ReadsTheGoldenImage) {
  const CommandOutput output = Read(GPUMIG_GOLDEN_DIRECTORY "/image_v2");
  ASSERT_TRUE(output.status.ok()) << output.standard_error;
  const auto read = ParseJson(output.standard_output);
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->at("image_digest").get<std::string>() + "\n",
            *ReadTextFile(GPUMIG_GOLDEN_DIRECTORY "/image_v2.digest"));
  EXPECT_EQ(read->at("files").size(), 6u);
}

TEST_F(SecondReaderTest, ReadsWhatWeWrite) {
  AddSampleFiles();
  const auto summary = WriteImage(source(), image(), Options());
  ASSERT_THAT(summary, IsOk());
  const CommandOutput output = Read(image());
  ASSERT_TRUE(output.status.ok()) << output.standard_error;
  const auto read = ParseJson(output.standard_output);
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->at("image_digest"), summary->image_digest.ToHex());
  EXPECT_EQ(read->at("facts"), *ParseJson(Options().source.facts_json));
  EXPECT_EQ(read->at("files"), Listing(source()));
}

TEST_F(SecondReaderTest, ReadsEveryCodec) {
  AddSampleFiles();
  AddFile("device-0.bin", Bf16(300001, 1));
  AddFile("device-1.bin", Fp32(300003, 2));
  WriteOptions options = Options();
  options.compression = CompressionChoice::Auto();
  options.most_bytes_per_second = 1e6;  // a disk that leaves time for every codec
  ASSERT_THAT(WriteImage(source(), image(), options), IsOk());
  std::set<ChunkCodec> codecs;
  for (const auto& [name, bytes] : ReadTree(image() / kChunksName)) codecs.insert(ParseChunkHeader(bytes)->codec);
  EXPECT_EQ(codecs, (std::set{ChunkCodec::kRaw, ChunkCodec::kZstd, ChunkCodec::kPlanes2, ChunkCodec::kPlanes4}));
  const CommandOutput output = Read(image());
  ASSERT_TRUE(output.status.ok()) << output.standard_error;
  EXPECT_EQ(ParseJson(output.standard_output)->at("files"), Listing(source()));
}

TEST_F(SecondReaderTest, RefusesWhatWeRefuse) {
  AddFile("core-1.img", Repetitive(3000, 1));
  ASSERT_THAT(WriteImage(source(), image(), Options()), IsOk());
  Bytes manifest = ReadBytes(image() / kManifestName);
  manifest.back() ^= std::byte{1};
  WriteBytes(image() / kManifestName, manifest);
  EXPECT_FALSE(Read(image()).status.ok());
  manifest.back() ^= std::byte{1};
  WriteBytes(image() / kManifestName, manifest);
  ASSERT_TRUE(Read(image()).status.ok());
  std::filesystem::remove_all(image() / kChunksName);
  EXPECT_FALSE(Read(image()).status.ok());
}

}  // namespace
}  // namespace gpumig
