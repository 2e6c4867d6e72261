// WriteTracker: which pages of a running process were written since one last asked, by the kernel's own account.
#pragma once

#include <sys/types.h>

#include <vector>

#include "core/base/result.h"
#include "core/base/unique_fd.h"
#include "core/host/memory_map.h"

namespace gpumig {

// Through a userfaultfd in the process that protects pages against writes and lets the kernel lift the protection by
// itself (WP_ASYNC), and PAGEMAP_SCAN, which lists pages whose protection was lifted and protects them anew. Nobody
// waits for us: where we die, the protection goes with the descriptor.
// Source: Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst, Linux 6.7 and later.
//
// What it does not see: writes past the page tables, as devices do by DMA into pages that were pinned before. See
// MayBeWrittenUnseen().
//
// Thread safety: one thread at a time.
class WriteTracker {
 public:
  // The process stands still for some tenths of a millisecond. It must have its memory to itself (see SharesMemory()):
  // two trackers of one memory take each other's writes away. Errors: kUnsupported, this kernel or process cannot;
  // those of WithRemoteCalls().
  static Result<WriteTracker> Attach(pid_t pid);

  pid_t pid() const { return pid_; }

  struct Written {
    // There, and written since the last call; or never seen before. Sorted.
    std::vector<MemoryRange> pages;
    // Of `mappings`, those that were not watched until now: nothing is known of what was at these addresses.
    std::vector<MemoryRange> fresh;
    // Those that cannot be watched.
    std::vector<MemoryRange> unwatched;
  };
  // Looks at `mappings` (see EligibleMappings()) and protects what it lists, so the next call lists what is written
  // from now on. Read pages only after this returned. Errors: kNotFound, the process has ended, or runs another program
  // by now: what was known of its memory means nothing.
  Result<Written> TakeWritten(const std::vector<MemoryRange>& mappings);

  // How many bytes TakeWritten() would list now; changes nothing.
  Result<std::uint64_t> CountWritten(const std::vector<MemoryRange>& mappings) const;

 private:
  Result<void> CheckAlive() const;
  WriteTracker(pid_t pid, UniqueFd userfaultfd, UniqueFd pagemap)
      : pid_(pid), userfaultfd_(std::move(userfaultfd)), pagemap_(std::move(pagemap)) {}

  pid_t pid_;
  UniqueFd userfaultfd_;
  UniqueFd pagemap_;
};

// Whether both are processes of one address space, as a child of vfork() and its parent are. Errors: kNotFound, one has
// ended; kUnsupported, this kernel does not tell.
Result<bool> SharesMemory(pid_t a, pid_t b);

// Why memory of `pid` may change without a trace in its page tables: it holds a device that may write by DMA, an
// io_uring, asynchronous or direct I/O, or a file of a file system that is not known to write through the page tables.
// Empty: nothing of that.
Result<std::string> MayBeWrittenUnseen(pid_t pid);

}  // namespace gpumig
