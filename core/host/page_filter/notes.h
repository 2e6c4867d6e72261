// What the page filter in CRIU tells gpumig: one note for each range of pages that CRIU was not shown. By write(),
// whole notes one behind the other, into the descriptor that $GPUMIG_PAGE_NOTES numbers.
#pragma once

#include <cstdint>

namespace gpumig {

inline constexpr const char* kPageNotesVariable = "GPUMIG_PAGE_NOTES";

// Runs that are shorter are shown: they would come back to CRIU's files anyway (kLeastDirectBytes).
inline constexpr std::uint64_t kLeastHiddenBytes = 64 * 1024;

struct PageNote {
  std::uint64_t begin = 0;  // whole pages
  std::uint64_t end = 0;
  std::int32_t pid = 0;  // as the innermost pid namespace of the process numbers it
  std::uint32_t magic = kMagic;

  static constexpr std::uint32_t kMagic = 0x31465047;  // "GPF1"
};
static_assert(sizeof(PageNote) == 24);

}  // namespace gpumig
