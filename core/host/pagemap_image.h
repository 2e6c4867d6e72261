// Files of CRIU's that we write and read ourselves: page maps with their pages, and what of a thread matters to them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/base/unique_fd.h"
#include "core/host/memory_map.h"

namespace gpumig {

// Flags of CRIU's page map entries.
inline constexpr std::uint32_t kPagePresent = 1u << 2;       // the bytes are in the pages file
inline constexpr std::uint32_t kPageMayComeLater = 1u << 1;  // after the restore, if somebody asked for that

// pagemap-*.img and its pages-N.img. Source: images/pagemap.proto and criu/image.c of CRIU 4.1.1 and 4.2.1.
class PagemapImage {
 public:
  // `name` in `images`; its pages go to pages-<pages_id>.img.
  static Result<PagemapImage> Create(const std::filesystem::path& images, const std::string& name,
                                     std::uint32_t pages_id);

  // In the order of addresses; its pages follow by AddPages(), in any pieces.
  Result<void> AddEntry(const MemoryRange& range);
  Result<void> AddPages(std::span<const std::byte> bytes) { return WriteAll(pages_.get(), bytes); }
  Result<void> Finish();

 private:
  static Result<void> WriteAll(int fd, std::span<const std::byte> bytes);

  std::filesystem::path map_path_;
  std::string map_;  // as the file is to be
  UniqueFd pages_;
};

// Where threads have the kernel write their current CPU (rseq): such a page must be in place before CRIU registers it
// again, so it stays with CRIU. Of all core-*.img in `images`, by the thread's pid as CRIU numbers it.
// Source: images/core.proto, images/rseq.proto of CRIU 4.1.1. Errors: kUnsupported, a file is not as we know it.
struct ThreadArea {
  pid_t thread = 0;
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
};
Result<std::vector<ThreadArea>> RseqAreas(const std::filesystem::path& images);

}  // namespace gpumig
