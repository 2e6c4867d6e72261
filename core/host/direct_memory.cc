#include "core/host/direct_memory.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>

#include "core/base/check.h"
#include "core/base/file.h"
#include "core/host/pagemap_image.h"
#include "core/host/process.h"

namespace gpumig {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;
constexpr std::size_t kLargestMapsBytes = std::size_t{64} << 20;
constexpr std::uint64_t kMappedOnceBit = std::uint64_t{1} << 56;

// Appends, or makes the last one longer where `range` continues it.
void Extend(std::vector<MemoryRange>& ranges, const MemoryRange& range) {
  if (range.bytes == 0) return;
  if (!ranges.empty() && ranges.back().end() == range.address) {
    ranges.back().bytes += range.bytes;
  } else {
    ranges.push_back(range);
  }
}

MemoryRange WholePagesAround(std::uint64_t address, std::uint64_t bytes) {
  const std::uint64_t begin = address / kPageBytes * kPageBytes;
  const std::uint64_t end = (address + std::max<std::uint64_t>(bytes, 1) + kPageBytes - 1) / kPageBytes * kPageBytes;
  return {begin, end - begin};
}

// The next word of a line of /proc/pid/maps.
std::string_view TakeWord(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  const std::string_view word = line.substr(0, line.find(' '));
  line.remove_prefix(word.size());
  return word;
}

bool ParseHex(std::string_view text, std::uint64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return error == std::errc() && end == text.data() + text.size();
}

class Memory {
 public:
  static Result<Memory> Open(pid_t pid) {
    return Memory(GPUMIG_TRY(OpenFile(fmt::format("/proc/{}/mem", pid), O_RDONLY)));
  }
  Result<void> CopyInto(PagemapImage& image, const MemoryRange& range) {
    for (std::uint64_t done = 0; done < range.bytes;) {
      const std::span<std::byte> piece =
          std::span(buffer_).first(std::min<std::uint64_t>(buffer_.size(), range.bytes - done));
      GPUMIG_TRY(ReadExactlyAt(mem_.get(), piece, range.address + done));
      GPUMIG_TRY(image.AddPages(piece));
      done += piece.size();
    }
    return Ok();
  }

 private:
  explicit Memory(UniqueFd mem) : mem_(std::move(mem)), buffer_(kBufferBytes) {}

  UniqueFd mem_;
  std::vector<std::byte> buffer_;
};

Result<void> WriteCriuPart(const std::filesystem::path& images, pid_t inner, pid_t pid, std::uint32_t pages_id,
                           const std::vector<MemoryRange>& ranges) {
  PagemapImage image = GPUMIG_TRY(PagemapImage::Create(images, fmt::format("pagemap-{}.img", inner), pages_id));
  Memory memory = GPUMIG_TRY(Memory::Open(pid));
  for (const MemoryRange& range : ranges) {
    GPUMIG_TRY(image.AddEntry(range));
    GPUMIG_TRY(memory.CopyInto(image, range), "copy memory of process {} at {:#x}", pid, range.address);
  }
  return image.Finish();
}

// Of every process: the areas of its threads that must stay with CRIU.
Result<std::vector<MemoryRange>> ExcludedOf(pid_t pid, const std::vector<ThreadArea>& areas) {
  const std::vector<pid_t> threads = GPUMIG_TRY(InnerThreadIds(pid));
  std::vector<MemoryRange> excluded;
  for (const ThreadArea& area : areas) {
    if (std::find(threads.begin(), threads.end(), area.thread) == threads.end()) continue;
    excluded.push_back(WholePagesAround(area.address, area.bytes));
  }
  return excluded;
}

// Better to learn now than in the middle of a move that this kernel, or its rules, lets nobody read so.
Result<void> CheckReadable(const ProcessPages& pages, pid_t pid) {
  std::array<std::byte, kPageBytes> page{};
  const Result<void> read = pages.Read(pid, 0, page);
  if (read) return Ok();
  return MakeError(ErrorCode::kUnsupported, "{}", read.error().message());
}

}  // namespace

SplitPages Split(const std::vector<MemoryRange>& dumped, const std::vector<MemoryRange>& eligible,
                 const std::vector<MemoryRange>& excluded) {
  std::vector<MemoryRange> barred = excluded;
  std::sort(barred.begin(), barred.end(), [](const auto& a, const auto& b) { return a.address < b.address; });
  SplitPages split;
  std::size_t mapping = 0;
  std::size_t bar = 0;
  for (const MemoryRange& run : dumped) {
    std::uint64_t at = run.address;
    while (at < run.end()) {
      while (mapping < eligible.size() && eligible[mapping].end() <= at) ++mapping;
      while (bar < barred.size() && barred[bar].end() <= at) ++bar;
      // Up to where something changes: the run, the mapping, or what is barred ends or begins.
      std::uint64_t end = run.end();
      const bool in_mapping = mapping < eligible.size() && eligible[mapping].address <= at;
      if (mapping < eligible.size())
        end = std::min(end, in_mapping ? eligible[mapping].end() : eligible[mapping].address);
      const bool is_barred = bar < barred.size() && barred[bar].address <= at;
      if (bar < barred.size()) end = std::min(end, is_barred ? barred[bar].end() : barred[bar].address);
      if (in_mapping && !is_barred && end - at >= kLeastDirectBytes) {
        split.direct.push_back({at, end - at});
      } else {
        Extend(split.with_criu, {at, end - at});
      }
      at = end;
    }
  }
  return split;
}

