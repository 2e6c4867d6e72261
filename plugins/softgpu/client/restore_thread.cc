#include "plugins/softgpu/client/restore_thread.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace softgpu {

using cuda_abi::CUresult;

namespace {

constexpr std::uint64_t kSliceBytes = std::uint64_t{4} << 20;

// Whole structs only; interruptions are retried.
template <typename T>
bool ReadWhole(int fd, T& value) {
  ssize_t count = 0;
  do {
    count = read(fd, &value, sizeof(value));
  } while (count < 0 && errno == EINTR);
  return count == static_cast<ssize_t>(sizeof(value));
}

timespec DeadlineIn(std::uint64_t milliseconds) {
  timespec deadline{};
  clock_gettime(CLOCK_MONOTONIC, &deadline);
  deadline.tv_sec += static_cast<time_t>(milliseconds / 1000);
  deadline.tv_nsec += static_cast<long>(milliseconds % 1000) * 1000000;
  if (deadline.tv_nsec >= 1000000000) {
    deadline.tv_nsec -= 1000000000;
    ++deadline.tv_sec;
  }
  return deadline;
}

// Rounded up: a time limit is not over early.
std::uint64_t MillisecondsUntil(const timespec& deadline) {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const std::int64_t left_ns =
      std::int64_t{deadline.tv_sec - now.tv_sec} * 1000000000 + (deadline.tv_nsec - now.tv_nsec);
  return left_ns > 0 ? static_cast<std::uint64_t>((left_ns + 999999) / 1000000) : 0;
}

bool HasExpired(std::int64_t expires_at_ns) {
  if (expires_at_ns == 0) return false;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return std::int64_t{now.tv_sec} * 1000000000 + now.tv_nsec > expires_at_ns;
}

// One request on a connection of ours.
template <typename Request>
CUresult Ask(int socket, const Request& request, typename Request::Reply& reply, ReceivedFds* fds = nullptr,
             std::span<const int> send_fds = {}) {
  Exchange exchange;
  exchange.header.op = Request::kOp;
  exchange.body = std::as_bytes(std::span(&request, 1));
  exchange.reply_body = std::as_writable_bytes(std::span(&reply, 1));
  exchange.fds = send_fds;
  if (!DoExchange(socket, exchange)) return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  if (fds != nullptr) {
    *fds = exchange.reply_fds;
  } else {
    exchange.reply_fds.CloseAll();
  }
  return static_cast<CUresult>(exchange.reply.result);
}

void CloseLink(SessionLink& link) {
  if (link.owner_fd >= 0) close(link.owner_fd);
  if (link.control_fd >= 0) close(link.control_fd);
  link.owner_fd = -1;
  link.control_fd = -1;
  for (std::size_t i = 0; i < link.device_count; ++i) {
    DeviceSlot& slot = link.devices[i];
    if (slot.window != nullptr) munmap(slot.window, slot.span_bytes);
    if (slot.memory_fd >= 0) close(slot.memory_fd);
    slot.window = nullptr;
    slot.memory_fd = -1;
  }
}

bool IsSameUuid(const cuda_abi::CUuuid& a, const Uuid& b) { return std::memcmp(a.bytes, b.data(), b.size()) == 0; }

}  // namespace

void RestoreThread::Run() {
  __atomic_store_n(&page_.restore_tid, static_cast<std::int32_t>(gettid()), __ATOMIC_RELEASE);
  for (;;) {
    Command command;
    if (!ReadWhole(command_fd_, command)) continue;
    Answer answer;
    answer.sequence = command.sequence;
    answer.result = Do(command);
    // An answer that nobody waited for must not stand before ours for ever.
    Answer stale;
    while (read(answer_pipe_[0], &stale, sizeof(stale)) > 0) {
    }
    [[maybe_unused]] const ssize_t written = write(answer_pipe_[1], &answer, sizeof(answer));
  }
}

cuda_abi::CUprocessState RestoreThread::state() const {
  return static_cast<cuda_abi::CUprocessState>(page_.state.load());
}

