#include "core/host/page_server.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>

#include "core/base/file.h"
#include "core/host/pagemap_image.h"

namespace gpumig {
namespace {

// Commands, in the low 16 bits of a record's first word; the flags of a page entry are above.
constexpr std::uint32_t kOpen = 3;
constexpr std::uint32_t kOpenAndAnswer = 4;
constexpr std::uint32_t kHasParent = 5;
constexpr std::uint32_t kAddPages = 6;
constexpr std::uint32_t kClose = 0x1023;
constexpr std::uint32_t kForceClose = 0x1024;
constexpr unsigned kFlagsShift = 16;

// What pages belong to, in the low byte of a record's id.
constexpr std::uint64_t kOfProcess = 1;
constexpr std::uint64_t kOfSharedMemory = 2;

constexpr std::size_t kShortRecordBytes = 24;  // CRIU 4.1: u32 command, u32 pages, u64 address, u64 id
constexpr std::size_t kLongRecordBytes = 32;   // CRIU 4.2: u32 command, 4 bytes of nothing, u64 pages, address, id
constexpr std::size_t kBufferBytes = std::size_t{1} << 20;
// More than any address space has.
constexpr std::uint64_t kMostPages = std::uint64_t{1} << 45;

struct Record {
  std::uint32_t command = 0;
  std::uint32_t flags = 0;
  std::uint64_t pages = 0;
  std::uint64_t address = 0;
  std::uint64_t id = 0;
};

template <typename T>
T Load(const std::byte* from) {
  T value;
  memcpy(&value, from, sizeof(value));
  return value;
}

class Connection {
 public:
  explicit Connection(UniqueFd socket) : socket_(std::move(socket)) {}

  // Nothing: CRIU has closed its end.
  Result<std::optional<Record>> Receive() {
    std::array<std::byte, kLongRecordBytes> bytes{};
    if (!GPUMIG_TRY(Fill(std::span(bytes).first(kShortRecordBytes)))) return std::optional<Record>();
    // The first record of all opens something, at address 0 and without pages: so the place of its id tells how long
    // records are.
    if (!long_records_) long_records_ = Load<std::uint64_t>(&bytes[16]) == 0;
    const std::uint32_t word = Load<std::uint32_t>(bytes.data());
    Record record{.command = word & ((1u << kFlagsShift) - 1), .flags = word >> kFlagsShift};
    if (!*long_records_) {
      record.pages = Load<std::uint32_t>(&bytes[4]);
      record.address = Load<std::uint64_t>(&bytes[8]);
      record.id = Load<std::uint64_t>(&bytes[16]);
      return std::optional(record);
    }
    if (!GPUMIG_TRY(Fill(std::span(bytes).subspan(kShortRecordBytes)))) return CutShort();
    record.pages = Load<std::uint64_t>(&bytes[8]);
    record.address = Load<std::uint64_t>(&bytes[16]);
    record.id = Load<std::uint64_t>(&bytes[24]);
    return std::optional(record);
  }

  Result<void> Answer(std::span<const std::byte> bytes) { return WriteAll(socket_.get(), bytes); }

  // The bytes that follow a record, a piece at a time.
  template <typename Use>
  Result<void> Drain(std::uint64_t bytes, const Use& use) {
    while (bytes > 0) {
      const std::span<std::byte> piece = std::span(buffer_).first(std::min<std::uint64_t>(bytes, buffer_.size()));
      if (!GPUMIG_TRY(Fill(piece))) return CutShort();
      GPUMIG_TRY(use(piece));
      bytes -= piece.size();
    }
    return Ok();
  }

  // Bytes that follow a record and that nobody wants: from the socket through a pipe to nowhere, without a copy.
  Result<void> Skip(std::uint64_t bytes) {
    if (!pipe_) {
      pipe_.emplace(GPUMIG_TRY(MakePipe()));
      // Less than asked for costs time only.
      fcntl(pipe_->write_end.get(), F_SETPIPE_SZ, static_cast<int>(kBufferBytes));
      nowhere_ = GPUMIG_TRY(OpenFile("/dev/null", O_WRONLY));
    }
    while (bytes > 0) {
      ssize_t count = splice(socket_.get(), nullptr, pipe_->write_end.get(), nullptr,
                             std::min<std::uint64_t>(bytes, kBufferBytes), SPLICE_F_MOVE);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return Error::FromErrno(errno, "receive pages from criu");
      if (count == 0) return CutShort();
      bytes -= static_cast<std::uint64_t>(count);
      while (count > 0) {
        const ssize_t gone = splice(pipe_->read_end.get(), nullptr, nowhere_.get(), nullptr,
                                    static_cast<std::size_t>(count), SPLICE_F_MOVE);
        if (gone <= 0) return Error::FromErrno(errno, "put pages away");
        count -= gone;
      }
    }
    return Ok();
  }

