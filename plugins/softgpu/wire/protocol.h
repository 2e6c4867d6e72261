// What the client library and the daemon say to each other: one request, one reply, over a SOCK_SEQPACKET unix socket.
//
// A message is a header, the body of its kind, and a payload; the three lengths add up to the packet or it is refused.
// Both ends run on one machine and come from one build (the version is checked), so structs travel as they are.
//
// Format: a connection says Hello, then OpenSession or ImportSession (it now owns the session: its end is the session's
// end), or Attach (a further channel of that session, so that threads can wait at the same time). The owner asks
// nothing else, so that its thread in the daemon is always free to see the client die. Results are CUresult values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace softgpu {

inline constexpr std::uint32_t kProtocolVersion = 2;
inline constexpr std::uint32_t kRequestMagic = 0x71554753;  // "SGUq"
inline constexpr std::uint32_t kReplyMagic = 0x72554753;    // "SGUr"

inline constexpr std::size_t kMaxMessageBytes = std::size_t{64} << 10;
inline constexpr std::size_t kMaxInlineBytes = std::size_t{16} << 10;  // Of a copy whose bytes travel in the message.
inline constexpr std::size_t kMaxDevices = 16;
inline constexpr std::size_t kMaxMessageFds = kMaxDevices;
inline constexpr std::size_t kMaxSpanBytes = std::size_t{1} << 40;         // Address range of one device.
inline constexpr std::size_t kMaxModuleTextBytes = std::size_t{64} << 20;  // As ptx::kMaxTextBytes.
inline constexpr std::size_t kMaxNameBytes = 4096;                         // Of a kernel or a variable.
inline constexpr std::size_t kMaxParameters = 4096;                        // Of a kernel.
inline constexpr std::int32_t kGreatestPriority = -5;                      // Of streams; the least is 0.

using Uuid = std::array<std::uint8_t, 16>;
using Token = std::array<std::uint8_t, 16>;

// Ids of contexts, streams, events, modules and functions: unique in a session, never 0, kept over a checkpoint. They
// are what the application holds as handles.
using Id = std::uint64_t;
inline constexpr Id kFirstId = std::uint64_t{0x5347} << 32;  // Far from the special stream handles 0, 1 and 2.

enum class Op : std::uint32_t {
  kHello = 1,
  kOpenSession,
  kImportSession,
  kAttach,
  kCloseSession,
  kPrimaryRetain,
  kPrimaryRelease,
  kPrimaryState,
  kPrimarySetFlags,
  kPrimaryReset,
  kContextCreate,
  kContextDestroy,
  kContextInfo,
  kContextWait,
  kMemAlloc,
  kMemFree,
  kMemInfo,
  kMemFind,
  kCopyIn,
  kCopyOut,
  kCopyTurn,
  kCopyTurnDone,
  kCopyDeferred,
  kCopyDevice,
  kFill,
  kStreamCreate,
  kStreamDestroy,
  kStreamWait,
  kStreamQuery,
  kStreamWaitEvent,
  kStreamInfo,
  kEventCreate,
  kEventDestroy,
  kEventRecord,
  kEventQuery,
  kEventWait,
  kEventElapsed,
  kModuleLoad,
  kModuleUnload,
  kModuleFunction,
  kModuleGlobal,
  kFunctionInfo,
  kFunctionSet,
  kLaunch,
  kHostFunction,
  kServiceWait,
  kServiceDone,
  kServicePark,
  kDrain,
  kExport,
  kUnlocked,
  kBandwidth,
  kOpenView,
  kCloseView,
  kFaultControl,
  kReserve,
  kUnreserve,
  kPhysicalCreate,
  kPhysicalRelease,
  kPhysicalRetain,
  kPhysicalInfo,
  kPhysicalExport,
  kPhysicalImport,
  kMap,
  kUnmap,
  kSetAccess,
  kGetAccess,
  kIpcExport,
  kIpcOpen,
  kIpcClose,
  kTranslate,
  kCopyNow,
  kModuleKernel,
};

