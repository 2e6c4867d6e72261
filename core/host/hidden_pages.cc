#include "core/host/hidden_pages.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string_view>

#include "core/base/file.h"
#include "core/host/page_filter/notes.h"

namespace gpumig {
namespace {

constexpr std::size_t kMostNotes = std::size_t{16} << 20;

std::vector<MemoryRange> Joined(std::vector<MemoryRange> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) { return a.address < b.address; });
  std::vector<MemoryRange> joined;
  for (const MemoryRange& range : ranges) {
    if (joined.empty() || joined.back().end() < range.address) {
      joined.push_back(range);
    } else {
      joined.back().bytes = std::max(joined.back().end(), range.end()) - joined.back().address;
    }
  }
  return joined;
}

}  // namespace

std::filesystem::path PageFilterLibrary() {
  if (const char* named = std::getenv("GPUMIG_PAGE_FILTER"); named != nullptr) {
    return std::string_view(named) == "off" ? std::filesystem::path() : std::filesystem::path(named);
  }
  std::error_code error;
  const std::filesystem::path here = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  for (const char* candidate : {"gpumig-page-filter.so", "../" GPUMIG_LIBEXECDIR "/gpumig/gpumig-page-filter.so"}) {
    const std::filesystem::path library = (here / candidate).lexically_normal();
    if (access(library.c_str(), R_OK) == 0) return library;
  }
  return {};
}

Result<PageFilter> MakePageFilter(const std::filesystem::path& library) {
  UniqueFd notes(memfd_create("gpumig-page-notes", MFD_CLOEXEC));
  if (!notes.valid()) return Error::FromErrno(errno, "make a file for notes on pages");
  return PageFilter{library, std::move(notes)};
}

Result<std::vector<HiddenRange>> ReadNotes(int notes) {
  struct stat facts{};
  if (fstat(notes, &facts) != 0) return Error::FromErrno(errno, "read notes on pages");
  const auto bytes = static_cast<std::size_t>(facts.st_size);
  if (bytes % sizeof(PageNote) != 0 || bytes / sizeof(PageNote) > kMostNotes)
    return MakeError(ErrorCode::kUnsupported, "{} bytes are no notes on pages", bytes);
  std::vector<PageNote> read(bytes / sizeof(PageNote));
  GPUMIG_TRY(ReadExactlyAt(notes, std::as_writable_bytes(std::span(read)), 0), "read notes on pages");
  std::vector<HiddenRange> hidden;
  hidden.reserve(read.size());
  for (const PageNote& note : read) {
    const bool known = note.magic == PageNote::kMagic && note.pid > 0 && note.begin < note.end &&
                       note.begin % kPageBytes == 0 && note.end % kPageBytes == 0;
    if (!known) return MakeError(ErrorCode::kUnsupported, "a note on pages is not as we know it");
    hidden.push_back({note.pid, {note.begin, note.end - note.begin}});
  }
  return hidden;
}

Result<void> AddHidden(const std::vector<HiddenRange>& hidden, DumpedPages& dumped) {
  for (const HiddenRange& range : hidden) {
    const auto process = dumped.processes.find(range.pid);
    if (process == dumped.processes.end())
      return MakeError(ErrorCode::kUnsupported, "pages of process {} are hidden, which criu does not dump", range.pid);
    process->second.push_back(range.range);
  }
  if (hidden.empty()) return Ok();
  for (auto& [pid, runs] : dumped.processes) runs = Joined(std::move(runs));
  return Ok();
}

}  // namespace gpumig
