// A disk that is full, at any point of a write, costs what was being written and nothing else.
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include "core/image/materialise.h"
#include "tests/core/image/image_fixture.h"
#include "tests/support/needs.h"

namespace gpumig {
namespace {

// disk() is a small file system of its own, in a mount namespace of its own.
class FullDiskTest : public ImageFixture {
 protected:
  void SetUp() override {
    GPUMIG_NEEDS_ROOT();
    ImageFixture::SetUp();
    ASSERT_TRUE(std::filesystem::create_directory(disk()));
    ASSERT_EQ(unshare(CLONE_NEWNS), 0) << strerror(errno);
    ASSERT_EQ(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0) << strerror(errno);
    for (int i = 0; i < 6; ++i) AddFile(fmt::format("pages-{}.img", i), Random(300000, static_cast<std::uint64_t>(i)));
  }
  void TearDown() override { Unmount(); }

  std::filesystem::path disk() const { return root() / "disk"; }

  void Mount(const std::string& options) {
    Unmount();
    ASSERT_EQ(mount("tmpfs", disk().c_str(), "tmpfs", 0, options.c_str()), 0) << strerror(errno);
    mounted_ = true;
  }
  void Unmount() {
    if (mounted_) umount2(disk().c_str(), MNT_DETACH);
    mounted_ = false;
  }

  static WriteOptions DurableOptions() {
    WriteOptions options = Options();
    options.compression = CompressionChoice::None();
    options.durability = StoreDurability::kOnSync;
    return options;
  }

  bool mounted_ = false;
};

TEST_F(FullDiskTest, AnImageThatDoesNotFitIsGoneAndTheErrorSaysWhatItTakes) {
  const std::filesystem::path image = disk() / "image";
  int failures = 0;
  bool fits = false;
  for (int kib = 4; !fits; kib += kib < 64 ? 20 : 200) {
    SCOPED_TRACE(fmt::format("{} KiB", kib));
    ASSERT_LT(kib, 8 << 10);
    Mount(fmt::format("size={}k", kib));
    const auto written = WriteImage(source(), image, DurableOptions());
    fits = written.has_value();
    if (fits) break;
    ++failures;
    ASSERT_THAT(written, FailsWith(ErrorCode::kNoSpace, "write image " + image.string()));
    EXPECT_THAT(written, FailsWith(ErrorCode::kNoSpace, "takes up to 1800000 bytes"));
    EXPECT_THAT(written, FailsWith(ErrorCode::kNoSpace, "No space left on device"));
    EXPECT_NE(written.error().next_step().find("free 1800000 bytes"), std::string::npos) << written.error().next_step();
    EXPECT_TRUE(std::filesystem::is_empty(disk()));
  }
  EXPECT_GE(failures, 8);
  EXPECT_TRUE(VerifyImage(image, VerifyDepth::kFull, Parallel())->ok());
}

// Every file and directory that is made, down to the last.
TEST_F(FullDiskTest, AnImageThatLacksInodesIsGoneToo) {
  const std::filesystem::path image = disk() / "image";
  int failures = 0;
  bool fits = false;
  for (int inodes = 1; !fits; ++inodes) {
    SCOPED_TRACE(fmt::format("{} inodes", inodes));
    ASSERT_LT(inodes, 64);
    Mount(fmt::format("size=64m,nr_inodes={}", inodes));
    const auto written = WriteImage(source(), image, DurableOptions());
    fits = written.has_value();
    if (fits) break;
    ++failures;
    ASSERT_THAT(written, FailsWith(ErrorCode::kNoSpace, "write image " + image.string()));
    EXPECT_TRUE(std::filesystem::is_empty(disk()));
  }
  EXPECT_GE(failures, 9);
}

TEST_F(FullDiskTest, FilesThatDoNotFitAreRefusedBeforeTheFirstByte) {
  ASSERT_THAT(WriteImage(source(), image(), DurableOptions()), IsOk());
  const auto opened = OpenImage(image());
  ASSERT_THAT(opened, IsOk());
  Mount("size=1m");
  const auto made = MaterialiseImage(opened->manifest, *opened->store, disk() / "files", Parallel());
  ASSERT_THAT(made, FailsWith(ErrorCode::kNoSpace, "its files take 1800000 bytes, and 1048576 are free"));
  EXPECT_NE(made.error().next_step().find("free 1800000 bytes for " + disk().string()), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_empty(disk()));
}

TEST_F(FullDiskTest, FilesForWhichInodesRunOutAreRemoved) {
  ASSERT_THAT(WriteImage(source(), image(), DurableOptions()), IsOk());
  const auto opened = OpenImage(image());
  ASSERT_THAT(opened, IsOk());
  for (int inodes = 1; inodes <= 7; ++inodes) {
    SCOPED_TRACE(inodes);
    Mount(fmt::format("size=64m,nr_inodes={}", inodes));
    EXPECT_THAT(MaterialiseImage(opened->manifest, *opened->store, disk() / "files", Parallel()),
                FailsWith(ErrorCode::kNoSpace, "No space left on device"));
    EXPECT_TRUE(std::filesystem::is_empty(disk()));
  }
}

}  // namespace
}  // namespace gpumig