// Behaviour of real drivers that the daemon can be told to show, by the numbers that docs/software_gpu.md explains. The
// value is 0 where it does not, else 1, or milliseconds for kSlowInit.
enum class Fault : std::uint32_t {
  kRestoreOutOfMemory = 1,
  kUnsupportedObject = 2,
  kPartialMap = 3,
  kLockHangs = 4,
  kStalePci = 5,
  kNoMig = 6,
  kInitRace = 7,
  kSlowInit = 9,
  kNoPersistence = 10,
  kNoHostMemory = 11,
  kLockTimeout = 13,
  kMapIgnored = 14,
  kNoCustomStorage = 15,
  kNoJobFile = 16,
};
inline constexpr std::size_t kFaultSlots = 17;  // By number; some are how the emulation always is, see there.
using FaultValues = std::array<std::uint32_t, kFaultSlots>;
inline std::uint32_t ValueOf(const FaultValues& values, Fault fault) { return values[static_cast<std::size_t>(fault)]; }

inline constexpr std::uint32_t kDefaultDriverVersion = 13000;
inline constexpr std::uint32_t kCustomStorageVersion = 13040;  // The first driver version that has it.

struct RequestHeader {
  std::uint32_t magic = kRequestMagic;
  Op op{};
  Id context = 0;  // Current in the calling thread; 0: none.
  std::uint32_t body_bytes = 0;
  std::uint32_t payload_bytes = 0;
};

struct ReplyHeader {
  std::uint32_t magic = kReplyMagic;
  std::uint32_t result = 0;
  std::uint32_t body_bytes = 0;
  std::uint32_t payload_bytes = 0;
};

struct DeviceDescription {
  Uuid uuid{};
  char chip[64] = {};  // Ends with a NUL.
  std::uint64_t memory_bytes = 0;
  std::uint64_t used_bytes = 0;
  std::uint32_t pci_domain = 0;
  std::uint32_t pci_bus = 0;
  std::uint32_t pci_device = 0;
  std::uint32_t session_count = 0;
  std::uint64_t copy_bytes_per_second = 0;  // 0: as fast as the host copies.
  std::int32_t numa_node = -1;              // Of the host memory next to it; -1: not told.
  std::uint32_t is_partition = 0;           // Of `parent`, which no program sees.
  Uuid parent{};
};

struct Empty {};

// The address range that a client has set aside for one of its devices. Devices are known by their place in this list
// from then on: the ordinal that the application sees.
struct DeviceRange {
  Uuid uuid{};
  std::uint64_t base = 0;
  std::uint64_t bytes = 0;
};

struct SessionReply {
  Token token{};
};

struct ParameterPlace {
  std::uint32_t offset = 0;
  std::uint32_t bytes = 0;
};

struct FunctionDescription {
  Id function = 0;
  Id module = 0;
  std::uint32_t parameter_count = 0;  // The reply's payload holds as many ParameterPlaces.
  std::uint32_t parameter_bytes = 0;
  std::uint32_t static_shared_bytes = 0;
  std::uint32_t max_dynamic_shared_bytes = 0;
  std::uint32_t local_bytes = 0;
  std::uint32_t register_count = 0;
  std::uint32_t max_threads = 0;
  std::uint32_t reserved = 0;
};

// A part of a device's memory that a view shows.
struct ViewPiece {
  std::uint64_t offset = 0;  // In the memfd.
  std::uint64_t bytes = 0;
};
inline constexpr std::size_t kMaxViewPieces = 8192;  // Each is a mapping, here and there.

