// Memory that travels past CRIU, between processes of this host and the files of an image.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <map>
#include <span>
#include <vector>

#include "core/base/result.h"
#include "core/host/memory_map.h"
#include "core/image/manifest.h"
#include "core/image/parallel_for.h"
#include "core/image/source_directory.h"

namespace gpumig {

// Cuts `ranges` where their addresses cross a multiple of kMaxChunkBytes, so that the same memory is cut the same way
// each time, whatever there is around it; or (by_address false) into as few pieces as can be.
std::vector<std::vector<MemoryRange>> CutIntoPieces(const std::vector<MemoryRange>& ranges, bool by_address);

// The map among CRIU's files in `images`; an empty one where there is none. Errors: kDamaged; kUnsupported.
Result<MemoryMap> ReadMemoryMap(const std::filesystem::path& images);

// Makes it one of CRIU's files in `images`, in place of another that is there; none where it is empty.
// Errors: kResourceExhausted, it is larger than anybody would read.
Result<void> WriteMemoryMap(const MemoryMap& map, const std::filesystem::path& images);

// Files of an image that are read out of `processes`, which stay frozen as long as anybody reads.
// Errors: kNotFound, one that `map` names is not among them; kFailedPrecondition, a file has gaps: what it held there
// was copied while the process ran, and is no more.
Result<std::vector<UnwrittenFile>> MemoryAsFiles(const MemoryMap& map, const std::vector<pid_t>& processes);

// Makes files of them in `directory`, and reads them from there from then on, so that the processes may run again.
Result<void> WriteFiles(std::vector<UnwrittenFile>& files, const std::filesystem::path& directory,
                        const ParallelOptions& options);

bool IsMemoryFile(const ManifestFile& file);

// Of files that are made anew for CRIU; the rest goes straight into processes.
std::uint64_t BytesWithCriu(const Manifest& manifest);

// Fills the memory of a restored tree at the gate.
//
// Thread safety: Place() from any number of threads at once.
class MemoryFill {
 public:
  // Fits `map` to the files of `manifest` and to the tree's processes. Errors: kDamaged, they do not fit.
  static Result<MemoryFill> Make(const MemoryMap& map, const Manifest& manifest, const std::vector<pid_t>& processes);

  // REQUIRES: IsMemoryFile(file), and it is one of the manifest's
  Result<void> Place(const ManifestFile& file, std::uint64_t offset, std::span<const std::byte> plain) const;

 private:
  struct Target {
    ProcessPages pages;
    pid_t pid = 0;
  };

  std::map<std::string, Target, std::less<>> targets_;  // by the file's name
};

}  // namespace gpumig
