// gpumig-page-filter.so: preloaded into `criu` for a dump whose pages go to gpumig's page server.
//
// CRIU asks the kernel which pages of a process are there (ioctl PAGEMAP_SCAN), has its parasite splice each into a
// pipe, and pushes them to us, who drop nearly all: they are read from the frozen process later. What is taken out of
// the kernel's answer here costs CRIU nothing. Only long runs of private anonymous memory are; each is noted for
// gpumig, which adds it to the pages that CRIU told of, so that what follows is the same as without the filter.
//
// In doubt nothing is taken out. Plain C in all but name: no C++ run time is loaded into CRIU. One thread at a time, as
// CRIU has only one.
// Source: criu/pagemap-cache.c (pmc_fill) of CRIU 4.1.1 and 4.2.1; Documentation/admin-guide/mm/pagemap.rst.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/host/page_filter/notes.h"
#include "core/host/pagemap_scan.h"

namespace {

using gpumig::kPageIsFile;
using gpumig::kPageIsPresent;
using gpumig::kPageIsSoftDirty;
using gpumig::kPageIsSwapped;
using gpumig::kPageIsZero;
using gpumig::kPagemapScan;
using gpumig::PageNote;
using gpumig::PageRegion;
using gpumig::ScanArguments;

struct Range {
  std::uint64_t begin;
  std::uint64_t end;
};

// Of the process that was scanned last: which of its memory is private, anonymous, readable and writable.
struct Process {
  dev_t device;
  ino_t inode;
  std::int32_t pid;  // innermost; 0: nothing is known of it
  Range* ranges;     // sorted, neighbours joined
  std::size_t count;
  std::size_t room;
};

int notes_fd = -1;
Process process;

// A line of a file of /proc, without a limit on their number; `take` is called for each.
template <typename Take>
bool ForEachLine(const char* path, const Take& take) {
  FILE* file = fopen(path, "re");
  if (file == nullptr) return false;
  char* line = nullptr;
  std::size_t room = 0;
  bool good = true;
  while (good && getline(&line, &room, file) > 0) good = take(line);
  good = good && ferror(file) == 0;
  free(line);
  fclose(file);
  return good;
}

bool AddMapping(const char* line) {
  unsigned long begin = 0;
  unsigned long end = 0;
  unsigned long inode = 0;
  char permissions[5] = {};
  char path[16] = {};
  const int fields = sscanf(line, "%lx-%lx %4s %*x %*x:%*x %lu %15s", &begin, &end, permissions, &inode, path);
  if (fields < 4 || begin >= end) return false;
  const bool anonymous = fields == 4 || strcmp(path, "[heap]") == 0 || strncmp(path, "[anon:", 6) == 0;
  if (memcmp(permissions, "rw", 2) != 0 || permissions[3] != 'p' || inode != 0 || !anonymous) return true;
  if (process.count != 0 && process.ranges[process.count - 1].end == begin) {
    process.ranges[process.count - 1].end = end;
    return true;
  }
  if (process.count == process.room) {
    const std::size_t room = process.room == 0 ? 1024 : 2 * process.room;
    void* ranges = realloc(process.ranges, room * sizeof(Range));
    if (ranges == nullptr) return false;
    process.ranges = static_cast<Range*>(ranges);
    process.room = room;
  }
  process.ranges[process.count++] = {begin, end};
  return true;
}

bool LearnOf(const char* pid) {
  char path[64];
  snprintf(path, sizeof(path), "/proc/%s/maps", pid);
  process.count = 0;
  if (!ForEachLine(path, AddMapping)) return false;
  snprintf(path, sizeof(path), "/proc/%s/status", pid);
  int innermost = 0;
  const auto take = [&](const char* line) {
    if (strncmp(line, "NSpid:", 6) == 0) innermost = atoi(strrchr(line, '\t') != nullptr ? strrchr(line, '\t') : "");
    return true;
  };
  if (!ForEachLine(path, take) || innermost <= 0) return false;
  process.pid = innermost;
  return true;
}

// Whether `process` is the one whose page map `fd` is.
bool KnowProcessOf(int fd) {
  struct stat opened;
  if (fstat(fd, &opened) != 0) return false;
  if (process.pid != 0 && process.device == opened.st_dev && process.inode == opened.st_ino) return true;
  process.pid = 0;
  char link[64];
  char target[256];
  snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const ssize_t size = readlink(link, target, sizeof(target) - 1);
  if (size <= 0) return false;
  target[size] = '\0';
  // .../PID/pagemap, of whatever mount of /proc CRIU went through.
  char* name = strrchr(target, '/');
  if (name == nullptr || strcmp(name, "/pagemap") != 0) return false;
  *name = '\0';
  const char* pid = strrchr(target, '/');
  if (pid == nullptr || pid[1] < '1' || pid[1] > '9' || strspn(pid + 1, "0123456789") != strlen(pid + 1)) return false;
  // The same number means another process in another pid namespace's /proc.
  char ours[64];
  snprintf(ours, sizeof(ours), "/proc/%s/pagemap", pid + 1);
  struct stat named;
  if (stat(ours, &named) != 0 || named.st_dev != opened.st_dev || named.st_ino != opened.st_ino) return false;
  if (!LearnOf(pid + 1)) return false;
  process.device = opened.st_dev;
  process.inode = opened.st_ino;
  return true;
}

bool Note(const Range& range) {
  PageNote note;
  note.begin = range.begin;
  note.end = range.end;
  note.pid = process.pid;
  return write(notes_fd, &note, sizeof(note)) == static_cast<ssize_t>(sizeof(note));
}

// The first range that ends above `address`; `process.count` where none does.
std::size_t FirstAbove(std::uint64_t address) {
  std::size_t low = 0;
  std::size_t high = process.count;
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (process.ranges[middle].end <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// What of `region` is to be shown to CRIU; empty where nothing is. Hides at most one piece, at its begin or end, so
// that there is never more to show than the kernel gave.
PageRegion Shown(const PageRegion& region) {
  if ((region.categories & ~(kPageIsPresent | kPageIsSwapped | kPageIsSoftDirty)) != 0) return region;
  for (std::size_t i = FirstAbove(region.start); i < process.count && process.ranges[i].begin < region.end; ++i) {
    const Range hidden = {process.ranges[i].begin > region.start ? process.ranges[i].begin : region.start,
                          process.ranges[i].end < region.end ? process.ranges[i].end : region.end};
    if (hidden.end - hidden.begin < gpumig::kLeastHiddenBytes) continue;
    if (hidden.begin != region.start && hidden.end != region.end) continue;
    if (!Note(hidden)) return region;
    if (hidden.begin == region.start) return {hidden.end, region.end, region.categories};
    return {region.start, hidden.begin, region.categories};
  }
  return region;
}

// What CRIU asks where it wants to know which pages to dump; it scans for other things, too.
bool IsForDump(const ScanArguments& scan) {
  constexpr std::uint64_t kAsked = kPageIsPresent | kPageIsSwapped | kPageIsSoftDirty;
  return scan.size == sizeof(ScanArguments) && scan.flags == 0 && scan.max_pages == 0 &&
         scan.category_mask == (kPageIsZero | kPageIsFile) && scan.category_inverted == (kPageIsZero | kPageIsFile) &&
         scan.category_anyof_mask == (kPageIsPresent | kPageIsSwapped) && (scan.return_mask & kAsked) == kAsked;
}

long Filter(int fd, const ScanArguments& scan, long count) {
  if (count <= 0 || !IsForDump(scan) || !KnowProcessOf(fd)) return count;
  auto* regions = reinterpret_cast<PageRegion*>(scan.regions);
  long kept = 0;
  for (long i = 0; i < count; ++i) {
    const PageRegion shown = Shown(regions[i]);
    if (shown.start < shown.end) regions[kept++] = shown;
  }
  return kept;
}

__attribute__((constructor)) void Begin() {
  const char* number = getenv(gpumig::kPageNotesVariable);
  if (number != nullptr) notes_fd = atoi(number);
  // Programs that CRIU starts are no concern of ours.
  unsetenv("LD_PRELOAD");
  unsetenv(gpumig::kPageNotesVariable);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list arguments;
  va_start(arguments, request);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  using Ioctl = int (*)(int, unsigned long, void*);
  static const Ioctl real = reinterpret_cast<Ioctl>(dlsym(RTLD_NEXT, "ioctl"));
  const int result = real(fd, request, argument);
  if (request != kPagemapScan || notes_fd < 0 || result < 0) return result;
  const int before = errno;
  const long kept = Filter(fd, *static_cast<const ScanArguments*>(argument), result);
  errno = before;
  return static_cast<int>(kept);
}
