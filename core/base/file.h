// Whole reads and writes of files, with limits and durability spelled out.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"
#include "core/base/unique_fd.h"

namespace gpumig {

// Close-on-exec is added to `flags`.
Result<UniqueFd> OpenFile(const std::filesystem::path& path, int flags, unsigned mode = 0600);

// All of `bytes`, over short writes and EINTR.
Result<void> WriteAll(int fd, std::span<const std::byte> bytes);
Result<void> WriteAll(int fd, std::string_view text);
Result<void> WriteAllAt(int fd, std::span<const std::byte> bytes, std::size_t offset);

// Exactly bytes.size() bytes, or kDamaged where the file ends before.
Result<void> ReadExactlyAt(int fd, std::span<std::byte> bytes, std::size_t offset);

// Up to end of file. Files of /proc and /sys, whose size reads as 0, are read too.
// Errors: kInvalidArgument, it holds more than `limit_bytes`.
Result<std::string> ReadTextFile(const std::filesystem::path& path, std::size_t limit_bytes = 16 << 20);
Result<std::vector<std::byte>> ReadBinaryFile(const std::filesystem::path& path, std::size_t limit_bytes);

// Into an existing file of /proc, /sys or a cgroup, in one write.
Result<void> WriteControlFile(const std::filesystem::path& path, std::string_view text);

// Readers see the old file or all of the new one; on return it survives a power cut. Mode 0600 unless told.
Result<void> WriteFileDurably(const std::filesystem::path& path, std::string_view text, unsigned mode = 0600);

// Whether files of `directory` are kept in memory only (tmpfs).
bool IsInMemory(const std::filesystem::path& directory);

Result<void> SyncDirectory(const std::filesystem::path& directory);
Result<void> MakeDirectories(const std::filesystem::path& directory, unsigned mode = 0700);

// A directory of our own under `parent`, mode 0700, removed with all it holds when this goes.
class TemporaryDirectory {
 public:
  static Result<TemporaryDirectory> Create(const std::filesystem::path& parent, std::string_view prefix);
  TemporaryDirectory(TemporaryDirectory&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TemporaryDirectory& operator=(TemporaryDirectory&& other) noexcept;
  ~TemporaryDirectory() { Remove(); }

  const std::filesystem::path& path() const { return path_; }
  // It stays; the caller owns what it holds now.
  std::filesystem::path Keep() { return std::exchange(path_, {}); }

 private:
  explicit TemporaryDirectory(std::filesystem::path path) : path_(std::move(path)) {}
  void Remove();

  std::filesystem::path path_;
};

}  // namespace gpumig
