#include "core/session/journal.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "core/base/bytes.h"
#include "core/base/check.h"
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/session/journal_check.h"

namespace gpumig {
namespace {

constexpr std::size_t kFileBytes = 65536;
constexpr std::size_t kSlotBytes = 256;
constexpr std::size_t kHashedBytes = 224;
constexpr std::size_t kFactSlots = 31;
constexpr std::size_t kFactBytes = kFactSlots * kSlotBytes;
constexpr std::size_t kFirstRecordSlot = 1 + kFactSlots;
constexpr std::size_t kRecordSlots = kFileBytes / kSlotBytes - kFirstRecordSlot;
constexpr std::uint32_t kHeaderMagic = 0x484a4d47;  // "GMJH"
constexpr std::uint32_t kRecordMagic = 0x524a4d47;  // "GMJR"
constexpr std::uint16_t kVersion = 1;
constexpr std::size_t kMaxWorkloadName = 256;
constexpr std::size_t kMaxNote = 4096;
constexpr std::uint64_t kLatestMilliseconds = 253'402'300'799'000;  // the end of the year 9999
// A whole record ends in this many zero bytes once in 2^64; one cut short by a power loss does always, save where the
// cut is within its last eight bytes, which a disk's sectors make impossible: then it counts as damaged.
constexpr std::size_t kTornTailBytes = 8;

using Hash = std::array<std::byte, 32>;

// SHA-256 of `first` followed by `second`.
Hash HashOf(std::span<const std::byte> first, std::span<const std::byte> second = {}) {
  Hash hash;
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  GPUMIG_CHECK(context != nullptr && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1);
  GPUMIG_CHECK(EVP_DigestUpdate(context.get(), first.data(), first.size()) == 1);
  GPUMIG_CHECK(EVP_DigestUpdate(context.get(), second.data(), second.size()) == 1);
  GPUMIG_CHECK(EVP_DigestFinal_ex(context.get(), reinterpret_cast<unsigned char*>(hash.data()), nullptr) == 1);
  return hash;
}

using WallClock = std::chrono::system_clock;

std::uint64_t Milliseconds(WallClock::time_point time) {
  const auto since = std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch());
  return static_cast<std::uint64_t>(since.count());
}

// Of the time in a header or record slot, which stands behind eight and eight bytes in both.
Result<WallClock::time_point> WrittenAt(std::span<const std::byte> slot) {
  ByteReader reader(slot.subspan(16));
  const std::uint64_t milliseconds = std::min(GPUMIG_TRY(reader.U64()), kLatestMilliseconds);
  return WallClock::time_point(std::chrono::milliseconds(static_cast<std::int64_t>(milliseconds)));
}

bool IsZero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

std::filesystem::path PathOf(const std::filesystem::path& directory, const MigrationId& migration, Side side) {
  return directory / fmt::format("{}.{}.journal", migration.ToHex(), SideName(side));
}

void PadTo(ByteWriter& writer, std::size_t size) {
  GPUMIG_CHECK(writer.bytes().size() <= size);
  writer.Bytes(std::vector<std::byte>(size - writer.bytes().size()));
}

std::vector<std::byte> EncodeFacts(const MigrationFacts& facts) {
  const std::string text = ToText(Json{{"migration", facts.binding.migration.ToHex()},
                                       {"side", SideName(facts.side)},
                                       {"source", facts.binding.source},
                                       {"target", facts.binding.target},
                                       {"workload", facts.workload},
                                       {"note", facts.note}});
  ByteWriter writer;
  writer.Bytes(std::as_bytes(std::span(text)));
  return writer.Take();
}

Result<MigrationFacts> DecodeFacts(std::string_view text) {
  const Json json = GPUMIG_TRY(ParseJson(text));
  MigrationFacts facts;
  const std::string migration = GPUMIG_TRY(StringMember(json, "migration"));
  facts.binding.migration = GPUMIG_TRY(MigrationId::FromHex(migration));
  const std::string side = GPUMIG_TRY(StringMember(json, "side"));
  facts.side = side == SideName(Side::kSource) ? Side::kSource : Side::kTarget;
  facts.binding.source = GPUMIG_TRY(StringMember(json, "source"));
  facts.binding.target = GPUMIG_TRY(StringMember(json, "target"));
  facts.workload = GPUMIG_TRY(StringMember(json, "workload"));
  facts.note = GPUMIG_TRY(StringMember(json, "note"));
  return facts;
}

Result<void> CheckFacts(const MigrationFacts& facts, std::size_t encoded_bytes) {
  if (!IsNodeName(facts.binding.source) || !IsNodeName(facts.binding.target)) {
    return MakeError(ErrorCode::kInvalidArgument, "'{}' or '{}' is no node name", facts.binding.source,
                     facts.binding.target);
  }
  if (facts.workload.size() > kMaxWorkloadName || facts.note.size() > kMaxNote || encoded_bytes > kFactBytes) {
    return MakeError(ErrorCode::kInvalidArgument,
                     "the workload's name ({} bytes, at most {}) or the note ({}, at most {}) is too long",
                     facts.workload.size(), kMaxWorkloadName, facts.note.size(), kMaxNote);
  }
  return Ok();
}

// Header slot and facts.
std::vector<std::byte> EncodeHead(const MigrationFacts& facts, const JournalId& id,
                                  std::span<const std::byte> encoded_facts, WallClock::time_point now) {
  ByteWriter fact_slots;
  fact_slots.Bytes(encoded_facts);
  PadTo(fact_slots, kFactBytes);
  ByteWriter writer;
  writer.U32(kHeaderMagic);
  writer.U16(kVersion);
  writer.U8(static_cast<std::uint8_t>(facts.side));
  writer.U8(0);
  writer.U64(0);
  writer.U64(Milliseconds(now));
  writer.U32(static_cast<std::uint32_t>(encoded_facts.size()));
  writer.U32(0);
  writer.Bytes(facts.binding.migration.bytes);
  writer.Bytes(id.bytes);
  writer.Bytes(HashOf(fact_slots.bytes()));
  PadTo(writer, kHashedBytes);
  const Hash hash = HashOf(writer.bytes());
  writer.Bytes(hash);
  writer.Bytes(fact_slots.bytes());
  return writer.Take();
}

std::vector<std::byte> EncodeRecord(const StateRecord& record, std::uint64_t sequence, const Hash& previous,
                                    WallClock::time_point now) {
  const std::string text = record.cause.text.substr(0, kMaxRecordText);
  ByteWriter writer;
  writer.U32(kRecordMagic);
  writer.U8(static_cast<std::uint8_t>(record.stage));
  writer.U8(record.settled ? 1 : 0);
  writer.U8(static_cast<std::uint8_t>(record.cause.reason));
  writer.U8(0);
  writer.U64(sequence);
  writer.U64(Milliseconds(now));
  writer.U32(record.attempt);
  writer.U32(static_cast<std::uint32_t>(text.size()));
  writer.Bytes(record.manifest.bytes);
  writer.Bytes(record.target_journal.bytes);
  writer.Bytes(std::as_bytes(std::span(text)));
  PadTo(writer, kHashedBytes);
  writer.Bytes(HashOf(previous, writer.bytes()));
  return writer.Take();
}

template <typename Id>
Result<Id> ReadId(ByteReader& reader) {
  const std::span<const std::byte> bytes = GPUMIG_TRY(reader.Bytes(Id::kBytes));
  Id id;
  std::copy(bytes.begin(), bytes.end(), id.bytes.begin());
  return id;
}

// Of a slot whose hash is right.
Result<StateRecord> DecodeRecord(std::span<const std::byte> slot, std::uint64_t sequence) {
  ByteReader reader(slot);
  StateRecord record;
  if (GPUMIG_TRY(reader.U32()) != kRecordMagic) return MakeError(ErrorCode::kDamaged, "it is no record");
  const std::uint8_t stage = GPUMIG_TRY(reader.U8());
  record.stage = GPUMIG_TRY(StageFromNumber(stage));
  record.settled = GPUMIG_TRY(reader.U8()) != 0;
  const std::uint8_t reason = GPUMIG_TRY(reader.U8());
  record.cause.reason = GPUMIG_TRY(ReasonFromNumber(reason));
  GPUMIG_TRY(reader.U8());
  const std::uint64_t found = GPUMIG_TRY(reader.U64());
  if (found != sequence) return MakeError(ErrorCode::kDamaged, "its number is {}, not {}", found, sequence);
  GPUMIG_TRY(reader.U64());
  record.attempt = GPUMIG_TRY(reader.U32());
  const std::uint32_t text_bytes = GPUMIG_TRY(reader.U32());
  if (text_bytes > kMaxRecordText) return MakeError(ErrorCode::kDamaged, "its text has {} bytes", text_bytes);
  record.manifest = GPUMIG_TRY(ReadId<ManifestDigest>(reader));
  record.target_journal = GPUMIG_TRY(ReadId<JournalId>(reader));
  const std::span<const std::byte> text = GPUMIG_TRY(reader.Bytes(text_bytes));
  record.cause.text.assign(reinterpret_cast<const char*>(text.data()), text.size());
  return record;
}

Result<void> Lock(int fd, const std::filesystem::path& path) {
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return Ok();
  if (errno != EWOULDBLOCK) return Error::FromErrno(errno, fmt::format("flock {}", path.string()));
  return MakeError(ErrorCode::kFailedPrecondition, "{} is in use by another process", path.string())
      .WithNextStep("only one agent may act on a migration; is another one running on this node?");
}

Result<void> Sync(int fd) {
  if (fdatasync(fd) != 0) return Error::FromErrno(errno, "fdatasync");
  return Ok();
}

Error Damaged(const std::filesystem::path& path, std::string_view what) {
  return MakeError(ErrorCode::kDamaged, "journal {}: {}", path.string(), what)
      .WithNextStep(
          "nothing is done with this migration; look at both nodes, and let the workload run on one of them only when "
          "it is certain that it does not run on the other");
}

}  // namespace

