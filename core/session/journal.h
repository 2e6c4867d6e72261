// The journal of one side of one migration: what was decided, on disk before it is done.
//
// Format: one file `<migration id>.source.journal` or `.target.journal` of 65536 bytes, preallocated, mode 0600, little
// endian. Slots of 256 bytes: slot 0 the header, 1 to 31 the facts (JSON, zero filled), 32 to 255 records, zero until
// used.
//   header: u32 magic "GMJH", u16 version (1), u8 side, u8 0, u64 0, u64 written (ms since 1970), u32 facts size, u32
//   0,
//           migration id (16), journal id (16), SHA-256 of slots 1 to 31 (32), zeros; at 224: SHA-256 of bytes 0 to
//           223.
//   record: u32 magic "GMJR", u8 state, u8 settled, u8 reason, u8 0, u64 sequence (from 1), u64 written, u32 attempt,
//           u32 text size, manifest (32), target journal (16), text (96), zeros; at 224: SHA-256 of the previous
//           record's (or header's) hash followed by bytes 0 to 223.
// The chain of hashes ties each record to all before it and to this file. Bytes never move and the size never changes,
// so any other size is damage. A slot that was being written when the power went ends in zeros, and is cut: what it
// would have allowed was not done yet. Any other slot that does not check out is damage, the last one too: what it
// allowed may have been done, and nothing may be guessed.
#pragma once

#include <array>
#include <chrono>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/unique_fd.h"
#include "core/session/handoff_types.h"
#include "core/session/ports.h"

namespace gpumig {

// What does not change during a migration.
struct MigrationFacts {
  Side side = Side::kSource;
  Binding binding;
  std::string workload;  // its name; at most 256 bytes
  std::string note;      // for the owner: what it needs to find tree, image and peer again; at most 4096 bytes, UTF-8
  bool operator==(const MigrationFacts&) const = default;
};

// Ownership: holds the file and an exclusive lock on it while it lives.
// Thread safety: one thread at a time.
class Journal : public StateJournal {
 public:
  // A journal without records. All space it will ever need is allocated: call this before the workload is touched.
  // Errors: kNoSpace; kAlreadyExists, this side of this migration has one; kInvalidArgument, facts beyond their limits.
  static Result<std::unique_ptr<Journal>> Create(const std::filesystem::path& directory, const MigrationFacts& facts);

  // What is read is written and synced again first, so that what we act upon is on the disk and not only in its cache.
  // Errors: kDamaged, refuse to act and call a person; kFailedPrecondition, another process has it open; kNotFound;
  //     kUnsupported, another version.
  static Result<std::unique_ptr<Journal>> Open(const std::filesystem::path& directory, const MigrationId& migration,
                                               Side side);

  const MigrationFacts& facts() const { return facts_; }

  // When its last record was decided; without records, when it was made.
  std::chrono::system_clock::time_point last_written() const { return last_written_; }

  const JournalId& id() const override { return id_; }
  const std::vector<StateRecord>& records() const override { return records_; }
  // A record that breaks the law of CheckTransition() is refused (kInternal) before anything is written.
  Result<void> Append(const StateRecord& record) override;

 private:
  using Hash = std::array<std::byte, 32>;

  Journal() = default;
  Result<void> Read();
  Result<void> ReadHeader(std::span<const std::byte> file);
  Result<void> ReadRecords(std::span<const std::byte> file);

  UniqueFd fd_;
  std::filesystem::path path_;
  MigrationFacts facts_;
  JournalId id_;
  std::vector<StateRecord> records_;
  std::chrono::system_clock::time_point last_written_;
  Hash last_hash_{};     // of the last record, or the header
  bool broken_ = false;  // a write failed: what is on disk is not known
};

struct JournalName {
  MigrationId migration;
  Side side = Side::kSource;
  bool operator==(const JournalName&) const = default;
};

// What an agent finds when it starts, sorted by id; files that are not journals are passed over. A directory that does
// not exist holds none.
Result<std::vector<JournalName>> ListJournals(const std::filesystem::path& directory);
Result<void> RemoveJournal(const std::filesystem::path& directory, const JournalName& name);

}  // namespace gpumig
