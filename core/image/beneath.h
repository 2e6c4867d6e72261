// Opens names inside a directory that is held open, and nothing outside it: no symbolic link is followed and no "..",
// so that neither the names in an image nor somebody who swaps its files can lead us elsewhere.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"
#include "core/base/unique_fd.h"

namespace gpumig {

// O_CLOEXEC, and O_NONBLOCK where it reads, so that a named pipe cannot hold us up. `mode` counts with O_CREAT only.
// Errors: those of Error::FromErrno; kInvalidArgument, the way leads through a symbolic link or out of `directory`;
// kUnsupported, a kernel without openat2 (before 5.6).
Result<UniqueFd> OpenBeneath(int directory, std::string_view name, int flags, unsigned mode = 0600);

// A regular file, for reading, and its size. Errors: as above; kDamaged, it is not a regular file.
struct OpenedFile {
  UniqueFd fd;
  std::uint64_t bytes = 0;
  std::uint32_t mode = 0;  // permission bits
};
Result<OpenedFile> OpenRegularBeneath(int directory, std::string_view name);

// Names of all entries but "." and "..", sorted.
Result<std::vector<std::string>> ListDirectory(int directory);

// Bytes that we may still write to the file system of `fd`; nullopt where it does not say (ramfs).
Result<std::optional<std::uint64_t>> FreeBytes(int fd);

Result<void> SyncFd(int fd, std::string_view what);

}  // namespace gpumig
