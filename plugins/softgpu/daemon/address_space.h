// What a session's addresses mean: its arenas, where address and place are one, its views of other sessions' memory,
// and what it has mapped elsewhere: memory of cuMemCreate in ranges of cuMemAddressReserve, and memory of other
// processes.
//
// A physical allocation is a piece of an arena, or SharedMemory once it was exported or where it was imported. It lives
// while a handle or a mapping refers to it. A mapping begins without access.
//
// Ownership: borrows the arenas and views. Thread safety: none; the session guards it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "plugins/cuda_abi/cuda_abi.h"
#include "plugins/softgpu/daemon/arena.h"
#include "plugins/softgpu/daemon/session_state.h"
#include "plugins/softgpu/daemon/shared_memory.h"
#include "plugins/softgpu/daemon/view.h"
#include "plugins/softgpu/ptx/launch.h"
#include "plugins/softgpu/wire/protocol.h"

namespace softgpu {

// What kernels of one device see of memory. Immutable; keeps what is not the session's own.
struct MemoryMap {
  std::vector<ptx::Segment> segments;  // By base.
  std::vector<std::shared_ptr<SharedMemory>> shared;
};

class AddressSpace {
 public:
  using Result = cuda_abi::CUresult;
  using Arenas = std::vector<std::unique_ptr<Arena>>;
  using Views = std::map<std::uint64_t, std::unique_ptr<View>>;

  static constexpr std::size_t kMaxReservations = std::size_t{1} << 16;
  static constexpr std::size_t kMaxPhysicals = std::size_t{1} << 16;
  static constexpr std::size_t kMaxMappings = std::size_t{1} << 17;
  static constexpr std::size_t kMaxShared = 1024;  // Each takes a mapping, perhaps a descriptor, of the daemon's.

  AddressSpace(std::uint64_t session_number, const Arenas& arenas, const Views& views)
      : number_(session_number), arenas_(arenas), views_(views) {}

  void Clear();

  // --- lookup ---
  struct Piece {
    std::byte* host = nullptr;
    std::uint64_t bytes = 0;
    std::uint32_t ordinal = 0;
    const Arena* arena = nullptr;          // Null: shared, or a view.
    std::shared_ptr<SharedMemory> shared;  // Kept while the piece is used.
  };
  // False, unless all of [address, address + bytes) may be read, or written too, and is one allocation or lies in
  // mappings without a hole.
  bool Locate(std::uint64_t address, std::uint64_t bytes, bool write, std::vector<Piece>& pieces) const;
  bool Holds(std::uint64_t address, std::uint64_t bytes, bool write) const;
  // Is what Locate() finds byte for byte the arena's, or a view's?
  bool IsLinear(std::uint64_t address) const;
  void Describe(std::uint32_t ordinal, MemoryMap& map) const;
  // False: nothing is there.
  bool Find(std::uint64_t address, request::MemFind::Reply& info) const;

  // --- virtual memory management; INVALID_VALUE for all that does not fit ---
  Result Reserve(std::uint64_t base, std::uint64_t bytes);
  Result Unreserve(std::uint64_t base, std::uint64_t bytes);
  Result Create(Id handle, std::uint64_t bytes, const PhysicalProperties& properties);
  Result Release(Id handle);
  Result Retain(std::uint64_t address, Id& handle);
  Result Info(Id handle, request::PhysicalInfo::Reply& info) const;
  Result Map(const request::Map& map);
  Result Unmap(std::uint64_t base, std::uint64_t bytes);
  Result SetAccess(std::uint64_t base, std::uint64_t bytes, std::span<const AccessDescription> descriptions);
  Result GetAccess(std::uint64_t address, std::uint64_t ordinal, std::uint64_t& flags) const;

  // --- sharing ---
  // REQUIRES of the two: nothing is using the memory
  Result Share(Id handle, SharedMemoryTable& table, std::shared_ptr<SharedMemory>& shared);
  Result ShareLinear(std::uint64_t address, SharedMemoryTable& table, std::shared_ptr<SharedMemory>& shared);
  Result Import(Id handle, std::shared_ptr<SharedMemory> shared);
  Result IpcOpen(Id handle, std::uint32_t ordinal, const std::shared_ptr<SharedMemory>& shared, std::uint64_t& address);
  Result IpcClose(std::uint64_t address, std::uint64_t& freed_bytes);
  // What belongs to the linear allocation at `base` of an arena goes with it.
  void ForgetLinear(std::uint64_t base) { shared_linear_.erase(base); }
  bool has_shared() const { return SharedCount() > 0; }

  // --- checkpoint ---
  // REQUIRES: !has_shared()
  void Save(SessionState& state) const;
  // Arenas have their allocations already. `is_new` is asked for every id.
  template <typename IsNew>
  Result Load(const SessionState& state, IsNew is_new) {
    for (const SessionState::Physical& physical : state.physicals) {
      if (!is_new(physical.id)) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    }
    return LoadChecked(state);
  }

 private:
  struct Physical {
    std::uint64_t bytes = 0;
    PhysicalProperties properties;
    std::uint64_t place = 0;               // In the arena; of no meaning if shared.
    std::shared_ptr<SharedMemory> shared;  // Null: in the arena.
    std::uint32_t handle_count = 0;
    std::uint32_t mapping_count = 0;
  };
  struct Mapping {
    std::uint64_t bytes = 0;
    Id physical = 0;
    std::uint64_t offset = 0;
    std::array<std::uint8_t, kMaxDevices> access{};  // CUmemAccess_flags, by ordinal.
    std::uint32_t open_count = 0;                    // Of cuIpcOpenMemHandle; else 0.
  };
  using Mappings = std::map<std::uint64_t, Mapping>;

  Arena* ArenaOf(std::uint64_t address) const;
  const View* ViewOf(std::uint64_t address) const;
  Mappings::const_iterator MappingOf(std::uint64_t address) const;
  bool LocateMapped(std::uint64_t address, std::uint64_t bytes, bool write, std::vector<Piece>& pieces) const;
  bool IsFree(std::uint64_t base, std::uint64_t bytes) const;
  bool IsReserved(std::uint64_t base, std::uint64_t bytes) const;
  // The mappings that [base, base + bytes) consists of, or false.
  bool WholeMappings(std::uint64_t base, std::uint64_t bytes, std::vector<Mappings::iterator>& found);
  Piece PieceOf(const Physical& physical, std::uint64_t offset, std::uint64_t bytes) const;
  std::size_t SharedCount() const;
  void FreeIfUnused(Id handle);
  Result LoadChecked(const SessionState& state);

  const std::uint64_t number_;
  const Arenas& arenas_;
  const Views& views_;
  std::map<std::uint64_t, std::uint64_t> reservations_;  // Bytes by base.
  std::map<Id, Physical> physicals_;
  Mappings mappings_;                                                     // By base.
  std::map<std::uint64_t, std::shared_ptr<SharedMemory>> shared_linear_;  // By base of the arena's allocation.
};

}  // namespace softgpu
