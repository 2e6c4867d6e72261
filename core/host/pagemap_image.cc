#include "core/host/pagemap_image.h"

#include <fcntl.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/wire_format_lite.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <limits>
#include <optional>

#include "core/base/file.h"

namespace gpumig {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;
using google::protobuf::io::StringOutputStream;

constexpr std::uint32_t kCommonMagic = 0x54564319;
constexpr std::uint32_t kPagemapMagic = 0x56084025;
constexpr std::uint32_t kCoreMagic = 0x55053847;
constexpr std::size_t kMagicBytes = 8;
constexpr std::size_t kLargestCoreBytes = std::size_t{1} << 20;
// What the page count of CRIU 4.1 can say.
constexpr std::uint64_t kMostPagesOfEntry = std::numeric_limits<std::uint32_t>::max() / 2;

namespace field {
constexpr int kHeadPagesId = 1;
constexpr int kEntryAddress = 1;
constexpr int kEntryPages = 2;
constexpr int kEntryFlags = 4;
constexpr int kEntryPagesOf42 = 5;
constexpr int kCoreThread = 5;
constexpr int kThreadRseq = 15;
constexpr int kRseqPointer = 1;
constexpr int kRseqSize = 2;
}  // namespace field

void AppendMagic(std::string& file) {
  const std::uint32_t magic[] = {kCommonMagic, kPagemapMagic};
  file.append(reinterpret_cast<const char*>(magic), sizeof(magic));
}

// A message of varint fields, with its length before it.
void AppendMessage(std::string& file, std::initializer_list<std::pair<int, std::uint64_t>> fields) {
  std::string message;
  {
    StringOutputStream text(&message);
    CodedOutputStream out(&text);
    for (const auto& [number, value] : fields) {
      out.WriteTag(WireFormatLite::MakeTag(number, WireFormatLite::WIRETYPE_VARINT));
      out.WriteVarint64(value);
    }
  }
  const auto size = static_cast<std::uint32_t>(message.size());
  file.append(reinterpret_cast<const char*>(&size), sizeof(size));
  file += message;
}

// Calls `use` with the number of each field, which reads it or leaves it; false where the bytes are no message.
bool ForEachField(CodedInputStream& in, const std::function<bool(int number, std::uint32_t tag)>& use) {
  while (const std::uint32_t tag = in.ReadTag()) {
    if (!use(WireFormatLite::GetTagFieldNumber(tag), tag)) return false;
  }
  return in.ConsumedEntireMessage() || in.BytesUntilLimit() == 0;
}

// Into the message that is the next field.
bool Enter(CodedInputStream& in, const std::function<bool()>& read) {
  std::uint32_t bytes = 0;
  if (!in.ReadVarint32(&bytes) || bytes > kLargestCoreBytes) return false;
  const CodedInputStream::Limit limit = in.PushLimit(static_cast<int>(bytes));
  const bool done = read() && in.BytesUntilLimit() == 0;
  in.PopLimit(limit);
  return done;
}

bool ReadRseq(CodedInputStream& in, ThreadArea& area) {
  return ForEachField(in, [&](int number, std::uint32_t tag) {
    if (number == field::kRseqPointer) return in.ReadVarint64(&area.address);
    if (number == field::kRseqSize) return in.ReadVarint64(&area.bytes);
    return WireFormatLite::SkipField(&in, tag);
  });
}

// Nothing: the thread has none. Errors: kUnsupported.
Result<std::optional<ThreadArea>> RseqAreaIn(const std::filesystem::path& path) {
  const std::vector<std::byte> bytes = GPUMIG_TRY(ReadBinaryFile(path, kLargestCoreBytes));
  CodedInputStream in(reinterpret_cast<const std::uint8_t*>(bytes.data()), static_cast<int>(bytes.size()));
  std::uint32_t common = 0;
  std::uint32_t magic = 0;
  std::uint32_t size = 0;
  ThreadArea area;
  const bool understood = in.ReadLittleEndian32(&common) && in.ReadLittleEndian32(&magic) &&
                          in.ReadLittleEndian32(&size) && common == kCommonMagic && magic == kCoreMagic &&
                          bytes.size() - kMagicBytes - sizeof(size) == size &&
                          ForEachField(in, [&](int number, std::uint32_t tag) {
                            if (number != field::kCoreThread) return WireFormatLite::SkipField(&in, tag);
                            return Enter(in, [&] {
                              return ForEachField(in, [&](int inner, std::uint32_t inner_tag) {
                                if (inner != field::kThreadRseq) return WireFormatLite::SkipField(&in, inner_tag);
                                return Enter(in, [&] { return ReadRseq(in, area); });
                              });
                            });
                          });
  if (!understood) return MakeError(ErrorCode::kUnsupported, "{} is not as CRIU 4.1 writes it", path.string());
  if (area.address == 0) return std::optional<ThreadArea>();
  return std::optional(area);
}

// "core-123.img"
std::optional<pid_t> ThreadOf(std::string_view name) {
  constexpr std::string_view kPrefix = "core-";
  constexpr std::string_view kSuffix = ".img";
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  name.remove_suffix(std::min(kSuffix.size(), name.size()));
  pid_t thread = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), thread);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return thread;
}

}  // namespace

Result<PagemapImage> PagemapImage::Create(const std::filesystem::path& images, const std::string& name,
                                          std::uint32_t pages_id) {
  PagemapImage image;
  image.map_path_ = images / name;
  AppendMagic(image.map_);
  AppendMessage(image.map_, {{field::kHeadPagesId, pages_id}});
  image.pages_ =
      GPUMIG_TRY(OpenFile(images / fmt::format("pages-{}.img", pages_id), O_WRONLY | O_CREAT | O_EXCL, 0600));
  return image;
}

Result<void> PagemapImage::AddEntry(const MemoryRange& range) {
  std::uint64_t address = range.address;
  for (std::uint64_t left = range.bytes / kPageBytes; left > 0;) {
    const std::uint64_t pages = std::min(left, kMostPagesOfEntry);
    AppendMessage(map_, {{field::kEntryAddress, address},
                         {field::kEntryPages, pages},
                         {field::kEntryFlags, kPagePresent},
                         {field::kEntryPagesOf42, pages}});
    address += pages * kPageBytes;
    left -= pages;
  }
  return Ok();
}

Result<void> PagemapImage::Finish() {
  const UniqueFd map = GPUMIG_TRY(OpenFile(map_path_, O_WRONLY | O_CREAT | O_EXCL, 0600));
  return gpumig::WriteAll(map.get(), map_);
}

Result<void> PagemapImage::WriteAll(int fd, std::span<const std::byte> bytes) { return gpumig::WriteAll(fd, bytes); }

Result<std::vector<ThreadArea>> RseqAreas(const std::filesystem::path& images) {
  std::vector<ThreadArea> areas;
  std::error_code error;
  for (const std::filesystem::directory_entry& entry : std::filesystem::directory_iterator(images, error)) {
    const std::optional<pid_t> thread = ThreadOf(entry.path().filename().string());
    if (!thread) continue;
    std::optional<ThreadArea> area = GPUMIG_TRY(RseqAreaIn(entry.path()));
    if (!area) continue;
    area->thread = *thread;
    areas.push_back(*area);
  }
  if (error) return Error::FromErrno(error.value(), fmt::format("list {}", images.string()));
  return areas;
}

}  // namespace gpumig
