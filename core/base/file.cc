#include "core/base/file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

namespace gpumig {
namespace {

std::span<const std::byte> AsBytes(std::string_view text) { return std::as_bytes(std::span(text)); }

template <typename Container>
Result<Container> ReadToEnd(const std::filesystem::path& path, std::size_t limit_bytes) {
  const UniqueFd fd = GPUMIG_TRY(OpenFile(path, O_RDONLY));
  Container content;
  std::array<char, 65536> buffer;
  while (true) {
    const ssize_t count = read(fd.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error::FromErrno(errno, fmt::format("read {}", path.string()));
    if (count == 0) return content;
    const auto size = static_cast<std::size_t>(count);
    if (content.size() + size > limit_bytes) {
      return MakeError(ErrorCode::kInvalidArgument, "read {}: holds more than the limit of {} bytes", path.string(),
                       limit_bytes);
    }
    const auto* first = reinterpret_cast<const typename Container::value_type*>(buffer.data());
    content.insert(content.end(), first, first + size);
  }
}

}  // namespace

Result<UniqueFd> OpenFile(const std::filesystem::path& path, int flags, unsigned mode) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC, mode);
  if (fd < 0) return Error::FromErrno(errno, fmt::format("open {}", path.string()));
  return UniqueFd(fd);
}

Result<void> WriteAll(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error::FromErrno(errno, fmt::format("write {} bytes", bytes.size()));
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return Ok();
}

Result<void> WriteAll(int fd, std::string_view text) { return WriteAll(fd, AsBytes(text)); }

Result<void> WriteAllAt(int fd, std::span<const std::byte> bytes, std::size_t offset) {
  while (!bytes.empty()) {
    const ssize_t count = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error::FromErrno(errno, fmt::format("write {} bytes at {}", bytes.size(), offset));
    offset += static_cast<std::size_t>(count);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return Ok();
}

Result<void> ReadExactlyAt(int fd, std::span<std::byte> bytes, std::size_t offset) {
  while (!bytes.empty()) {
    const ssize_t count = pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error::FromErrno(errno, fmt::format("read {} bytes at {}", bytes.size(), offset));
    if (count == 0) {
      return MakeError(ErrorCode::kDamaged, "file ends at {}, {} bytes early", offset, bytes.size());
    }
    offset += static_cast<std::size_t>(count);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return Ok();
}

Result<std::string> ReadTextFile(const std::filesystem::path& path, std::size_t limit_bytes) {
  return ReadToEnd<std::string>(path, limit_bytes);
}

Result<std::vector<std::byte>> ReadBinaryFile(const std::filesystem::path& path, std::size_t limit_bytes) {
  return ReadToEnd<std::vector<std::byte>>(path, limit_bytes);
}

Result<void> WriteControlFile(const std::filesystem::path& path, std::string_view text) {
  const UniqueFd fd = GPUMIG_TRY(OpenFile(path, O_WRONLY));
  if (write(fd.get(), text.data(), text.size()) < 0) {
    return Error::FromErrno(errno, fmt::format("write '{}' to {}", text, path.string()));
  }
  return Ok();
}

Result<void> WriteFileDurably(const std::filesystem::path& path, std::string_view text, unsigned mode) {
  const std::filesystem::path temporary = path.string() + ".tmp";
  UniqueFd fd = GPUMIG_TRY(OpenFile(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode));
  auto write_and_rename = [&]() -> Result<void> {
    GPUMIG_TRY(WriteAll(fd.get(), text));
    if (fsync(fd.get()) != 0) return Error::FromErrno(errno, "fsync");
    GPUMIG_TRY(fd.Close());
    if (rename(temporary.c_str(), path.c_str()) != 0) return Error::FromErrno(errno, "rename");
    return SyncDirectory(path.parent_path().empty() ? std::filesystem::path(".") : path.parent_path());
  };
  Result<void> written = write_and_rename();
  if (!written) {
    unlink(temporary.c_str());
    return written.error().AddContext(fmt::format("write {}", path.string()));
  }
  return Ok();
}

bool IsInMemory(const std::filesystem::path& directory) {
  struct statfs status{};
  return statfs(directory.c_str(), &status) == 0 && (status.f_type == TMPFS_MAGIC || status.f_type == RAMFS_MAGIC);
}

Result<void> SyncDirectory(const std::filesystem::path& directory) {
  const UniqueFd fd = GPUMIG_TRY(OpenFile(directory, O_RDONLY | O_DIRECTORY));
  if (fsync(fd.get()) != 0) return Error::FromErrno(errno, fmt::format("fsync {}", directory.string()));
  return Ok();
}

Result<void> MakeDirectories(const std::filesystem::path& directory, unsigned mode) {
  std::filesystem::path so_far;
  for (const auto& part : directory) {
    so_far /= part;
    if (mkdir(so_far.c_str(), mode) != 0 && errno != EEXIST) {
      return Error::FromErrno(errno, fmt::format("mkdir {}", so_far.string()));
    }
  }
  return Ok();
}

Result<TemporaryDirectory> TemporaryDirectory::Create(const std::filesystem::path& parent, std::string_view prefix) {
  GPUMIG_TRY(MakeDirectories(parent));
  std::string pattern = (parent / fmt::format("{}-XXXXXX", prefix)).string();
  if (mkdtemp(pattern.data()) == nullptr) return Error::FromErrno(errno, fmt::format("mkdtemp {}", pattern));
  return TemporaryDirectory(std::filesystem::path(pattern));
}

TemporaryDirectory& TemporaryDirectory::operator=(TemporaryDirectory&& other) noexcept {
  if (this != &other) {
    Remove();
    path_ = std::exchange(other.path_, {});
  }
  return *this;
}

void TemporaryDirectory::Remove() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

}  // namespace gpumig
