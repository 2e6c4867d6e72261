// PageServer: where CRIU sends the pages that it finds (its "page server" protocol), so that bulk memory does not pass
// through its files.
//
// CRIU keeps this protocol to itself and changes it: the records of CRIU 4.2 are longer than those of 4.1. What we do
// not understand is an error of kind kUnsupported, and the caller dumps again in CRIU's ordinary way.
// Source: criu/page-xfer.c of CRIU 4.1.1 and 4.2.1, and what they were seen to send.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <vector>

#include "core/base/result.h"
#include "core/base/unique_fd.h"
#include "core/host/memory_map.h"

namespace gpumig {

struct DumpedPages {
  // What CRIU would have written of each process, by its pid as CRIU numbers it; in the order of addresses.
  std::map<pid_t, std::vector<MemoryRange>> processes;
  // Numbers below are taken by files of shared memory.
  std::uint32_t next_pages_id = 1;
};

// Serves one dump until CRIU closes it. Pages of shared memory are written into `images` as CRIU would have done;
// those of processes are only listed: they stay where they are, in frozen processes.
// Errors: kUnsupported; kUnavailable, CRIU ended before it closed the dump; those of writing.
Result<DumpedPages> ServePages(UniqueFd socket, const std::filesystem::path& images);

}  // namespace gpumig