CUresult RestoreThread::Do(const Command& command) {
  if (HasExpired(command.expires_at_ns)) return cuda_abi::CUDA_ERROR_NOT_READY;
  cuda_abi::CUprocessState expected = cuda_abi::CU_PROCESS_STATE_LOCKED;
  if (command.kind == CommandKind::kLock) expected = cuda_abi::CU_PROCESS_STATE_RUNNING;
  if (command.kind == CommandKind::kRestore || command.kind == CommandKind::kRestoreCustom) {
    expected = cuda_abi::CU_PROCESS_STATE_CHECKPOINTED;
  }
  if (command.kind == CommandKind::kComplete) {
    expected = state() == cuda_abi::CU_PROCESS_STATE_RESTORING ? cuda_abi::CU_PROCESS_STATE_RESTORING
                                                               : cuda_abi::CU_PROCESS_STATE_CHECKPOINTING;
  }
  if (state() != expected) return cuda_abi::CUDA_ERROR_ILLEGAL_STATE;
  switch (command.kind) {
    case CommandKind::kLock:
      return Lock(command);
    case CommandKind::kCheckpoint:
      return Checkpoint();
    case CommandKind::kCheckpointCustom:
      return CheckpointCustom();
    case CommandKind::kRestore:
    case CommandKind::kRestoreCustom:
      return Restore(command);
    case CommandKind::kComplete:
      return Complete();
    case CommandKind::kUnlock: {
      Empty reply;
      Ask(client_.link().control_fd, request::Unlocked{}, reply);
      set_state(cuda_abi::CU_PROCESS_STATE_RUNNING);
      client_.gate().Open();
      return cuda_abi::CUDA_SUCCESS;
    }
  }
  return cuda_abi::CUDA_ERROR_INVALID_VALUE;
}

// --- lock ---

// All threads still run here.
CUresult RestoreThread::Lock(const Command& command) {
  const timespec deadline = DeadlineIn(command.timeout_ms);
  const bool limited = command.timeout_ms != 0;
  if (!client_.gate().Close(limited ? &deadline : nullptr)) return cuda_abi::CUDA_ERROR_NOT_READY;
  request::Drain drain;
  // 0 would mean no limit.
  drain.timeout_ms = limited ? std::max<std::uint64_t>(1, MillisecondsUntil(deadline)) : 0;
  Empty reply;
  const CUresult drained = Ask(client_.link().control_fd, drain, reply);
  if (drained == cuda_abi::CUDA_SUCCESS && ParkService()) {
    set_state(cuda_abi::CU_PROCESS_STATE_LOCKED);
    return cuda_abi::CUDA_SUCCESS;
  }
  // The daemon has gone: there is no state left to save, and calls may find that out.
  if (drained != cuda_abi::CUDA_ERROR_NOT_READY) set_state(cuda_abi::CU_PROCESS_STATE_FAILED);
  client_.gate().Open();
  return drained == cuda_abi::CUDA_ERROR_NOT_READY ? drained : cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
}

// Has the service thread wait at the gate, so that its connection is nobody's.
bool RestoreThread::ParkService() {
  bool asked = false;
  for (;;) {
    const std::uint32_t state = client_.service_state().load();
    if (state == 0) return true;
    if (state == 1 && !asked) {
      Empty reply;
      if (Ask(client_.link().control_fd, request::ServicePark{}, reply) != cuda_abi::CUDA_SUCCESS) return false;
      asked = true;
      continue;
    }
    FutexWait(client_.service_state(), state, nullptr);
  }
}

// --- checkpoint ---

bool RestoreThread::Block::Allocate(std::size_t wanted, bool huge_pages) {
  if (wanted == 0) return true;
  void* memory = mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return false;
  // Filling fresh small pages costs more than the copy.
  if (huge_pages) madvise(memory, wanted, MADV_HUGEPAGE);
  data = static_cast<std::byte*>(memory);
  bytes = wanted;
  return true;
}

void RestoreThread::Block::Free() {
  if (data != nullptr) munmap(data, bytes);
  data = nullptr;
  bytes = 0;
}

void RestoreThread::DropSaved() {
  saved_state_.Free();
  saved_pieces_.Free();
  saved_memory_.Free();
  saved_state_bytes_ = 0;
  piece_count_ = 0;
}

// Of the daemon that we are with; none without one.
FaultValues RestoreThread::Faults() const {
  request::Hello::Reply reply;
  if (Ask(client_.link().control_fd, request::Hello{}, reply) != cuda_abi::CUDA_SUCCESS) return {};
  return reply.faults;
}

