#include "core/host/write_tracker.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <optional>
#include <string>

#include "core/base/file.h"
#include "core/host/pagemap_scan.h"
#include "core/host/remote_calls.h"

namespace gpumig {
namespace {

// Not in every <linux/userfaultfd.h>; see Linux 6.7's.
constexpr std::uint64_t kFeatureWpAsync = std::uint64_t{1} << 15;
constexpr int kUserModeOnly = 1;

constexpr std::size_t kRegionsAtOnce = 4096;
constexpr std::chrono::milliseconds kAttachLimit{2000};
constexpr std::size_t kLargestMapsBytes = std::size_t{64} << 20;

// Appends what of `mapping` is there and, unless `all`, written. False: it is not watched, or not wholly.
Result<bool> Scan(int pagemap, const MemoryRange& mapping, bool all, bool protect, std::vector<MemoryRange>& pages) {
  std::vector<PageRegion> regions(kRegionsAtOnce);
  const std::size_t first = pages.size();
  ScanArguments arguments{};
  arguments.size = sizeof(arguments);
  arguments.flags = kScanCheckWpAsync | (protect ? kScanWpMatching : 0);
  arguments.end = mapping.end();
  arguments.regions = reinterpret_cast<std::uint64_t>(regions.data());
  arguments.region_count = regions.size();
  arguments.category_mask = all ? 0 : kPageIsWritten;
  arguments.category_anyof_mask = kPageIsPresent | kPageIsSwapped;
  arguments.return_mask = kPageIsPresent | kPageIsSwapped;
  for (arguments.start = mapping.address; arguments.start < mapping.end(); arguments.start = arguments.walk_end) {
    const int count = ioctl(pagemap, kPagemapScan, &arguments);
    if (count < 0 && errno == EPERM) {
      pages.resize(first);
      return false;
    }
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) {
      arguments.walk_end = arguments.start;
      continue;
    }
    if (count < 0) return Error::FromErrno(errno, "PAGEMAP_SCAN");
    for (int i = 0; i < count; ++i) {
      const PageRegion& region = regions[static_cast<std::size_t>(i)];
      if (pages.size() > first && pages.back().end() == region.start) {
        pages.back().bytes += region.end - region.start;
      } else {
        pages.push_back({region.start, region.end - region.start});
      }
    }
    if (arguments.walk_end <= arguments.start) break;
  }
  return true;
}

// Files of these are read by copying from the page cache, so what they bring goes through page tables.
bool IsKnownFileSystem(long type) {
  constexpr std::array<std::uint32_t, 17> kKnown = {
      EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC,     BTRFS_SUPER_MAGIC,   TMPFS_MAGIC,    OVERLAYFS_SUPER_MAGIC,
      PROC_SUPER_MAGIC, SYSFS_MAGIC,         CGROUP2_SUPER_MAGIC, RAMFS_MAGIC,    PIPEFS_MAGIC,
      SOCKFS_MAGIC,     ANON_INODE_FS_MAGIC, NSFS_MAGIC,          SQUASHFS_MAGIC, DEVPTS_SUPER_MAGIC,
      HUGETLBFS_MAGIC,  0x50494446 /* pidfs */};
  return std::ranges::find(kKnown, static_cast<std::uint32_t>(type)) != kKnown.end();
}

// Source: Documentation/admin-guide/devices.txt. null, zero, full, random, urandom, kmsg; ttys and pseudo terminals.
bool IsHarmlessDevice(dev_t device) {
  const unsigned major_number = major(device);
  if (major_number == 1) return minor(device) >= 3 && minor(device) != 4;
  return major_number == 4 || major_number == 5 || (major_number >= 136 && major_number <= 143);
}

bool IsHarmlessAnonymous(std::string_view link) {
  constexpr std::array<std::string_view, 6> kHarmless = {"[eventfd]",  "[eventpoll]", "[timerfd]",
                                                         "[signalfd]", "inotify",     "[pidfd]"};
  return std::ranges::find(kHarmless, link.substr(std::string_view("anon_inode:").size())) != kHarmless.end();
}

Result<std::string> WhyFile(pid_t pid, const std::string& number) {
  const std::string path = fmt::format("/proc/{}/fd/{}", pid, number);
  std::error_code error;
  const std::string link = std::filesystem::read_symlink(path, error);
  if (error) return std::string();  // closed meanwhile
  if (link.starts_with("anon_inode:")) {
    if (IsHarmlessAnonymous(link)) return std::string();
    return fmt::format("descriptor {} is {}", number, link);
  }
  struct stat status{};
  struct statfs file_system{};
  if (stat(path.c_str(), &status) != 0) return std::string();
  if (S_ISSOCK(status.st_mode) || S_ISFIFO(status.st_mode)) return std::string();
  if (S_ISCHR(status.st_mode)) {
    if (IsHarmlessDevice(status.st_rdev)) return std::string();
    return fmt::format("it holds the device {}", link);
  }
  if (S_ISBLK(status.st_mode)) return fmt::format("it holds the device {}", link);
  if (statfs(path.c_str(), &file_system) != 0 || !IsKnownFileSystem(file_system.f_type))
    return fmt::format("{} is on a file system that may write to memory by other ways", link);
  const Result<std::string> info = ReadTextFile(fmt::format("/proc/{}/fdinfo/{}", pid, number));
  if (!info) return std::string();
  const std::size_t flags_at = info->find("flags:\t");
  unsigned flags = 0;
  if (flags_at != std::string::npos)
    std::from_chars(info->data() + flags_at + 7, info->data() + info->size(), flags, 8);
  if ((flags & O_DIRECT) != 0) return fmt::format("{} is open for direct I/O", link);
  return std::string();
}

}  // namespace