namespace request {

struct Hello {
  static constexpr Op kOp = Op::kHello;
  struct Reply {
    std::uint32_t version = kProtocolVersion;
    std::uint32_t device_count = 0;
    std::uint32_t driver_version = kDefaultDriverVersion;
    FaultValues faults{};  // Those that are for the asking process.
    std::array<DeviceDescription, kMaxDevices> devices{};
  };
  std::uint32_t version = kProtocolVersion;
};

// With the reply comes one memfd per device: device memory, of which address base + n is byte n.
struct OpenSession {
  static constexpr Op kOp = Op::kOpenSession;
  using Reply = SessionReply;
  std::uint32_t device_count = 0;
  std::uint32_t reserved = 0;
  std::array<DeviceRange, kMaxDevices> devices{};
};

// As OpenSession, with everything but the bytes of device memory as Export gave it, in the fd that comes along.
struct ImportSession {
  static constexpr Op kOp = Op::kImportSession;
  using Reply = SessionReply;
  OpenSession open;
  std::uint64_t state_bytes = 0;
};

struct Attach {
  static constexpr Op kOp = Op::kAttach;
  using Reply = Empty;
  Token token{};
};

// From the session's owner: when the reply comes, the daemon holds nothing of it any more.
struct CloseSession {
  static constexpr Op kOp = Op::kCloseSession;
  using Reply = Empty;
  std::uint32_t reserved = 0;
};

struct PrimaryRetain {
  static constexpr Op kOp = Op::kPrimaryRetain;
  struct Reply {
    Id context = 0;
  };
  std::uint32_t ordinal = 0;
};

struct PrimaryRelease {
  static constexpr Op kOp = Op::kPrimaryRelease;
  using Reply = Empty;
  std::uint32_t ordinal = 0;
};

struct PrimaryState {
  static constexpr Op kOp = Op::kPrimaryState;
  struct Reply {
    std::uint32_t flags = 0;
    std::uint32_t active = 0;
  };
  std::uint32_t ordinal = 0;
};

struct PrimarySetFlags {
  static constexpr Op kOp = Op::kPrimarySetFlags;
  using Reply = Empty;
  std::uint32_t ordinal = 0;
  std::uint32_t flags = 0;
};

struct PrimaryReset {
  static constexpr Op kOp = Op::kPrimaryReset;
  using Reply = Empty;
  std::uint32_t ordinal = 0;
};

struct ContextCreate {
  static constexpr Op kOp = Op::kContextCreate;
  struct Reply {
    Id context = 0;
  };
  std::uint32_t ordinal = 0;
  std::uint32_t flags = 0;
};

struct ContextDestroy {
  static constexpr Op kOp = Op::kContextDestroy;
  using Reply = Empty;
  Id context = 0;
};

struct ContextInfo {
  static constexpr Op kOp = Op::kContextInfo;
  struct Reply {
    std::uint32_t ordinal = 0;
    std::uint32_t flags = 0;
    std::uint32_t error = 0;
    std::uint32_t is_primary = 0;
  };
  Id context = 0;
};

struct ContextWait {
  static constexpr Op kOp = Op::kContextWait;
  using Reply = Empty;
  std::uint32_t reserved = 0;
};

struct MemAlloc {
  static constexpr Op kOp = Op::kMemAlloc;
  struct Reply {
    std::uint64_t address = 0;
  };
  std::uint64_t bytes = 0;
};

struct MemFree {
  static constexpr Op kOp = Op::kMemFree;
  using Reply = Empty;
  std::uint64_t address = 0;
};

struct MemInfo {
  static constexpr Op kOp = Op::kMemInfo;
  struct Reply {
    std::uint64_t free_bytes = 0;
    std::uint64_t total_bytes = 0;
  };
  std::uint32_t reserved = 0;
};

struct MemFind {
  static constexpr Op kOp = Op::kMemFind;
  struct Reply {
    std::uint64_t base = 0;
    std::uint64_t bytes = 0;
    Id context = 0;  // 0 if it is mapped.
    std::uint32_t ordinal = 0;
    std::uint32_t is_mapped = 0;  // By Map or IpcOpen.
  };
  std::uint64_t address = 0;
};

// The payload goes to `address`, in stream order. `wait`: the reply comes when that is done.
struct CopyIn {
  static constexpr Op kOp = Op::kCopyIn;
  using Reply = Empty;
  Id stream = 0;
  std::uint64_t address = 0;
  std::uint64_t wait = 0;
};

// The reply's payload is what lies at `address` when the stream has come to it.
struct CopyOut {
  static constexpr Op kOp = Op::kCopyOut;
  using Reply = Empty;
  Id stream = 0;
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
};

// For copies too big to travel: the reply comes when the stream has come to it, and the stream then waits for
// CopyTurnDone while the client copies from or to the device's memfd itself, or by Translate and CopyNow.
struct CopyTurn {
  static constexpr Op kOp = Op::kCopyTurn;
  struct Reply {
    Id turn = 0;
    std::uint64_t is_linear = 0;  // Address base + n is byte n of the device's memfd; else ask Translate.
  };
  Id stream = 0;
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
  std::uint64_t to_device = 0;
};

struct CopyTurnDone {
  static constexpr Op kOp = Op::kCopyTurnDone;
  using Reply = Empty;
  Id turn = 0;
};

// As CopyTurn, but it is the client's service thread that gets the turn: for asynchronous copies of pinned memory.
struct CopyDeferred {
  static constexpr Op kOp = Op::kCopyDeferred;
  using Reply = Empty;
  Id stream = 0;
  std::uint64_t address = 0;
  std::uint64_t host = 0;
  std::uint64_t bytes = 0;
  std::uint64_t to_device = 0;
};

struct CopyDevice {
  static constexpr Op kOp = Op::kCopyDevice;
  using Reply = Empty;
  Id stream = 0;
  std::uint64_t to = 0;
  std::uint64_t from = 0;
  std::uint64_t bytes = 0;  // Of one row.
  std::uint64_t wait = 0;
  std::uint64_t rows = 1;
  std::uint64_t to_pitch = 0;
  std::uint64_t from_pitch = 0;
};

struct Fill {
  static constexpr Op kOp = Op::kFill;
  using Reply = Empty;
  Id stream = 0;
  std::uint64_t address = 0;
  std::uint64_t count = 0;  // Of one row.
  std::uint32_t value = 0;
  std::uint32_t unit_bytes = 0;  // 1, 2 or 4.
  std::uint64_t wait = 0;
  std::uint64_t rows = 1;
  std::uint64_t pitch = 0;  // In bytes.
};

struct StreamCreate {
  static constexpr Op kOp = Op::kStreamCreate;
  struct Reply {
    Id stream = 0;
  };
  std::uint32_t flags = 0;
  std::int32_t priority = 0;
};

struct StreamDestroy {
  static constexpr Op kOp = Op::kStreamDestroy;
  using Reply = Empty;
  Id stream = 0;
};

struct StreamWait {
  static constexpr Op kOp = Op::kStreamWait;
  using Reply = Empty;
  Id stream = 0;
};

struct StreamQuery {
  static constexpr Op kOp = Op::kStreamQuery;
  using Reply = Empty;
  Id stream = 0;
};

struct StreamWaitEvent {
  static constexpr Op kOp = Op::kStreamWaitEvent;
  using Reply = Empty;
  Id stream = 0;
  Id event = 0;
};

struct StreamInfo {
  static constexpr Op kOp = Op::kStreamInfo;
  struct Reply {
    Id context = 0;
    std::uint32_t flags = 0;
    std::int32_t priority = 0;
  };
  Id stream = 0;
};

struct EventCreate {
  static constexpr Op kOp = Op::kEventCreate;
  struct Reply {
    Id event = 0;
  };
  std::uint32_t flags = 0;
};

struct EventDestroy {
  static constexpr Op kOp = Op::kEventDestroy;
  using Reply = Empty;
  Id event = 0;
};

struct EventRecord {
  static constexpr Op kOp = Op::kEventRecord;
  using Reply = Empty;
  Id event = 0;
  Id stream = 0;
};

struct EventQuery {
  static constexpr Op kOp = Op::kEventQuery;
  using Reply = Empty;
  Id event = 0;
};

struct EventWait {
  static constexpr Op kOp = Op::kEventWait;
  using Reply = Empty;
  Id event = 0;
};

struct EventElapsed {
  static constexpr Op kOp = Op::kEventElapsed;
  struct Reply {
    std::int64_t nanoseconds = 0;
  };
  Id start = 0;
  Id end = 0;
};

// The text comes in an fd.
struct ModuleLoad {
  static constexpr Op kOp = Op::kModuleLoad;
  struct Reply {
    Id module = 0;
  };
  std::uint64_t text_bytes = 0;
};

struct ModuleUnload {
  static constexpr Op kOp = Op::kModuleUnload;
  using Reply = Empty;
  Id module = 0;
};

// The payload is the name.
struct ModuleFunction {
  static constexpr Op kOp = Op::kModuleFunction;
  using Reply = FunctionDescription;
  Id module = 0;
};

// The payload is the name.
struct ModuleGlobal {
  static constexpr Op kOp = Op::kModuleGlobal;
  struct Reply {
    std::uint64_t address = 0;
    std::uint64_t bytes = 0;
  };
  Id module = 0;
};

// The reply's payload is the name of the module's kernel number `index`, or empty if there are fewer.
struct ModuleKernel {
  static constexpr Op kOp = Op::kModuleKernel;
  struct Reply {
    std::uint32_t count = 0;
  };
  Id module = 0;
  std::uint32_t index = 0;
  std::uint32_t reserved = 0;
};

// The reply's payload is the name, not the parameters.
struct FunctionInfo {
  static constexpr Op kOp = Op::kFunctionInfo;
  using Reply = FunctionDescription;
  Id function = 0;
};

struct FunctionSet {
  static constexpr Op kOp = Op::kFunctionSet;
  using Reply = Empty;
  Id function = 0;
  std::uint32_t max_dynamic_shared_bytes = 0;
  std::uint32_t reserved = 0;
};

// The payload is the packed parameters.
struct Launch {
  static constexpr Op kOp = Op::kLaunch;
  using Reply = Empty;
  Id function = 0;
  Id stream = 0;
  std::array<std::uint32_t, 3> grid{};
  std::array<std::uint32_t, 3> block{};
  std::uint32_t dynamic_shared_bytes = 0;
  std::uint32_t reserved = 0;
};

struct HostFunction {
  static constexpr Op kOp = Op::kHostFunction;
  using Reply = Empty;
  Id stream = 0;
  std::uint64_t function = 0;
  std::uint64_t argument = 0;
};

// Work of a stream that only the client's process can do. The reply comes when there is some, or when parked.
struct ServiceWait {
  static constexpr Op kOp = Op::kServiceWait;
  enum class Kind : std::uint32_t { kParked, kHostFunction, kCopy };
  struct Reply {
    Kind kind = Kind::kParked;
    std::uint32_t to_device = 0;
    Id turn = 0;
    std::uint64_t function_or_address = 0;
    std::uint64_t argument_or_host = 0;
    std::uint64_t bytes = 0;
  };
  std::uint32_t reserved = 0;
};

struct ServiceDone {
  static constexpr Op kOp = Op::kServiceDone;
  using Reply = Empty;
  Id turn = 0;
};

// Has the pending ServiceWait, or the next one, answered with kParked.
struct ServicePark {
  static constexpr Op kOp = Op::kServicePark;
  using Reply = Empty;
  std::uint32_t reserved = 0;
};

// Waits for all work. CUDA_ERROR_NOT_READY: not done in time.
struct Drain {
  static constexpr Op kOp = Op::kDrain;
  using Reply = Empty;
  std::uint64_t timeout_ms = 0;  // 0: no limit.
};

// Everything but the bytes of device memory, in an fd. NOT_SUPPORTED: memory is shared with other processes.
// REQUIRES: no work is pending
struct Export {
  static constexpr Op kOp = Op::kExport;
  struct Reply {
    std::uint64_t state_bytes = 0;
  };
  std::uint32_t reserved = 0;
};

// The process runs again after a Drain that had succeeded.
struct Unlocked {
  static constexpr Op kOp = Op::kUnlocked;
  using Reply = Empty;
  std::uint32_t reserved = 0;
};

// Returns when so many bytes may be copied from or to a device of the session, by its bandwidth.
struct Bandwidth {
  static constexpr Op kOp = Op::kBandwidth;
  using Reply = Empty;
  std::uint64_t ordinal = 0;
  std::uint64_t bytes = 0;
};

// Makes device memory of another session reachable in this one, its pieces one behind the other from `base` on. Comes
// with two fds: the memfd of the other session's device, and one that holds `piece_count` ViewPieces.
struct OpenView {
  static constexpr Op kOp = Op::kOpenView;
  using Reply = Empty;
  std::uint64_t base = 0;
  std::uint64_t bytes = 0;
  std::uint64_t piece_count = 0;
};

// When the session's work is done.
struct CloseView {
  static constexpr Op kOp = Op::kCloseView;
  using Reply = Empty;
  std::uint64_t base = 0;
};

// From root or the daemon's own user, on a connection without a session. Sets (value 0: clears) a fault for process
// `pid`, 0 for all; `fault` 0 changes nothing. The reply lists what is set then.
struct FaultControl {
  static constexpr Op kOp = Op::kFaultControl;
  struct Setting {
    std::uint32_t fault = 0;
    std::uint32_t value = 0;
    std::int32_t pid = 0;
  };
  static constexpr std::size_t kMaxSettings = 64;
  struct Reply {
    std::uint32_t count = 0;
    std::array<Setting, kMaxSettings> settings{};
  };
  Setting change;
  std::uint32_t clear_all = 0;
};

}  // namespace request

static_assert(std::is_trivially_copyable_v<request::Hello::Reply>);
static_assert(sizeof(RequestHeader) + sizeof(request::CopyIn) + kMaxInlineBytes <= kMaxMessageBytes);
static_assert(sizeof(ReplyHeader) + sizeof(FunctionDescription) + kMaxParameters * sizeof(ParameterPlace) <=
              kMaxMessageBytes);

}  // namespace softgpu
