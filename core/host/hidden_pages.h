// The page filter as gpumig sees it: where it is, and what it kept from CRIU. See core/host/page_filter/page_filter.cc.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "core/base/result.h"
#include "core/base/unique_fd.h"
#include "core/host/page_server.h"

namespace gpumig {

// A library to preload into one `criu`, and the file in which it notes what it hides.
struct PageFilter {
  std::filesystem::path library;
  UniqueFd notes;
};

// Empty where dumps are to do without: the library is not installed, or $GPUMIG_PAGE_FILTER, which may name another, is
// "off".
std::filesystem::path PageFilterLibrary();
Result<PageFilter> MakePageFilter(const std::filesystem::path& library);

struct HiddenRange {
  pid_t pid = 0;  // as CRIU numbers it
  MemoryRange range;
};
// As they were noted. Errors: kUnsupported, a note is not one.
Result<std::vector<HiddenRange>> ReadNotes(int notes);

// Puts them where they would be if CRIU had told of them. Errors: kUnsupported, CRIU told of no such process.
Result<void> AddHidden(const std::vector<HiddenRange>& hidden, DumpedPages& dumped);

}  // namespace gpumig