Result<std::unique_ptr<Journal>> Journal::Create(const std::filesystem::path& directory, const MigrationFacts& facts) {
  const std::vector<std::byte> encoded_facts = EncodeFacts(facts);
  GPUMIG_TRY(CheckFacts(facts, encoded_facts.size()), "create journal");
  GPUMIG_TRY(MakeDirectories(directory));
  const std::filesystem::path path = PathOf(directory, facts.binding.migration, facts.side);

  std::unique_ptr<Journal> journal(new Journal);
  journal->path_ = path;
  journal->facts_ = facts;
  journal->id_ = JournalId::Random();
  journal->last_written_ = WallClock::now();
  const std::vector<std::byte> head = EncodeHead(facts, journal->id_, encoded_facts, journal->last_written_);
  std::copy_n(head.begin() + kHashedBytes, sizeof(Hash), journal->last_hash_.begin());

  const auto fill = [&]() -> Result<void> {
    // Without a name until it is whole, so that a journal that has one is whole.
    journal->fd_ = GPUMIG_TRY(OpenFile(directory, O_TMPFILE | O_RDWR, 0600));
    const int fd = journal->fd_.get();
    GPUMIG_TRY(Lock(fd, path));
    if (fallocate(fd, 0, 0, kFileBytes) != 0)
      return Error::FromErrno(errno, fmt::format("allocate {} bytes", kFileBytes));
    GPUMIG_TRY(WriteAllAt(fd, head, 0));
    if (fsync(fd) != 0) return Error::FromErrno(errno, "fsync");
    const std::string link_from = fmt::format("/proc/self/fd/{}", fd);
    if (linkat(AT_FDCWD, link_from.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      return Error::FromErrno(errno, "link");
    }
    return SyncDirectory(directory);
  };
  GPUMIG_TRY(fill(), "create journal {}", path.string());
  return journal;
}

Result<std::unique_ptr<Journal>> Journal::Open(const std::filesystem::path& directory, const MigrationId& migration,
                                               Side side) {
  std::unique_ptr<Journal> journal(new Journal);
  journal->path_ = PathOf(directory, migration, side);
  journal->facts_.side = side;
  journal->facts_.binding.migration = migration;
  journal->fd_ = GPUMIG_TRY(OpenFile(journal->path_, O_RDWR | O_NOFOLLOW));
  GPUMIG_TRY(Lock(journal->fd_.get(), journal->path_));
  GPUMIG_TRY(journal->Read());
  return journal;
}

Result<void> Journal::Read() {
  struct stat status = {};
  if (fstat(fd_.get(), &status) != 0) return Error::FromErrno(errno, fmt::format("stat {}", path_.string()));
  if (!S_ISREG(status.st_mode) || static_cast<std::size_t>(status.st_size) != kFileBytes) {
    return Damaged(path_, fmt::format("it has {} bytes, not {}", status.st_size, kFileBytes));
  }
  std::vector<std::byte> file(kFileBytes);
  GPUMIG_TRY(ReadExactlyAt(fd_.get(), file, 0), "read journal {}", path_.string());
  GPUMIG_TRY(ReadHeader(file));
  GPUMIG_TRY(ReadRecords(file));

  const std::size_t used = (kFirstRecordSlot + records_.size()) * kSlotBytes;
  std::fill(file.begin() + static_cast<std::ptrdiff_t>(used), file.end(), std::byte{0});
  GPUMIG_TRY(WriteAllAt(fd_.get(), file, 0), "rewrite journal {}", path_.string());
  GPUMIG_TRY(Sync(fd_.get()), "rewrite journal {}", path_.string());
  return Ok();
}

Result<void> Journal::ReadHeader(std::span<const std::byte> file) {
  const std::span<const std::byte> slot = file.first(kSlotBytes);
  std::copy_n(slot.begin() + kHashedBytes, sizeof(Hash), last_hash_.begin());
  if (HashOf(slot.first(kHashedBytes)) != last_hash_) return Damaged(path_, "its header is not what was written");
  ByteReader reader(slot);
  if (GPUMIG_TRY(reader.U32()) != kHeaderMagic) return Damaged(path_, "it is no journal");
  last_written_ = GPUMIG_TRY(WrittenAt(slot));
  const std::uint16_t version = GPUMIG_TRY(reader.U16());
  if (version != kVersion) {
    return MakeError(ErrorCode::kUnsupported, "journal {} is of version {}, this program knows version {}",
                     path_.string(), version, kVersion);
  }
  const std::uint8_t side = GPUMIG_TRY(reader.U8());
  GPUMIG_TRY(reader.Bytes(17));
  const std::uint32_t fact_bytes = GPUMIG_TRY(reader.U32());
  GPUMIG_TRY(reader.U32());
  const MigrationId migration = GPUMIG_TRY(ReadId<MigrationId>(reader));
  id_ = GPUMIG_TRY(ReadId<JournalId>(reader));
  const std::span<const std::byte> fact_hash = GPUMIG_TRY(reader.Bytes(sizeof(Hash)));
  if (side != static_cast<std::uint8_t>(facts_.side) || migration != facts_.binding.migration) {
    return Damaged(path_, "it belongs to another migration or side");
  }
  const std::span<const std::byte> fact_slots = file.subspan(kSlotBytes, kFactBytes);
  const Hash found = HashOf(fact_slots);
  if (!std::equal(found.begin(), found.end(), fact_hash.begin()) || fact_bytes > kFactBytes) {
    return Damaged(path_, "its facts are not what was written");
  }
  Result<MigrationFacts> facts =
      DecodeFacts(std::string_view(reinterpret_cast<const char*>(fact_slots.data()), fact_bytes));
  if (!facts) return Damaged(path_, facts.error().message());
  if (facts->side != facts_.side || facts->binding.migration != migration)
    return Damaged(path_, "its facts are of another one");
  facts_ = *std::move(facts);
  return Ok();
}

Result<void> Journal::ReadRecords(std::span<const std::byte> file) {
  for (std::size_t i = 0; i < kRecordSlots; ++i) {
    const std::size_t offset = (kFirstRecordSlot + i) * kSlotBytes;
    const std::span<const std::byte> slot = file.subspan(offset, kSlotBytes);
    const std::span<const std::byte> rest = file.subspan(offset + kSlotBytes);
    const Hash hash = HashOf(last_hash_, slot.first(kHashedBytes));
    if (!std::equal(hash.begin(), hash.end(), slot.begin() + kHashedBytes)) {
      const bool unused_or_torn = IsZero(slot.last(kTornTailBytes)) && IsZero(rest);
      if (unused_or_torn) break;
      return Damaged(path_, fmt::format("record {} is not what was written", i + 1));
    }
    Result<StateRecord> record = DecodeRecord(slot, i + 1);
    if (!record) return Damaged(path_, fmt::format("record {}: {}", i + 1, record.error().message()));
    records_.push_back(*std::move(record));
    last_written_ = GPUMIG_TRY(WrittenAt(slot));
    last_hash_ = hash;
  }
  const Result<void> lawful = CheckRecords(facts_.side, records_);
  if (!lawful) return Damaged(path_, lawful.error().message());
  return Ok();
}

Result<void> Journal::Append(const StateRecord& record) {
  if (broken_) {
    return MakeError(ErrorCode::kFailedPrecondition, "journal {}: an earlier write failed, so nothing more is written",
                     path_.string());
  }
  const std::optional<StateRecord> previous = records_.empty() ? std::nullopt : std::optional(records_.back());
  const Result<void> lawful = CheckTransition(facts_.side, previous, record);
  if (!lawful) return MakeError(ErrorCode::kInternal, "journal {}: {}", path_.string(), lawful.error().message());
  if (records_.size() == kRecordSlots) {
    return MakeError(ErrorCode::kResourceExhausted, "journal {} is full with {} records", path_.string(), kRecordSlots);
  }
  const WallClock::time_point now = WallClock::now();
  const std::vector<std::byte> slot = EncodeRecord(record, records_.size() + 1, last_hash_, now);
  const std::size_t offset = (kFirstRecordSlot + records_.size()) * kSlotBytes;
  Result<void> written = WriteAllAt(fd_.get(), slot, offset);
  if (written) written = Sync(fd_.get());
  if (!written) {
    broken_ = true;
    return written.error()
        .AddContext(fmt::format("journal {}: record {}", path_.string(), Name(record.stage)))
        .WithNextStep("restart the agent: it reads the journal anew and goes on from what is on the disk");
  }
  records_.push_back(record);
  records_.back().cause.text = record.cause.text.substr(0, kMaxRecordText);
  last_written_ = now;
  std::copy_n(slot.begin() + kHashedBytes, sizeof(Hash), last_hash_.begin());
  return Ok();
}

Result<std::vector<JournalName>> ListJournals(const std::filesystem::path& directory) {
  std::vector<JournalName> names;
  std::error_code error;
  std::filesystem::directory_iterator entries(directory, error);
  if (error == std::errc::no_such_file_or_directory) return names;
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    const std::string name = entries->path().filename().string();
    for (const Side side : {Side::kSource, Side::kTarget}) {
      const std::string suffix = fmt::format(".{}.journal", SideName(side));
      if (!name.ends_with(suffix)) continue;
      const Result<MigrationId> migration = MigrationId::FromHex(name.substr(0, name.size() - suffix.size()));
      if (migration) names.push_back({*migration, side});
    }
  }
  if (error) return Error::FromErrno(error.value(), fmt::format("list {}", directory.string()));
  std::sort(names.begin(), names.end(), [](const JournalName& a, const JournalName& b) {
    return a.migration != b.migration ? a.migration < b.migration : a.side < b.side;
  });
  return names;
}

Result<void> RemoveJournal(const std::filesystem::path& directory, const JournalName& name) {
  const std::filesystem::path path = PathOf(directory, name.migration, name.side);
  if (unlink(path.c_str()) != 0) return Error::FromErrno(errno, fmt::format("remove {}", path.string()));
  return SyncDirectory(directory);
}

}  // namespace gpumig
