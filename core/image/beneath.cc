#include "core/image/beneath.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

namespace gpumig {

Result<UniqueFd> OpenBeneath(int directory, std::string_view name, int flags, unsigned mode) {
  const std::string path(name);
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC);
  if ((flags & (O_PATH | O_ACCMODE)) == O_RDONLY) how.flags |= O_NONBLOCK;
  if ((flags & O_CREAT) != 0) how.mode = mode;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  while (true) {
    const long fd = syscall(SYS_openat2, directory, path.c_str(), &how, sizeof(how));
    if (fd >= 0) return UniqueFd(static_cast<int>(fd));
    if (errno == EINTR) continue;
    if (errno == ELOOP || errno == EXDEV) {
      return MakeError(ErrorCode::kInvalidArgument, "open {}: leads through a symbolic link or out of its directory",
                       name);
    }
    if (errno == ENOSYS) {
      return MakeError(ErrorCode::kUnsupported,
                       "open {}: this kernel has no openat2; Linux 5.6 is the oldest that does", name);
    }
    return Error::FromErrno(errno, fmt::format("open {}", name));
  }
}

Result<OpenedFile> OpenRegularBeneath(int directory, std::string_view name) {
  OpenedFile file;
  file.fd = GPUMIG_TRY(OpenBeneath(directory, name, O_RDONLY));
  struct stat status{};
  if (fstat(file.fd.get(), &status) != 0) return Error::FromErrno(errno, fmt::format("stat {}", name));
  if (!S_ISREG(status.st_mode)) return MakeError(ErrorCode::kDamaged, "{} is not a regular file", name);
  file.bytes = static_cast<std::uint64_t>(status.st_size);
  file.mode = status.st_mode & 07777;
  return file;
}

Result<std::vector<std::string>> ListDirectory(int directory) {
  // A description of its own: reading moves its offset.
  UniqueFd fd = GPUMIG_TRY(OpenBeneath(directory, ".", O_RDONLY | O_DIRECTORY));
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(fdopendir(fd.get()), &closedir);
  if (stream == nullptr) return Error::FromErrno(errno, "fdopendir");
  fd.Release();  // closedir() closes it
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    const dirent* entry = readdir(stream.get());
    if (entry == nullptr && errno != 0) return Error::FromErrno(errno, "readdir");
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

Result<std::optional<std::uint64_t>> FreeBytes(int fd) {
  struct statvfs status{};
  if (fstatvfs(fd, &status) != 0) return Error::FromErrno(errno, "statvfs");
  if (status.f_blocks == 0) return std::optional<std::uint64_t>();
  return std::optional<std::uint64_t>(static_cast<std::uint64_t>(status.f_bavail) * status.f_frsize);
}

Result<void> SyncFd(int fd, std::string_view what) {
  if (fsync(fd) != 0) return Error::FromErrno(errno, fmt::format("fsync {}", what));
  return Ok();
}

}  // namespace gpumig
