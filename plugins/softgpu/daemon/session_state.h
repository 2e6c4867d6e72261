// What a session consists of, save the bytes of its device memory: what a checkpoint takes out of one daemon and puts
// into another.
//
// Format: fixed-width little-endian fields in the order of SaveState(), vectors behind a 32-bit count. It passes
// through the client, so LoadState() trusts nothing: counts and lengths are checked before anything is allocated. Only
// daemons of one build exchange it; kStateVersion tells them apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "plugins/softgpu/daemon/arena.h"
#include "plugins/softgpu/wire/protocol.h"

namespace softgpu {

inline constexpr std::uint32_t kStateVersion = 2;
inline constexpr std::size_t kMaxStateBytes = std::size_t{256} << 20;

struct SessionState {
  struct Context {
    Id id = 0;
    std::uint32_t ordinal = 0;
    std::uint32_t flags = 0;
    std::uint32_t is_primary = 0;
    std::uint32_t retain_count = 0;
    std::uint32_t error = 0;
  };
  struct Stream {
    Id id = 0;
    Id context = 0;
    std::uint32_t flags = 0;
    std::int32_t priority = 0;
  };
  struct Event {
    Id id = 0;
    Id context = 0;
    std::uint32_t flags = 0;
    std::uint32_t is_recorded = 0;
    std::int64_t recorded_at_ns = 0;  // In session time.
  };
  struct Module {
    Id id = 0;
    Id context = 0;
    std::uint64_t variables_base = 0;  // 0: it has none.
    std::string text;
  };
  struct Function {
    Id id = 0;
    Id module = 0;
    std::uint32_t max_dynamic_shared_bytes = 0;
    std::string name;
  };

  // Of cuMemCreate; its bytes are an allocation.
  struct Physical {
    Id id = 0;
    std::uint64_t place = 0;
    std::uint64_t bytes = 0;
    std::uint32_t handle_count = 0;
    std::uint32_t ordinal = 0;
    std::uint32_t handle_types = 0;
    std::uint32_t compression = 0;
    std::uint32_t is_rdma_capable = 0;
    std::uint32_t usage = 0;
  };
  struct Reservation {
    std::uint64_t base = 0;
    std::uint64_t reserved_bytes = 0;
  };
  struct Mapping {
    std::uint64_t base = 0;
    std::uint64_t bytes = 0;
    Id physical = 0;
    std::uint64_t offset = 0;
    std::uint32_t access_bits = 0;  // Two per device.
  };

  Id next_id = 1;
  std::int64_t now_ns = 0;  // Session time, which goes on where it stopped.
  std::vector<Context> contexts;
  std::vector<Stream> streams;
  std::vector<Event> events;
  std::vector<Module> modules;
  std::vector<Function> functions;
  std::vector<Allocation> allocations;
  std::vector<Reservation> reservations;
  std::vector<Physical> physicals;
  std::vector<Mapping> mappings;
};

std::vector<std::byte> SaveState(const SessionState& state);
// Nothing if the bytes are not what SaveState() makes.
std::optional<SessionState> LoadState(std::span<const std::byte> bytes);

}  // namespace softgpu
