// Decides which memory of a frozen, dumped tree goes past CRIU, and completes CRIU's files with the rest.
//
// Past CRIU go runs of pages that are private, anonymous, readable and writable: their restored twins can be filled by
// anybody at the gate. All else is restored by CRIU: code and data of files, shared memory, stacks, small pieces, pages
// that a forked child shares with its parent (CRIU shares them again), and what the kernel writes to (rseq).
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <vector>

#include "core/base/result.h"
#include "core/host/memory_map.h"
#include "core/host/page_server.h"

namespace gpumig {

// A shorter run is not worth a piece of its own.
inline constexpr std::uint64_t kLeastDirectBytes = 64 * 1024;

struct SplitPages {
  std::vector<MemoryRange> direct;
  std::vector<MemoryRange> with_criu;
};

// `dumped` and `eligible` are sorted and each apart from one another; `excluded` in any order. No range of the result
// reaches over the border of an eligible one.
SplitPages Split(const std::vector<MemoryRange>& dumped, const std::vector<MemoryRange>& eligible,
                 const std::vector<MemoryRange>& excluded);

// Mappings of `pid` that may go past CRIU, from the text of its /proc/pid/maps.
Result<std::vector<MemoryRange>> EligibleMappings(std::string_view maps);

// Parts of `ranges` whose pages only this process has mapped. Source: Documentation/admin-guide/mm/pagemap.rst, bit 56.
Result<std::vector<MemoryRange>> MappedOnce(pid_t pid, const std::vector<MemoryRange>& ranges);

// Writes the page maps that CRIU's dump into `images` lacks, for the processes `pids` of a tree that is frozen, and the
// memory map file if anything goes past CRIU. Errors: kUnsupported, what CRIU told is not what is there.
Result<MemoryMap> CompleteDump(const DumpedPages& dumped, const std::vector<pid_t>& pids,
                               const std::filesystem::path& images);

}  // namespace gpumig