// SUCCESS: none that concerns a checkpoint.
CUresult RestoreThread::ShowFault(bool is_custom) {
  const FaultValues faults = Faults();
  if (ValueOf(faults, Fault::kNoJobFile) != 0 && !client_.has_job_file()) return cuda_abi::CUDA_ERROR_NOT_SUPPORTED;
  if (ValueOf(faults, Fault::kUnsupportedObject) != 0) {
    set_state(cuda_abi::CU_PROCESS_STATE_FAILED);
    client_.gate().Open();
    return cuda_abi::CUDA_ERROR_NOT_SUPPORTED;
  }
  // What goes into custom storage needs no host memory.
  if (!is_custom && ValueOf(faults, Fault::kNoHostMemory) != 0) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  if (ValueOf(faults, Fault::kNoMig) != 0) {
    for (std::size_t i = 0; i < client_.link().device_count; ++i) {
      if (client_.link().devices[i].description.is_partition != 0) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
    }
  }
  return cuda_abi::CUDA_SUCCESS;
}

CUresult RestoreThread::Checkpoint() {
  if (const CUresult shown = ShowFault(/*is_custom=*/false); shown != cuda_abi::CUDA_SUCCESS) return shown;
  CUresult result = SaveState();
  if (result == cuda_abi::CUDA_SUCCESS) result = SavePieces(/*is_custom=*/false);
  if (result != cuda_abi::CUDA_SUCCESS) {
    DropSaved();
    // Not supported: memory that other processes have, too. As with F2, that is the end of it.
    if (result == cuda_abi::CUDA_ERROR_OPERATING_SYSTEM || result == cuda_abi::CUDA_ERROR_NOT_SUPPORTED) {
      set_state(cuda_abi::CU_PROCESS_STATE_FAILED);
      client_.gate().Open();
    }
    return result;
  }
  ReleaseDevices();
  return cuda_abi::CUDA_SUCCESS;
}

void RestoreThread::ReleaseDevices() {
  SessionLink& link = client_.link();
  Empty reply;
  Ask(link.owner_fd, request::CloseSession{}, reply);  // If the daemon has gone now, its memory has, too.
  client_.CloseChannels();
  CloseLink(link);
  set_state(cuda_abi::CU_PROCESS_STATE_CHECKPOINTED);
}

// --- custom storage ---

// Device memory stays where it is until Complete(): the caller copies it.
CUresult RestoreThread::CheckpointCustom() {
  if (const CUresult shown = ShowFault(/*is_custom=*/true); shown != cuda_abi::CUDA_SUCCESS) return shown;
  CUresult result = SaveState();
  if (result == cuda_abi::CUDA_SUCCESS) result = SavePieces(/*is_custom=*/true);
  if (result == cuda_abi::CUDA_SUCCESS) result = ShowPieces(client_.link());
  if (result != cuda_abi::CUDA_SUCCESS) {
    DropSaved();
    if (result == cuda_abi::CUDA_ERROR_OPERATING_SYSTEM || result == cuda_abi::CUDA_ERROR_NOT_SUPPORTED) {
      set_state(cuda_abi::CU_PROCESS_STATE_FAILED);
      client_.gate().Open();
    }
    return result;
  }
  set_state(cuda_abi::CU_PROCESS_STATE_CHECKPOINTING);
  return cuda_abi::CUDA_SUCCESS;
}