Result<std::vector<MemoryRange>> EligibleMappings(std::string_view maps) {
  std::vector<MemoryRange> eligible;
  while (!maps.empty()) {
    std::string_view line = maps.substr(0, maps.find('\n'));
    maps.remove_prefix(std::min(line.size() + 1, maps.size()));
    const std::string_view addresses = TakeWord(line);
    const std::string_view permissions = TakeWord(line);
    TakeWord(line);  // offset
    TakeWord(line);  // device
    const std::string_view inode = TakeWord(line);
    const std::string_view path = TakeWord(line);
    const std::size_t dash = addresses.find('-');
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    if (dash == std::string_view::npos || !ParseHex(addresses.substr(0, dash), begin) ||
        !ParseHex(addresses.substr(dash + 1), end) || end <= begin || permissions.size() != 4) {
      return MakeError(ErrorCode::kUnsupported, "a line of /proc/PID/maps is not as we know it");
    }
    const bool private_and_ours = permissions.starts_with("rw") && permissions[3] == 'p' && inode == "0";
    const bool anonymous = path.empty() || path == "[heap]" || path.starts_with("[anon:");
    if (private_and_ours && anonymous) eligible.push_back({begin, end - begin});
  }
  return eligible;
}

Result<std::vector<MemoryRange>> MappedOnce(pid_t pid, const std::vector<MemoryRange>& ranges) {
  const UniqueFd pagemap = GPUMIG_TRY(OpenFile(fmt::format("/proc/{}/pagemap", pid), O_RDONLY));
  std::vector<std::uint64_t> entries(kBufferBytes / sizeof(std::uint64_t));
  std::vector<MemoryRange> once;
  for (const MemoryRange& range : ranges) {
    std::vector<MemoryRange> parts;
    for (std::uint64_t at = range.address; at < range.end();) {
      const std::size_t count = std::min<std::uint64_t>(entries.size(), (range.end() - at) / kPageBytes);
      GPUMIG_TRY(ReadExactlyAt(pagemap.get(), std::as_writable_bytes(std::span(entries).first(count)),
                               at / kPageBytes * sizeof(std::uint64_t)));
      for (std::size_t i = 0; i < count; ++i, at += kPageBytes) {
        if ((entries[i] & kMappedOnceBit) != 0) Extend(parts, {at, kPageBytes});
      }
    }
    once.insert(once.end(), parts.begin(), parts.end());
  }
  return once;
}

Result<MemoryMap> CompleteDump(const DumpedPages& dumped, const std::vector<pid_t>& pids,
                               const std::filesystem::path& images) {
  std::map<pid_t, pid_t> pid_of;
  for (const pid_t pid : pids) pid_of.emplace(GPUMIG_TRY(NamespacePids(pid)).back(), pid);
  const std::vector<ThreadArea> areas = GPUMIG_TRY(RseqAreas(images));
  MemoryMap map;
  std::uint32_t pages_id = dumped.next_pages_id;
  for (const auto& [inner, runs] : dumped.processes) {
    const auto found = pid_of.find(inner);
    if (found == pid_of.end())
      return MakeError(ErrorCode::kUnsupported, "criu dumped pages of process {}, which is not in the tree", inner);
    const pid_t pid = found->second;
    std::vector<MemoryRange> eligible =
        GPUMIG_TRY(EligibleMappings(GPUMIG_TRY(ReadTextFile(fmt::format("/proc/{}/maps", pid), kLargestMapsBytes))));
    const std::vector<MemoryRange> excluded = GPUMIG_TRY(ExcludedOf(pid, areas));
    SplitPages split = Split(runs, eligible, excluded);
    if (pids.size() > 1) split = Split(runs, GPUMIG_TRY(MappedOnce(pid, split.direct)), excluded);
    GPUMIG_TRY(WriteCriuPart(images, inner, pid, pages_id++, split.with_criu));
    if (split.direct.empty()) continue;
    map.processes.emplace_back(inner, std::move(split.direct));
    GPUMIG_TRY(CheckReadable(map.processes.back(), pid));
  }
  if (map.processes.empty()) return map;
  const UniqueFd file = GPUMIG_TRY(OpenFile(images / kMemoryMapFile, O_WRONLY | O_CREAT | O_EXCL, 0600));
  GPUMIG_TRY(WriteAll(file.get(), map.Serialise()));
  return map;
}

}  // namespace gpumig
