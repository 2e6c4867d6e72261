// How a controller finds and commands the restore thread of a process that uses the software GPU.
//
// The process holds a memfd named softgpu-ctl with one ControlPage, and two pipes, of which it keeps both ends. A
// controller finds the memfd in /proc/<pid>/fd, takes a flock on it, writes a Command into one pipe and reads the
// Answer from the other, both opened anew through /proc. So it needs what /proc/<pid>/fd needs (ptrace access), no
// socket is listening, and all of it survives CRIU.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "plugins/cuda_abi/cuda_abi.h"
#include "plugins/softgpu/wire/protocol.h"

namespace softgpu {

inline constexpr char kControlName[] = "softgpu-ctl";
inline constexpr std::uint64_t kControlMagic = 0x6c74632d75706753;  // "Sgpu-ctl"
inline constexpr std::uint32_t kControlVersion = 2;

struct ControlPage {
  std::uint64_t magic = kControlMagic;
  std::uint32_t version = kControlVersion;
  std::int32_t pid = 0;          // As the process sees itself.
  std::int32_t restore_tid = 0;  // As the process sees it.
  std::int32_t command_fd = -1;  // In the process: the pipe that takes commands,
  std::int32_t answer_fd = -1;   // and the one that gives answers.
  std::atomic<std::uint32_t> state{cuda_abi::CU_PROCESS_STATE_RUNNING};
  // Changed by the restore thread only while it carries out a command.
  std::int32_t view_fd = -1;  // In the process, during custom storage: a memfd with `view_piece_count` ControlPieces.
  std::uint32_t view_piece_count = 0;
  std::uint32_t device_count = 0;
  std::array<Uuid, kMaxDevices> devices{};             // By ordinal.
  std::array<std::int32_t, kMaxDevices> memory_fds{};  // In the process: device memory, during custom storage.
};

// Bytes of one device that are in use. Whole pages.
struct ControlPiece {
  std::uint32_t ordinal = 0;
  std::uint32_t reserved = 0;
  ViewPiece place;
};

enum class CommandKind : std::uint32_t {
  kLock = 1,
  kCheckpoint,
  kRestore,
  kUnlock,
  kCheckpointCustom,  // -> CHECKPOINTING
  kRestoreCustom,     // -> RESTORING
  kComplete,          // CHECKPOINTING -> CHECKPOINTED, RESTORING -> LOCKED
};

inline constexpr std::size_t kMaxPairs = 64;

// Shorter than PIPE_BUF, so it arrives whole.
struct Command {
  std::uint64_t sequence = 0;  // Random: answers to others, who did not wait for them, are told apart by it.
  CommandKind kind{};
  std::uint32_t pair_count = 0;
  std::uint64_t timeout_ms = 0;    // 0: no limit.
  std::int64_t expires_at_ns = 0;  // CLOCK_REALTIME; 0: never. Later it is not begun: who sent it has given up.
  std::array<cuda_abi::CUcheckpointGpuPair, kMaxPairs> pairs{};
};
static_assert(sizeof(Command) <= 4096);

struct Answer {
  std::uint64_t sequence = 0;
  std::uint32_t result = 0;
  std::uint32_t reserved = 0;
};

}  // namespace softgpu
