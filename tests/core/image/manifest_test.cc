#include "core/image/manifest.h"

#include "tests/core/image/manifest_fixture.h"

namespace gpumig {
namespace {

TEST(ManifestTest, GivesBackWhatWasSerialised) {
  const Manifest manifest = SampleManifest();
  const auto bytes = manifest.Serialise();
  ASSERT_THAT(bytes, IsOk());
  const auto parsed = Manifest::Parse(*bytes);
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(*parsed, manifest);
  EXPECT_EQ(*parsed->Serialise(), *bytes);
}

TEST(ManifestTest, AnEmptyOneIsValid) {
  const auto bytes = Manifest().Serialise();
  ASSERT_THAT(bytes, IsOk());
  EXPECT_EQ(*Manifest::Parse(*bytes), Manifest());
}

TEST(ManifestTest, ReadsANewerMinorVersionAndIgnoresItsPlainSections) {
  Bytes bytes = Concat({*SampleManifest().Serialise(), Section("NEWS", 0, Random(100, 1))});
  bytes[kMinorOffset] = std::byte{3};
  const auto parsed = Manifest::Parse(Reseal(bytes));
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->minor, 3);
  EXPECT_EQ(parsed->files, SampleManifest().files);
}

TEST(ManifestTest, CarriesFactsOfUpToItsLimit) {
  Manifest manifest;
  manifest.facts_json.assign(kMaxFactsBytes, 'x');
  const auto bytes = manifest.Serialise();
  ASSERT_THAT(bytes, IsOk());
  EXPECT_EQ(Manifest::Parse(*bytes)->facts_json, manifest.facts_json);
}

TEST(ManifestTest, KnowsWhatAFileMayBeCalled) {
  EXPECT_TRUE(IsValidFileName("pages-1.img"));
  EXPECT_TRUE(IsValidFileName("..."));
  EXPECT_TRUE(IsValidFileName(".hidden"));
  EXPECT_TRUE(IsValidFileName(std::string(255, 'a')));
  for (const std::string& name : UnfitNames()) EXPECT_FALSE(IsValidFileName(name)) << name;
}

}  // namespace
}  // namespace gpumig