Result<WriteTracker> WriteTracker::Attach(pid_t pid) {
  UniqueFd userfaultfd;
  GPUMIG_TRY(WithRemoteCalls(pid, kAttachLimit, [&](const RemoteCall& call) -> Result<void> {
    const std::int64_t theirs = GPUMIG_TRY(call(__NR_userfaultfd, {O_CLOEXEC | O_NONBLOCK | kUserModeOnly}));
    if (theirs < 0) {
      return MakeError(ErrorCode::kUnsupported, "process {} gets no userfaultfd: {}", pid,
                       std::generic_category().message(static_cast<int>(-theirs)));
    }
    const UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    if (pidfd.valid()) userfaultfd = UniqueFd(static_cast<int>(syscall(SYS_pidfd_getfd, pidfd.get(), theirs, 0)));
    const int taken_error = errno;
    GPUMIG_TRY(call(__NR_close, {static_cast<std::uint64_t>(theirs)}));
    if (!userfaultfd.valid())
      return Error::FromErrno(taken_error, fmt::format("take the userfaultfd of process {}", pid));
    return Ok();
  }));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | kFeatureWpAsync;
  if (ioctl(userfaultfd.get(), UFFDIO_API, &api) != 0)
    return MakeError(ErrorCode::kUnsupported,
                     "this kernel does not protect pages against writes by itself (Linux 6.7 does)");
  UniqueFd pagemap = GPUMIG_TRY(OpenFile(fmt::format("/proc/{}/pagemap", pid), O_RDONLY));
  return WriteTracker(pid, std::move(userfaultfd), std::move(pagemap));
}

// An address space that nobody lives in any more has no page map, and seems to be empty.
Result<void> WriteTracker::CheckAlive() const {
  std::uint64_t entry = 0;
  if (pread(pagemap_.get(), &entry, sizeof(entry), 0) == static_cast<ssize_t>(sizeof(entry))) return Ok();
  return MakeError(ErrorCode::kNotFound, "process {} has ended, or runs another program", pid_);
}

Result<bool> SharesMemory(pid_t a, pid_t b) {
  constexpr int kMemory = 1;  // KCMP_VM of <linux/kcmp.h>
  const long order = syscall(SYS_kcmp, a, b, kMemory, 0, 0);
  if (order >= 0) return order == 0;
  if (errno == ESRCH) return MakeError(ErrorCode::kNotFound, "process {} or {} has ended", a, b);
  return MakeError(ErrorCode::kUnsupported, "this kernel does not tell whose memory is whose");
}

Result<WriteTracker::Written> WriteTracker::TakeWritten(const std::vector<MemoryRange>& mappings) {
  Written written;
  for (const MemoryRange& mapping : mappings) {
    if (GPUMIG_TRY(Scan(pagemap_.get(), mapping, /*all=*/false, /*protect=*/true, written.pages))) continue;
    uffdio_register wanted{};
    wanted.range = {mapping.address, mapping.bytes};
    wanted.mode = UFFDIO_REGISTER_MODE_WP;
    written.fresh.push_back(mapping);
    if (ioctl(userfaultfd_.get(), UFFDIO_REGISTER, &wanted) != 0 ||
        !GPUMIG_TRY(Scan(pagemap_.get(), mapping, /*all=*/true, /*protect=*/true, written.pages))) {
      written.unwatched.push_back(mapping);
    }
  }
  GPUMIG_TRY(CheckAlive());
  return written;
}

Result<std::uint64_t> WriteTracker::CountWritten(const std::vector<MemoryRange>& mappings) const {
  std::vector<MemoryRange> pages;
  std::uint64_t bytes = 0;
  for (const MemoryRange& mapping : mappings) {
    const bool watched = GPUMIG_TRY(Scan(pagemap_.get(), mapping, /*all=*/false, /*protect=*/false, pages));
    if (!watched) bytes += mapping.bytes;
  }
  for (const MemoryRange& range : pages) bytes += range.bytes;
  return bytes;
}

Result<std::string> MayBeWrittenUnseen(pid_t pid) {
  const std::string maps = GPUMIG_TRY(ReadTextFile(fmt::format("/proc/{}/maps", pid), kLargestMapsBytes));
  if (maps.find(" /[aio]") != std::string::npos) return std::string("it has asynchronous I/O under way");
  if (maps.find("io_uring") != std::string::npos) return std::string("it has an io_uring");
  std::error_code error;
  for (std::filesystem::directory_iterator entry(fmt::format("/proc/{}/fd", pid), error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    std::string why = GPUMIG_TRY(WhyFile(pid, entry->path().filename()));
    if (!why.empty()) return why;
  }
  if (error && error != std::errc::no_such_file_or_directory)
    return Error::FromErrno(error.value(), fmt::format("list what process {} holds", pid));
  return std::string();
}

}  // namespace gpumig
