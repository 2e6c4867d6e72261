// ioctl(PAGEMAP_SCAN) of Linux 6.7 and later, for headers that do not know it yet: Debian 12's do not. Also for what is
// loaded into CRIU, so nothing but types and numbers.
// Source: include/uapi/linux/fs.h; Documentation/admin-guide/mm/pagemap.rst.
#pragma once

#include <cstdint>

namespace gpumig {

struct PageRegion {
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t categories;
};

struct ScanArguments {
  std::uint64_t size;  // of this
  std::uint64_t flags;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t walk_end;  // out: where the next scan goes on
  std::uint64_t regions;   // address of region_count PageRegions
  std::uint64_t region_count;
  std::uint64_t max_pages;  // 0: no limit
  std::uint64_t category_inverted;
  std::uint64_t category_mask;        // a page has all of these
  std::uint64_t category_anyof_mask;  // and one of these
  std::uint64_t return_mask;          // what regions are told apart by
};
static_assert(sizeof(ScanArguments) == 96);

inline constexpr unsigned long kPagemapScan = 0xc0606610;  // _IOWR('f', 16, struct pm_scan_arg)

// Flags.
inline constexpr std::uint64_t kScanWpMatching = 1u << 0;
inline constexpr std::uint64_t kScanCheckWpAsync = 1u << 1;

// Categories.
inline constexpr std::uint64_t kPageIsWritten = 1u << 1;
inline constexpr std::uint64_t kPageIsFile = 1u << 2;
inline constexpr std::uint64_t kPageIsPresent = 1u << 3;
inline constexpr std::uint64_t kPageIsSwapped = 1u << 4;
inline constexpr std::uint64_t kPageIsZero = 1u << 5;
inline constexpr std::uint64_t kPageIsSoftDirty = 1u << 7;

}  // namespace gpumig
