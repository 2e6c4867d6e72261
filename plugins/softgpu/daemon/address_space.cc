#include "plugins/softgpu/daemon/address_space.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

namespace softgpu {

using cuda_abi::CUresult;

namespace {

constexpr CUresult kBad = cuda_abi::CUDA_ERROR_INVALID_VALUE;
constexpr std::uint64_t kMaxAddress = std::uint64_t{1} << 56;  // Below the interpreter's windows.
constexpr std::uint64_t kPageBytes = 4096;

bool IsGranular(std::uint64_t value) { return value % kMapGranuleBytes == 0; }

bool IsSoundRange(std::uint64_t base, std::uint64_t bytes) {
  return base != 0 && base % kPageBytes == 0 && bytes != 0 && bytes % kPageBytes == 0 && bytes <= kMaxSpanBytes &&
         base <= kMaxAddress;
}

bool Overlap(std::uint64_t a, std::uint64_t a_bytes, std::uint64_t b, std::uint64_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

bool IsAccess(std::uint32_t flags) {
  return flags == cuda_abi::CU_MEM_ACCESS_FLAGS_PROT_NONE || flags == cuda_abi::CU_MEM_ACCESS_FLAGS_PROT_READ ||
         flags == cuda_abi::CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
}

}  // namespace

void AddressSpace::Clear() {
  mappings_.clear();
  physicals_.clear();
  reservations_.clear();
  shared_linear_.clear();
}

// --- lookup ---

Arena* AddressSpace::ArenaOf(std::uint64_t address) const {
  for (const auto& arena : arenas_) {
    if (arena->contains(address)) return arena.get();
  }
  return nullptr;
}

const View* AddressSpace::ViewOf(std::uint64_t address) const {
  const auto next = views_.upper_bound(address);
  if (next == views_.begin()) return nullptr;
  const View* view = std::prev(next)->second.get();
  return view->contains(address) ? view : nullptr;
}

AddressSpace::Mappings::const_iterator AddressSpace::MappingOf(std::uint64_t address) const {
  const auto next = mappings_.upper_bound(address);
  if (next == mappings_.begin()) return mappings_.end();
  const auto found = std::prev(next);
  return address - found->first < found->second.bytes ? found : mappings_.end();
}

AddressSpace::Piece AddressSpace::PieceOf(const Physical& physical, std::uint64_t offset, std::uint64_t bytes) const {
  const std::uint32_t ordinal = physical.properties.ordinal;
  if (physical.shared != nullptr) return {physical.shared->host() + offset, bytes, ordinal, nullptr, physical.shared};
  const Arena* arena = arenas_[ordinal].get();
  return {arena->host(physical.place + offset), bytes, ordinal, arena, nullptr};
}

// Copies run on whichever device can, so access by any will do.
bool AddressSpace::LocateMapped(std::uint64_t address, std::uint64_t bytes, bool write,
                                std::vector<Piece>& pieces) const {
  for (;;) {
    const auto found = MappingOf(address);
    if (found == mappings_.end()) return false;
    const Mapping& mapping = found->second;
    const std::uint8_t needed =
        write ? cuda_abi::CU_MEM_ACCESS_FLAGS_PROT_READWRITE : cuda_abi::CU_MEM_ACCESS_FLAGS_PROT_READ;
    const bool may = std::any_of(mapping.access.begin(), mapping.access.end(),
                                 [&](std::uint8_t flags) { return (flags & needed) == needed; });
    if (!may) return false;
    const std::uint64_t skipped = address - found->first;
    const std::uint64_t count = std::min(bytes, mapping.bytes - skipped);
    pieces.push_back(PieceOf(physicals_.at(mapping.physical), mapping.offset + skipped, count));
    address += count;
    bytes -= count;
    if (bytes == 0) return true;
  }
}

bool AddressSpace::Locate(std::uint64_t address, std::uint64_t bytes, bool write, std::vector<Piece>& pieces) const {
  pieces.clear();
  const Arena* arena = ArenaOf(address);
  if (arena == nullptr) {
    const View* view = ViewOf(address);
    if (view == nullptr) return LocateMapped(address, bytes, write, pieces);
    if (bytes > view->bytes() - (address - view->base())) return false;
    pieces.push_back({view->host(address), bytes, 0, nullptr, nullptr});
    return true;
  }
  const Allocation* allocation = arena->Find(address);
  if (allocation == nullptr || allocation->is_physical) return false;
  const std::uint64_t offset = address - allocation->base;
  if (bytes > allocation->bytes - offset) return false;
  const auto ordinal = static_cast<std::uint32_t>(
      std::find_if(arenas_.begin(), arenas_.end(), [&](const auto& a) { return a.get() == arena; }) - arenas_.begin());
  if (allocation->is_moved) {
    const auto& shared = shared_linear_.at(allocation->base);
    pieces.push_back({shared->host() + offset, bytes, ordinal, nullptr, shared});
  } else {
    pieces.push_back({arena->host(address), bytes, ordinal, arena, nullptr});
  }
  return true;
}

bool AddressSpace::Holds(std::uint64_t address, std::uint64_t bytes, bool write) const {
  std::vector<Piece> pieces;
  return Locate(address, bytes, write, pieces);
}

bool AddressSpace::IsLinear(std::uint64_t address) const {
  if (ViewOf(address) != nullptr) return true;
  const Arena* arena = ArenaOf(address);
  const Allocation* allocation = arena == nullptr ? nullptr : arena->Find(address);
  return allocation != nullptr && !allocation->is_moved;
}

void AddressSpace::Describe(std::uint32_t ordinal, MemoryMap& map) const {
  // What follows on in address and host alike is one segment, so that accesses across need no second look.
  const auto add = [&](std::uint64_t base, std::uint64_t bytes, std::byte* host, bool writable) {
    if (!map.segments.empty()) {
      ptx::Segment& last = map.segments.back();
      if (last.base + last.bytes == base && last.host + last.bytes == host && last.writable == writable) {
        last.bytes += bytes;
        return;
      }
    }
    map.segments.push_back({base, bytes, host, writable});
  };
  for (const auto& [base, mapping] : mappings_) {
    const std::uint8_t access = mapping.access[ordinal];
    if (access == cuda_abi::CU_MEM_ACCESS_FLAGS_PROT_NONE) continue;
    const Piece piece = PieceOf(physicals_.at(mapping.physical), mapping.offset, mapping.bytes);
    add(base, mapping.bytes, piece.host, access == cuda_abi::CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    if (piece.shared != nullptr) map.shared.push_back(piece.shared);
  }
  const Arena& arena = *arenas_[ordinal];
  for (const auto& [base, allocation] : arena.allocations()) {
    if (allocation.is_physical) continue;
    if (allocation.is_moved) {
      const auto& shared = shared_linear_.at(base);
      map.segments.push_back({base, allocation.bytes, shared->host(), true});
      map.shared.push_back(shared);
    } else {
      // Never merged: where one allocation ends another may begin, but a kernel may not go from one to the next.
      map.segments.push_back({base, allocation.bytes, arena.host(base), true});
    }
  }
  for (const auto& [base, view] : views_) map.segments.push_back({base, view->bytes(), view->host(base), true});
  std::sort(map.segments.begin(), map.segments.end(), [](const auto& a, const auto& b) { return a.base < b.base; });
}

bool AddressSpace::Find(std::uint64_t address, request::MemFind::Reply& info) const {
  for (std::size_t i = 0; i < arenas_.size(); ++i) {
    const Allocation* allocation = arenas_[i]->contains(address) ? arenas_[i]->Find(address) : nullptr;
    if (allocation == nullptr || allocation->is_physical) continue;
    info = {allocation->base, allocation->bytes, allocation->context, static_cast<std::uint32_t>(i), 0};
    return true;
  }
  const auto found = MappingOf(address);
  if (found == mappings_.end()) return false;
  const Physical& physical = physicals_.at(found->second.physical);
  info = {found->first, found->second.bytes, 0, physical.properties.ordinal, 1};
  return true;
}

// --- reservations ---

bool AddressSpace::IsFree(std::uint64_t base, std::uint64_t bytes) const {
  for (const auto& arena : arenas_) {
    if (Overlap(base, bytes, arena->base(), arena->span_bytes())) return false;
  }
  for (const auto& [view_base, view] : views_) {
    if (Overlap(base, bytes, view_base, view->bytes())) return false;
  }
  const auto next = reservations_.lower_bound(base);
  if (next != reservations_.end() && Overlap(base, bytes, next->first, next->second)) return false;
  if (next == reservations_.begin()) return true;
  const auto before = std::prev(next);
  return !Overlap(base, bytes, before->first, before->second);
}

bool AddressSpace::IsReserved(std::uint64_t base, std::uint64_t bytes) const {
  const auto next = reservations_.upper_bound(base);
  if (next == reservations_.begin()) return false;
  const auto found = std::prev(next);
  const std::uint64_t offset = base - found->first;
  return offset < found->second && bytes <= found->second - offset;
}

CUresult AddressSpace::Reserve(std::uint64_t base, std::uint64_t bytes) {
  if (!IsSoundRange(base, bytes) || !IsFree(base, bytes)) return kBad;
  if (reservations_.size() >= kMaxReservations) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  reservations_.emplace(base, bytes);
  return cuda_abi::CUDA_SUCCESS;
}

CUresult AddressSpace::Unreserve(std::uint64_t base, std::uint64_t bytes) {
  const auto found = reservations_.find(base);
  if (found == reservations_.end() || found->second != bytes) return kBad;
  const auto mapped = mappings_.lower_bound(base);
  if (mapped != mappings_.end() && mapped->first - base < bytes) return kBad;
  reservations_.erase(found);
  return cuda_abi::CUDA_SUCCESS;
}

// --- physical allocations ---

CUresult AddressSpace::Create(Id handle, std::uint64_t bytes, const PhysicalProperties& properties) {
  if (bytes == 0 || !IsGranular(bytes)) return kBad;
  if (properties.ordinal >= arenas_.size()) return cuda_abi::CUDA_ERROR_INVALID_DEVICE;
  if (physicals_.size() >= kMaxPhysicals) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  Allocation place{0, bytes, 0, false, /*is_physical=*/true, false};
  const CUresult result = arenas_[properties.ordinal]->Allocate(place);
  if (result != cuda_abi::CUDA_SUCCESS) return result;
  physicals_.emplace(handle, Physical{bytes, properties, place.base, nullptr, 1, 0});
  return cuda_abi::CUDA_SUCCESS;
}

void AddressSpace::FreeIfUnused(Id handle) {
  const auto found = physicals_.find(handle);
  const Physical& physical = found->second;
  if (physical.handle_count > 0 || physical.mapping_count > 0) return;
  if (physical.place != 0) arenas_[physical.properties.ordinal]->Free(physical.place);
  physicals_.erase(found);
}

CUresult AddressSpace::Release(Id handle) {
  const auto found = physicals_.find(handle);
  if (found == physicals_.end() || found->second.handle_count == 0) return kBad;
  --found->second.handle_count;
  FreeIfUnused(handle);
  return cuda_abi::CUDA_SUCCESS;
}

CUresult AddressSpace::Retain(std::uint64_t address, Id& handle) {
  const auto found = MappingOf(address);
  if (found == mappings_.end() || found->second.open_count > 0) return kBad;
  Physical& physical = physicals_.at(found->second.physical);
  if (physical.handle_count == ~std::uint32_t{0}) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  ++physical.handle_count;
  handle = found->second.physical;
  return cuda_abi::CUDA_SUCCESS;
}

CUresult AddressSpace::Info(Id handle, request::PhysicalInfo::Reply& info) const {
  const auto found = physicals_.find(handle);
  if (found == physicals_.end() || found->second.handle_count == 0) return kBad;
  info = {found->second.bytes, found->second.properties};
  return cuda_abi::CUDA_SUCCESS;
}

// --- mappings ---

CUresult AddressSpace::Map(const request::Map& map) {
  const auto found = physicals_.find(map.handle);
  if (found == physicals_.end() || found->second.handle_count == 0) return kBad;
  if (map.bytes == 0 || !IsGranular(map.base) || !IsGranular(map.bytes) || !IsGranular(map.offset)) return kBad;
  if (map.offset > found->second.bytes || map.bytes > found->second.bytes - map.offset) return kBad;
  if (!IsReserved(map.base, map.bytes)) return kBad;
  if (MappingOf(map.base) != mappings_.end()) return kBad;
  const auto next = mappings_.lower_bound(map.base);
  if (next != mappings_.end() && next->first - map.base < map.bytes) return kBad;
  if (mappings_.size() >= kMaxMappings) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  mappings_.emplace(map.base, Mapping{map.bytes, map.handle, map.offset, {}, 0});
  ++found->second.mapping_count;
  return cuda_abi::CUDA_SUCCESS;
}

bool AddressSpace::WholeMappings(std::uint64_t base, std::uint64_t bytes, std::vector<Mappings::iterator>& found) {
  if (bytes == 0) return false;
  for (auto next = mappings_.find(base); next != mappings_.end() && next->first == base; ++next) {
    if (next->second.bytes > bytes || next->second.open_count > 0) return false;
    found.push_back(next);
    base += next->second.bytes;
    bytes -= next->second.bytes;
    if (bytes == 0) return true;
  }
  return false;
}

CUresult AddressSpace::Unmap(std::uint64_t base, std::uint64_t bytes) {
  std::vector<Mappings::iterator> found;
  if (!WholeMappings(base, bytes, found)) return kBad;
  for (const auto mapping : found) {
    const Id handle = mapping->second.physical;
    mappings_.erase(mapping);
    --physicals_.at(handle).mapping_count;
    FreeIfUnused(handle);
  }
  return cuda_abi::CUDA_SUCCESS;
}

CUresult AddressSpace::SetAccess(std::uint64_t base, std::uint64_t bytes,
                                 std::span<const AccessDescription> descriptions) {
  std::vector<Mappings::iterator> found;
  if (!WholeMappings(base, bytes, found)) return kBad;
  for (const AccessDescription& description : descriptions) {
    if (description.ordinal >= arenas_.size()) return cuda_abi::CUDA_ERROR_INVALID_DEVICE;
    if (!IsAccess(description.flags)) return kBad;
    for (const auto mapping : found) {
      // Devices do not reach each other's memory, see cuDeviceCanAccessPeer.
      if (physicals_.at(mapping->second.physical).properties.ordinal != description.ordinal) {
        return cuda_abi::CUDA_ERROR_INVALID_DEVICE;
      }
    }
  }
  for (const AccessDescription& description : descriptions) {
    for (const auto mapping : found) {
      mapping->second.access[description.ordinal] = static_cast<std::uint8_t>(description.flags);
    }
  }
  return cuda_abi::CUDA_SUCCESS;
}

CUresult AddressSpace::GetAccess(std::uint64_t address, std::uint64_t ordinal, std::uint64_t& flags) const {
  if (ordinal >= arenas_.size()) return cuda_abi::CUDA_ERROR_INVALID_DEVICE;
  const auto found = MappingOf(address);
  if (found == mappings_.end()) return kBad;
  flags = found->second.access[ordinal];
  return cuda_abi::CUDA_SUCCESS;
}

// --- sharing ---

CUresult AddressSpace::Share(Id handle, SharedMemoryTable& table, std::shared_ptr<SharedMemory>& shared) {
  const auto found = physicals_.find(handle);
  if (found == physicals_.end() || found->second.handle_count == 0) return kBad;
  Physical& physical = found->second;
  if (physical.shared == nullptr) {
    if (SharedCount() >= kMaxShared) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
    Arena& arena = *arenas_[physical.properties.ordinal];
    physical.shared =
        SharedMemory::Create(arena.device(), arena.host(physical.place), physical.bytes, number_, physical.properties);
    if (physical.shared == nullptr) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
    arena.Disown(physical.place);
    table.Add(physical.shared);
  }
  shared = physical.shared;
  return cuda_abi::CUDA_SUCCESS;
}

CUresult AddressSpace::ShareLinear(std::uint64_t address, SharedMemoryTable& table,
                                   std::shared_ptr<SharedMemory>& shared) {
  Arena* arena = ArenaOf(address);
  const Allocation* allocation = arena == nullptr ? nullptr : arena->Find(address);
  if (allocation == nullptr || allocation->is_module || allocation->is_physical) return kBad;
  const std::uint64_t base = allocation->base;
  if (!allocation->is_moved) {
    if (SharedCount() >= kMaxShared) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
    shared = SharedMemory::Create(arena->device(), arena->host(base), allocation->bytes, number_, {});
    if (shared == nullptr) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
    arena->Disown(base);
    shared_linear_[base] = shared;
    table.Add(shared);
  }
  shared = shared_linear_.at(base);
  return cuda_abi::CUDA_SUCCESS;
}

CUresult AddressSpace::Import(Id handle, std::shared_ptr<SharedMemory> shared) {
  PhysicalProperties properties = shared->properties();
  const auto arena =
      std::find_if(arenas_.begin(), arenas_.end(), [&](const auto& a) { return &a->device() == &shared->device(); });
  // Of a device that this process does not see.
  if (arena == arenas_.end()) return cuda_abi::CUDA_ERROR_NOT_SUPPORTED;
  if (physicals_.size() >= kMaxPhysicals) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  properties.ordinal = static_cast<std::uint32_t>(arena - arenas_.begin());
  const std::uint64_t bytes = shared->bytes();
  physicals_.emplace(handle, Physical{bytes, properties, 0, std::move(shared), 1, 0});
  return cuda_abi::CUDA_SUCCESS;
}

CUresult AddressSpace::IpcOpen(Id handle, std::uint32_t ordinal, const std::shared_ptr<SharedMemory>& shared,
                               std::uint64_t& address) {
  // Source: cuIpcOpenMemHandle: what is open already is counted.
  for (auto& [base, mapping] : mappings_) {
    if (mapping.open_count == 0 || physicals_.at(mapping.physical).shared != shared) continue;
    ++mapping.open_count;
    address = base;
    return cuda_abi::CUDA_SUCCESS;
  }
  // Without peer access, memory of another device than the context's cannot be mapped.
  if (ordinal >= arenas_.size() || &arenas_[ordinal]->device() != &shared->device()) {
    return cuda_abi::CUDA_ERROR_MAP_FAILED;
  }
  const std::uint64_t span = (shared->bytes() + kPageBytes - 1) / kPageBytes * kPageBytes;
  if (const CUresult result = Reserve(address, span); result != cuda_abi::CUDA_SUCCESS) return result;
  if (physicals_.size() >= kMaxPhysicals || mappings_.size() >= kMaxMappings) {
    reservations_.erase(address);
    return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  PhysicalProperties properties;
  properties.ordinal = ordinal;
  physicals_.emplace(handle, Physical{shared->bytes(), properties, 0, shared, 0, 1});
  Mapping mapping{shared->bytes(), handle, 0, {}, 1};
  mapping.access[ordinal] = cuda_abi::CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  mappings_.emplace(address, mapping);
  return cuda_abi::CUDA_SUCCESS;
}

CUresult AddressSpace::IpcClose(std::uint64_t address, std::uint64_t& freed_bytes) {
  freed_bytes = 0;
  const auto found = mappings_.find(address);
  if (found == mappings_.end() || found->second.open_count == 0) return kBad;
  if (--found->second.open_count > 0) return cuda_abi::CUDA_SUCCESS;
  const Id handle = found->second.physical;
  mappings_.erase(found);
  --physicals_.at(handle).mapping_count;
  FreeIfUnused(handle);
  freed_bytes = reservations_.at(address);
  reservations_.erase(address);
  return cuda_abi::CUDA_SUCCESS;
}

std::size_t AddressSpace::SharedCount() const {
  const auto count = std::count_if(physicals_.begin(), physicals_.end(),
                                   [](const auto& item) { return item.second.shared != nullptr; });
  return shared_linear_.size() + static_cast<std::size_t>(count);
}

// --- checkpoint ---

void AddressSpace::Save(SessionState& state) const {
  for (const auto& [base, bytes] : reservations_) state.reservations.push_back({base, bytes});
  for (const auto& [id, physical] : physicals_) {
    const PhysicalProperties& p = physical.properties;
    state.physicals.push_back({id, physical.place, physical.bytes, physical.handle_count, p.ordinal, p.handle_types,
                               p.compression, p.is_rdma_capable, p.usage});
  }
  for (const auto& [base, mapping] : mappings_) {
    std::uint32_t access_bits = 0;
    for (std::size_t i = 0; i < kMaxDevices; ++i)
      access_bits |= static_cast<std::uint32_t>(mapping.access[i]) << (2 * i);
    state.mappings.push_back({base, mapping.bytes, mapping.physical, mapping.offset, access_bits});
  }
}

CUresult AddressSpace::LoadChecked(const SessionState& state) {
  for (const SessionState::Reservation& saved : state.reservations) {
    if (const CUresult result = Reserve(saved.base, saved.reserved_bytes); result != cuda_abi::CUDA_SUCCESS)
      return result;
  }
  std::set<std::uint64_t> places;
  for (const SessionState::Physical& saved : state.physicals) {
    if (saved.ordinal >= arenas_.size() || physicals_.size() >= kMaxPhysicals) return kBad;
    const Arena& arena = *arenas_[saved.ordinal];
    const Allocation* own = arena.contains(saved.place) ? arena.Find(saved.place) : nullptr;
    if (own == nullptr || !own->is_physical || own->base != saved.place || own->bytes != saved.bytes) return kBad;
    if (!places.insert(saved.place).second || !IsGranular(saved.bytes)) return kBad;
    const PhysicalProperties properties{saved.ordinal,         saved.handle_types, saved.compression,
                                        saved.is_rdma_capable, saved.usage,        0};
    // One more for now, so that Map() takes it.
    if (saved.handle_count == ~std::uint32_t{0}) return kBad;
    physicals_.emplace(saved.id, Physical{saved.bytes, properties, saved.place, nullptr, saved.handle_count + 1, 0});
  }
  for (const SessionState::Mapping& saved : state.mappings) {
    const CUresult mapped = Map({saved.base, saved.bytes, saved.offset, saved.physical});
    if (mapped != cuda_abi::CUDA_SUCCESS) return mapped;
    for (std::uint32_t i = 0; i < kMaxDevices; ++i) {
      const std::uint32_t flags = saved.access_bits >> (2 * i) & 3;
      if (flags == 0) continue;
      const AccessDescription description{i, flags};
      const CUresult set = SetAccess(saved.base, saved.bytes, std::span(&description, 1));
      if (set != cuda_abi::CUDA_SUCCESS) return set;
    }
  }
  for (auto& [id, physical] : physicals_) {
    --physical.handle_count;
    if (physical.handle_count == 0 && physical.mapping_count == 0) return kBad;
  }
  // Every piece of cuMemCreate's memory must be somebody's.
  std::size_t physical_count = 0;
  for (const Allocation& allocation : state.allocations) physical_count += allocation.is_physical ? 1 : 0;
  return physical_count == places.size() ? cuda_abi::CUDA_SUCCESS : kBad;
}

}  // namespace softgpu
