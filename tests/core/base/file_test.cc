#include "core/base/file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "tests/support/matchers.h"

namespace gpumig {
namespace {

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    auto directory = TemporaryDirectory::Create(testing::TempDir(), "file-test");
    ASSERT_THAT(directory, IsOk());
    directory_.emplace(std::move(*directory));
  }

  std::optional<TemporaryDirectory> directory_;
};

TEST_F(FileTest, DurableWriteReplacesAndKeepsItPrivate) {
  const auto path = directory_->path() / "file";
  ASSERT_THAT(WriteFileDurably(path, "one"), IsOk());
  ASSERT_THAT(WriteFileDurably(path, "two"), IsOk());
  EXPECT_EQ(*ReadTextFile(path), "two");
  struct stat status{};
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0600u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_->path()), {}), 1);
}

TEST_F(FileTest, RefusesAFileAboveTheLimit) {
  const auto path = directory_->path() / "file";
  ASSERT_THAT(WriteFileDurably(path, "0123456789"), IsOk());
  EXPECT_THAT(ReadTextFile(path, 9), FailsWith(ErrorCode::kInvalidArgument, "limit of 9 bytes"));
}

TEST_F(FileTest, ReadsProcFilesWhoseSizeSaysZero) {
  const auto status = ReadTextFile("/proc/self/status");
  ASSERT_THAT(status, IsOk());
  EXPECT_NE(status->find("Pid:"), std::string::npos);
}

TEST_F(FileTest, AShortFileIsDamaged) {
  const auto path = directory_->path() / "file";
  ASSERT_THAT(WriteFileDurably(path, "0123456789"), IsOk());
  const auto fd = OpenFile(path, O_RDONLY);
  ASSERT_THAT(fd, IsOk());
  std::array<std::byte, 8> bytes;
  EXPECT_THAT(ReadExactlyAt(fd->get(), bytes, 2), IsOk());
  EXPECT_THAT(ReadExactlyAt(fd->get(), bytes, 3), FailsWith(ErrorCode::kDamaged, "1 bytes early"));
}

TEST_F(FileTest, TemporaryDirectoryGoesWithItsOwner) {
  std::filesystem::path path;
  {
    auto inner = TemporaryDirectory::Create(directory_->path(), "inner");
    ASSERT_THAT(inner, IsOk());
    path = inner->path();
    ASSERT_THAT(WriteFileDurably(path / "file", "x"), IsOk());
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace gpumig