  static Error CutShort() { return MakeError(ErrorCode::kUnavailable, "criu ended in the middle of its pages"); }

 private:
  // False: there is nothing more, not even the first byte.
  Result<bool> Fill(std::span<std::byte> into) {
    std::size_t got = 0;
    while (got < into.size()) {
      const ssize_t count = recv(socket_.get(), into.data() + got, into.size() - got, MSG_WAITALL);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return Error::FromErrno(errno, "receive pages from criu");
      if (count == 0 && got == 0) return false;
      if (count == 0) return CutShort();
      got += static_cast<std::size_t>(count);
    }
    return true;
  }

  UniqueFd socket_;
  std::optional<bool> long_records_;
  std::optional<Pipe> pipe_;
  UniqueFd nowhere_;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(kBufferBytes);
};

class Dump {
 public:
  Dump(UniqueFd socket, std::filesystem::path images) : connection_(std::move(socket)), images_(std::move(images)) {}

  Result<DumpedPages> Serve() {
    while (true) {
      const std::optional<Record> record = GPUMIG_TRY(connection_.Receive());
      if (!record) return MakeError(ErrorCode::kUnavailable, "criu ended before it had dumped all pages");
      switch (record->command) {
        case kOpen:
        case kOpenAndAnswer:
          GPUMIG_TRY(Open(*record));
          break;
        case kHasParent:
          GPUMIG_TRY(AnswerNumber(0));
          break;
        case kAddPages:
          GPUMIG_TRY(Add(*record));
          break;
        case kClose:
        case kForceClose:
          GPUMIG_TRY(CloseShared());
          GPUMIG_TRY(AnswerNumber(0));
          return std::move(dumped_);
        default:
          return MakeError(ErrorCode::kUnsupported, "criu's page server protocol has a command {} here",
                           record->command);
      }
    }
  }

 private:
  Result<void> AnswerNumber(std::int32_t number) { return connection_.Answer(std::as_bytes(std::span(&number, 1))); }

  Result<void> Open(const Record& record) {
    GPUMIG_TRY(CloseShared());
    const std::uint64_t kind = record.id & 0xff;
    const std::uint64_t number = record.id >> 8;
    if (kind == kOfProcess && number > 0 && number <= static_cast<std::uint64_t>(std::numeric_limits<pid_t>::max())) {
      process_ = &dumped_.processes[static_cast<pid_t>(number)];
    } else if (kind == kOfSharedMemory) {
      process_ = nullptr;
      shared_.emplace(GPUMIG_TRY(
          PagemapImage::Create(images_, fmt::format("pagemap-shmem-{}.img", number), dumped_.next_pages_id++)));
    } else {
      return MakeError(ErrorCode::kUnsupported, "criu's page server protocol has pages of {:#x} here", record.id);
    }
    open_id_ = record.id;
    if (record.command != kOpenAndAnswer) return Ok();
    constexpr std::byte kNoParent{0};
    return connection_.Answer(std::span(&kNoParent, 1));
  }

  Result<void> Add(const Record& record) {
    const bool known = record.id == open_id_ && (record.flags & ~kPageMayComeLater) == kPagePresent &&
                       record.pages > 0 && record.pages <= kMostPages && record.address % kPageBytes == 0;
    if (!known) {
      return MakeError(ErrorCode::kUnsupported,
                       "criu's page server protocol has {} pages at {:#x} of {:#x} with flags {:#x} here", record.pages,
                       record.address, record.id, record.flags);
    }
    const std::uint64_t bytes = record.pages * kPageBytes;
    if (shared_) {
      GPUMIG_TRY(shared_->AddEntry({record.address, bytes}));
      return connection_.Drain(bytes, [&](std::span<const std::byte> piece) { return shared_->AddPages(piece); });
    }
    if (!process_->empty() && process_->back().end() > record.address)
      return MakeError(ErrorCode::kUnsupported, "criu's page server protocol has pages out of order here");
    if (!process_->empty() && process_->back().end() == record.address) {
      process_->back().bytes += bytes;
    } else {
      process_->push_back({record.address, bytes});
    }
    return connection_.Skip(bytes);
  }

  Result<void> CloseShared() {
    if (shared_) GPUMIG_TRY(shared_->Finish());
    shared_.reset();
    return Ok();
  }

  Connection connection_;
  std::filesystem::path images_;
  DumpedPages dumped_;
  std::uint64_t open_id_ = 0;
  std::vector<MemoryRange>* process_ = nullptr;  // in dumped_, where a process's pages come
  std::optional<PagemapImage> shared_;           // where shared memory's pages come
};

}  // namespace

Result<DumpedPages> ServePages(UniqueFd socket, const std::filesystem::path& images) {
  return Dump(std::move(socket), images).Serve();
}

}  // namespace gpumig
