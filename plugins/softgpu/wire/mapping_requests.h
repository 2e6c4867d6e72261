// Requests of the protocol that are about virtual memory management and memory shared between processes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "plugins/softgpu/wire/protocol.h"

namespace softgpu {

inline constexpr std::size_t kMaxPieces = 1024;  // Of one Translate.
inline constexpr std::size_t kMaxCopyNowBytes = std::size_t{4} << 20;
inline constexpr std::uint64_t kMapGranuleBytes = std::uint64_t{2} << 20;  // Of virtual memory management.

// Of memory that cuMemCreate makes.
struct PhysicalProperties {
  std::uint32_t ordinal = 0;
  std::uint32_t handle_types = 0;
  std::uint32_t compression = 0;
  std::uint32_t is_rdma_capable = 0;
  std::uint32_t usage = 0;
  std::uint32_t reserved = 0;
};

struct AccessDescription {
  std::uint32_t ordinal = 0;
  std::uint32_t flags = 0;
};

// Where bytes of an address range lie.
struct MemoryPiece {
  std::uint32_t ordinal = 0;
  std::uint32_t is_windowed = 0;  // In the device's memfd; else only CopyNow reaches them.
  std::uint64_t offset = 0;       // In that memfd.
  std::uint64_t bytes = 0;
};

namespace request {

// The client has set these addresses aside in its own address space.
struct Reserve {
  static constexpr Op kOp = Op::kReserve;
  using Reply = Empty;
  std::uint64_t base = 0;
  std::uint64_t bytes = 0;
};

struct Unreserve {
  static constexpr Op kOp = Op::kUnreserve;
  using Reply = Empty;
  std::uint64_t base = 0;
  std::uint64_t bytes = 0;
};

struct PhysicalCreate {
  static constexpr Op kOp = Op::kPhysicalCreate;
  struct Reply {
    Id handle = 0;
  };
  std::uint64_t bytes = 0;
  PhysicalProperties properties;
};

struct PhysicalRelease {
  static constexpr Op kOp = Op::kPhysicalRelease;
  using Reply = Empty;
  Id handle = 0;
};

// One more reference to what is mapped at `address`.
struct PhysicalRetain {
  static constexpr Op kOp = Op::kPhysicalRetain;
  struct Reply {
    Id handle = 0;
  };
  std::uint64_t address = 0;
};

struct PhysicalInfo {
  static constexpr Op kOp = Op::kPhysicalInfo;
  struct Reply {
    std::uint64_t bytes = 0;
    PhysicalProperties properties;
  };
  Id handle = 0;
};

// The reply brings an fd that names the memory, to be sent anywhere and given to PhysicalImport.
struct PhysicalExport {
  static constexpr Op kOp = Op::kPhysicalExport;
  using Reply = Empty;
  Id handle = 0;
};

struct PhysicalImport {
  static constexpr Op kOp = Op::kPhysicalImport;
  struct Reply {
    Id handle = 0;
  };
  std::uint32_t reserved = 0;
};

struct Map {
  static constexpr Op kOp = Op::kMap;
  using Reply = Empty;
  std::uint64_t base = 0;
  std::uint64_t bytes = 0;
  std::uint64_t offset = 0;
  Id handle = 0;
};

struct Unmap {
  static constexpr Op kOp = Op::kUnmap;
  using Reply = Empty;
  std::uint64_t base = 0;
  std::uint64_t bytes = 0;
};

// The payload is AccessDescriptions.
struct SetAccess {
  static constexpr Op kOp = Op::kSetAccess;
  using Reply = Empty;
  std::uint64_t base = 0;
  std::uint64_t bytes = 0;
};

struct GetAccess {
  static constexpr Op kOp = Op::kGetAccess;
  struct Reply {
    std::uint64_t flags = 0;
  };
  std::uint64_t address = 0;
  std::uint64_t ordinal = 0;
};

// What `address` is of, for other processes to open.
struct IpcExport {
  static constexpr Op kOp = Op::kIpcExport;
  struct Reply {
    Token token{};
    std::uint64_t bytes = 0;
  };
  std::uint64_t address = 0;
};

// At addresses that the client has set aside. If it is open already, `address` in the reply is another one: where.
struct IpcOpen {
  static constexpr Op kOp = Op::kIpcOpen;
  struct Reply {
    std::uint64_t address = 0;
  };
  Token token{};
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
};

struct IpcClose {
  static constexpr Op kOp = Op::kIpcClose;
  struct Reply {
    std::uint64_t freed_bytes = 0;  // 0: it is still open.
  };
  std::uint64_t address = 0;
};

// The reply's payload is the MemoryPieces that [address, address + bytes) begins with, in order, at most
// kMaxPieces.
struct Translate {
  static constexpr Op kOp = Op::kTranslate;
  using Reply = Empty;
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;
};

// At once, not in stream order: between the fd that comes along, a memory file of the client's, and device memory.
struct CopyNow {
  static constexpr Op kOp = Op::kCopyNow;
  using Reply = Empty;
  std::uint64_t address = 0;
  std::uint64_t bytes = 0;  // At most kMaxCopyNowBytes.
  std::uint64_t to_device = 0;
};

}  // namespace request

static_assert(sizeof(ReplyHeader) + kMaxPieces * sizeof(MemoryPiece) <= kMaxMessageBytes);

}  // namespace softgpu