// Says where the bytes are, in a memfd for the caller and in the control page.
CUresult RestoreThread::ShowPieces(const SessionLink& link) {
  const int fd = memfd_create("softgpu-view", MFD_CLOEXEC);
  if (fd < 0) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  const auto* pieces = reinterpret_cast<const Piece*>(saved_pieces_.data);
  for (std::size_t i = 0; i < piece_count_; ++i) {
    const ControlPiece shown{pieces[i].ordinal, 0, {pieces[i].offset, pieces[i].bytes}};
    if (write(fd, &shown, sizeof(shown)) == static_cast<ssize_t>(sizeof(shown))) continue;
    close(fd);
    return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  for (std::size_t i = 0; i < link.device_count; ++i) page_.memory_fds[i] = link.devices[i].memory_fd;
  page_.view_piece_count = static_cast<std::uint32_t>(piece_count_);
  page_.view_fd = fd;
  return cuda_abi::CUDA_SUCCESS;
}

void RestoreThread::HidePieces() {
  if (page_.view_fd >= 0) close(page_.view_fd);
  page_.view_fd = -1;
  page_.view_piece_count = 0;
}

CUresult RestoreThread::Complete() {
  HidePieces();
  if (state() == cuda_abi::CU_PROCESS_STATE_CHECKPOINTING) {
    ReleaseDevices();
  } else {
    DropSaved();
    set_state(cuda_abi::CU_PROCESS_STATE_LOCKED);
  }
  return cuda_abi::CUDA_SUCCESS;
}

// --- checkpoint into host memory ---

CUresult RestoreThread::SaveState() {
  request::Export::Reply reply;
  ReceivedFds fds;
  const CUresult result = Ask(client_.link().control_fd, request::Export{}, reply, &fds);
  if (result != cuda_abi::CUDA_SUCCESS || fds.count != 1) {
    fds.CloseAll();
    return result == cuda_abi::CUDA_SUCCESS ? cuda_abi::CUDA_ERROR_OPERATING_SYSTEM : result;
  }
  CUresult saved = cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  if (saved_state_.Allocate(reply.state_bytes, /*huge_pages=*/false)) {
    std::uint64_t done = 0;
    while (done < reply.state_bytes) {
      const ssize_t count =
          pread(fds.fds[0], saved_state_.data + done, reply.state_bytes - done, static_cast<off_t>(done));
      if (count <= 0 && errno != EINTR) break;
      if (count > 0) done += static_cast<std::uint64_t>(count);
    }
    saved_state_bytes_ = done;
    saved = done == reply.state_bytes ? cuda_abi::CUDA_SUCCESS : cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  }
  fds.CloseAll();
  return saved;
}

// Device memory that was ever written. The rest is zero, and reading it would make pages of it.
template <typename Visit>
bool RestoreThread::ForEachPiece(Visit visit) const {
  SessionLink& link = client_.link();
  for (std::uint32_t ordinal = 0; ordinal < link.device_count; ++ordinal) {
    const DeviceSlot& slot = link.devices[ordinal];
    off_t begin = 0;
    for (;;) {
      begin = lseek(slot.memory_fd, begin, SEEK_DATA);
      if (begin < 0 && errno == ENXIO) break;
      const off_t end = begin < 0 ? -1 : lseek(slot.memory_fd, begin, SEEK_HOLE);
      if (end < 0) return false;
      visit(ordinal, static_cast<std::uint64_t>(begin), static_cast<std::uint64_t>(end - begin));
      begin = end;
    }
  }
  return true;
}

// By system call, not through the window, whose pages this process would have to fault in one by one. Where the device
// has a bandwidth, in slices, each of which waits for its share. False: the daemon has gone.
bool RestoreThread::CopyPiece(Piece& piece) const {
  const SessionLink& link = client_.link();
  const DeviceSlot& slot = link.devices[piece.ordinal];
  const bool is_throttled = slot.description.copy_bytes_per_second != 0;
  for (std::uint64_t done = 0; done < piece.bytes;) {
    const std::uint64_t bytes = is_throttled ? std::min(piece.bytes - done, kSliceBytes) : piece.bytes - done;
    const ssize_t count = pread(slot.memory_fd, piece.copy + done, bytes, static_cast<off_t>(piece.offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    done += static_cast<std::uint64_t>(count);
    if (!is_throttled) continue;
    Empty reply;
    const request::Bandwidth share{piece.ordinal, static_cast<std::uint64_t>(count)};
    if (Ask(link.control_fd, share, reply) != cuda_abi::CUDA_SUCCESS) return false;
  }
  return true;
}

CUresult RestoreThread::SavePieces(bool is_custom) {
  std::size_t count = 0;
  std::uint64_t total = 0;
  const bool counted = ForEachPiece([&](std::uint32_t, std::uint64_t, std::uint64_t bytes) {
    ++count;
    total += bytes;
  });
  if (!counted) return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  const bool is_merged = is_custom && count > kMaxViewPieces;
  if (is_merged) count = client_.link().device_count;
  if (!saved_pieces_.Allocate(count * sizeof(Piece), false)) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  if (!is_custom && !saved_memory_.Allocate(total, true)) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  auto* pieces = reinterpret_cast<Piece*>(saved_pieces_.data);
  std::byte* copy = saved_memory_.data;
  std::uint64_t left = total;
  bool copied = true;
  ForEachPiece([&](std::uint32_t ordinal, std::uint64_t offset, std::uint64_t bytes) {
    if (is_merged && piece_count_ > 0 && pieces[piece_count_ - 1].ordinal == ordinal) {
      // Too many to map one by one: with the holes between, which read as zero.
      pieces[piece_count_ - 1].bytes = offset + bytes - pieces[piece_count_ - 1].offset;
      left -= std::min(left, bytes);
      return;
    }
    // Nobody writes now: the second pass finds what the first did.
    if (piece_count_ >= count || bytes > left) return;
    Piece& piece = pieces[piece_count_++];
    piece = {ordinal, offset, bytes, copy};
    left -= bytes;
    if (is_custom) return;
    copied = copied && CopyPiece(piece);
    copy += bytes;
  });
  const bool found_all = left == 0 && (is_merged || piece_count_ == count);
  return found_all && copied ? cuda_abi::CUDA_SUCCESS : cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
}

// --- restore ---

CUresult RestoreThread::Restore(const Command& command) {
  const bool is_custom = command.kind == CommandKind::kRestoreCustom;
  const auto* pieces = reinterpret_cast<const Piece*>(saved_pieces_.data);
  // What went into custom storage cannot come from here.
  if (!is_custom && piece_count_ > 0 && pieces[0].copy == nullptr) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  if (restore_is_broken_) return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  SessionLink link = client_.link();  // Becomes ours when all has worked.
  link.owner_fd = ConnectTo(link.socket_path.data());
  if (link.owner_fd < 0) return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  request::Hello::Reply devices;
  std::array<DeviceDescription, kMaxDevices> chosen{};
  CUresult result = Ask(link.owner_fd, request::Hello{}, devices);
  if (result == cuda_abi::CUDA_SUCCESS) result = MapDevices(command, devices, chosen);
  if (result == cuda_abi::CUDA_SUCCESS && ValueOf(devices.faults, Fault::kRestoreOutOfMemory) != 0) {
    restore_is_broken_ = true;
    result = cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (result == cuda_abi::CUDA_SUCCESS) {
    for (std::size_t i = 0; i < link.device_count; ++i) {
      const DeviceDescription old = link.devices[i].description;
      link.devices[i].description = chosen[i];
      if (ValueOf(devices.faults, Fault::kStalePci) == 0) continue;
      link.devices[i].description.pci_domain = old.pci_domain;
      link.devices[i].description.pci_bus = old.pci_bus;
      link.devices[i].description.pci_device = old.pci_device;
    }
    result = ImportInto(link);
  }
  if (result == cuda_abi::CUDA_SUCCESS) {
    link.control_fd = ConnectChannel(link);
    if (link.control_fd < 0) result = cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  }
  if (result == cuda_abi::CUDA_SUCCESS) result = FillMemory(link);
  if (result == cuda_abi::CUDA_SUCCESS && is_custom) result = ShowPieces(link);
  if (result != cuda_abi::CUDA_SUCCESS) {
    Empty reply;
    if (link.owner_fd >= 0) Ask(link.owner_fd, request::CloseSession{}, reply);
    CloseLink(link);
    return result;
  }
  // Not what stays the same: threads outside the gate may be reading that.
  SessionLink& ours = client_.link();
  ours.owner_fd = link.owner_fd;
  ours.control_fd = link.control_fd;
  ours.token = link.token;
  for (std::size_t i = 0; i < link.device_count; ++i) {
    ours.devices[i].description = link.devices[i].description;
    ours.devices[i].memory_fd = link.devices[i].memory_fd;
    ours.devices[i].window = link.devices[i].window;
    page_.devices[i] = link.devices[i].description.uuid;
  }
  if (is_custom) {
    set_state(cuda_abi::CU_PROCESS_STATE_RESTORING);  // The caller has the bytes; Complete() ends it.
    return cuda_abi::CUDA_SUCCESS;
  }
  DropSaved();
  set_state(cuda_abi::CU_PROCESS_STATE_LOCKED);
  return cuda_abi::CUDA_SUCCESS;
}

// Which device of this daemon each of ours becomes: as the pairs say, or the one of the same UUID if there are none.
// INVALID_VALUE: a device of ours is not named, or named twice; one does not exist, is taken twice, or is another chip.
CUresult RestoreThread::MapDevices(const Command& command, const request::Hello::Reply& devices,
                                   std::array<DeviceDescription, kMaxDevices>& chosen) const {
  const SessionLink& link = client_.link();
  const bool has_map = command.pair_count > 0 && ValueOf(devices.faults, Fault::kMapIgnored) == 0;
  if (has_map && client_.hides_devices() && ValueOf(devices.faults, Fault::kPartialMap) != 0) {
    return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  const auto offered = std::span(devices.devices).first(std::min<std::size_t>(devices.device_count, kMaxDevices));
  for (std::size_t i = 0; i < link.device_count; ++i) {
    const DeviceDescription& old = link.devices[i].description;
    Uuid wanted = old.uuid;
    if (has_map) {
      std::size_t named = 0;
      for (std::size_t pair = 0; pair < std::min<std::size_t>(command.pair_count, kMaxPairs); ++pair) {
        if (!IsSameUuid(command.pairs[pair].oldUuid, old.uuid)) continue;
        ++named;
        std::memcpy(wanted.data(), command.pairs[pair].newUuid.bytes, wanted.size());
      }
      if (named != 1) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    }
    const DeviceDescription* found = nullptr;
    for (const DeviceDescription& device : offered) {
      if (device.uuid == wanted) found = &device;
    }
    if (found == nullptr || std::strncmp(found->chip, old.chip, sizeof(old.chip)) != 0) {
      return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    }
    for (std::size_t j = 0; j < i; ++j) {
      if (chosen[j].uuid == wanted) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    }
    chosen[i] = *found;
  }
  return cuda_abi::CUDA_SUCCESS;
}

CUresult RestoreThread::ImportInto(SessionLink& link) const {
  const int state_fd = memfd_create("softgpu-state", MFD_CLOEXEC);
  if (state_fd < 0) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  std::size_t done = 0;
  while (done < saved_state_bytes_) {
    const ssize_t count = write(state_fd, saved_state_.data + done, saved_state_bytes_ - done);
    if (count <= 0) {
      close(state_fd);
      return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
    }
    done += static_cast<std::size_t>(count);
  }
  request::ImportSession import;
  import.state_bytes = saved_state_bytes_;
  import.open.device_count = link.device_count;
  for (std::size_t i = 0; i < link.device_count; ++i) {
    const DeviceSlot& slot = link.devices[i];
    import.open.devices[i] = {slot.description.uuid, slot.base, slot.span_bytes};
  }
  SessionReply reply;
  ReceivedFds fds;
  const CUresult result = Ask(link.owner_fd, import, reply, &fds, std::span(&state_fd, 1));
  close(state_fd);
  if (result != cuda_abi::CUDA_SUCCESS || fds.count != link.device_count) {
    fds.CloseAll();
    return result == cuda_abi::CUDA_SUCCESS ? cuda_abi::CUDA_ERROR_OPERATING_SYSTEM : result;
  }
  link.token = reply.token;
  for (std::size_t i = 0; i < link.device_count; ++i) link.devices[i].memory_fd = fds.fds[i];
  for (std::size_t i = 0; i < link.device_count; ++i) {
    link.devices[i].window = MapWindow(link.devices[i]);
    if (link.devices[i].window == nullptr) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  return cuda_abi::CUDA_SUCCESS;
}

CUresult RestoreThread::FillMemory(const SessionLink& link) const {
  const auto* pieces = reinterpret_cast<const Piece*>(saved_pieces_.data);
  for (std::size_t i = 0; i < piece_count_; ++i) {
    const Piece& piece = pieces[i];
    if (piece.copy == nullptr) continue;
    std::uint64_t done = 0;
    while (done < piece.bytes) {
      // By system call, not through the window: fresh pages come without being zeroed first, and a system without
      // memory says so.
      const bool is_throttled = link.devices[piece.ordinal].description.copy_bytes_per_second != 0;
      const std::uint64_t bytes = is_throttled ? std::min(piece.bytes - done, kSliceBytes) : piece.bytes - done;
      const ssize_t count = pwrite(link.devices[piece.ordinal].memory_fd, piece.copy + done, bytes,
                                   static_cast<off_t>(piece.offset + done));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
      done += static_cast<std::uint64_t>(count);
      if (!is_throttled) continue;
      Empty reply;
      const request::Bandwidth share{piece.ordinal, static_cast<std::uint64_t>(count)};
      Ask(link.control_fd, share, reply);
    }
  }
  return cuda_abi::CUDA_SUCCESS;
}

}  // namespace softgpu
