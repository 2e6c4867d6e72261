#include "plugins/softgpu/ptx/memory_access.h"

#include "plugins/softgpu/ptx/address_pattern.h"
#include "plugins/softgpu/ptx/memory_operations.h"

namespace softgpu::ptx {
namespace {

// The known segment with [address, address + bytes), or null.
const Segment* FindSegment(Block& block, std::uint64_t address, std::size_t bytes) {
  const auto holds = [&](const Segment& segment) {
    return address >= segment.base && segment.bytes >= bytes && address - segment.base <= segment.bytes - bytes;
  };
  for (const Segment& segment : block.segments) {
    if (holds(segment)) return &segment;
  }
  const Segment found = block.memory->Find(address);
  if (!holds(found)) return nullptr;
  Segment& slot = block.segments[block.next_segment];
  block.next_segment = (block.next_segment + 1) % block.segments.size();
  slot = found;
  return &slot;
}

// What a generic address really is; `address` becomes the offset in its window.
Space SpaceOf(Space space, std::uint64_t* address) {
  if (space != Space::kGeneric) return space;
  constexpr std::uint64_t kWindow = std::uint64_t{0xFF} << 56;
  const std::uint64_t window = *address & kWindow;
  if (window < kSharedWindow) return Space::kGlobal;
  *address &= ~kWindow;
  if (window == kSharedWindow) return Space::kShared;
  if (window == kLocalWindow) return Space::kLocal;
  return window == kParameterWindow ? Space::kParam : Space::kNone;
}

bool Holds(std::size_t size, std::uint64_t offset, std::size_t bytes) {
  return bytes <= size && offset <= size - bytes;
}

std::byte* ResolveIn(Block& block, Space space, std::uint32_t lane, std::uint64_t address, std::size_t bytes,
                     bool write) {
  switch (space) {
    case Space::kGlobal:
    case Space::kConst: {
      const Segment* segment = FindSegment(block, address, bytes);
      if (segment == nullptr || (write && !segment->writable)) return nullptr;
      return segment->host + (address - segment->base);
    }
    case Space::kShared:
      return Holds(block.shared.size(), address, bytes) ? block.shared.data() + address : nullptr;
    case Space::kLocal:
      return Holds(block.local_bytes, address, bytes) ? block.local + lane * block.local_bytes + address : nullptr;
    case Space::kParam:
      // Never written: `write` is refused, so the cast is harmless.
      if (write || !Holds(block.parameters.size(), address, bytes)) return nullptr;
      return const_cast<std::byte*>(block.parameters.data() + address);
    case Space::kNone:
    case Space::kGeneric:
      break;
  }
  return nullptr;
}

}  // namespace

std::byte* Resolve(Block& block, const Instruction& instruction, std::uint32_t lane, std::uint64_t address,
                   std::size_t bytes, bool write) {
  if ((address & (bytes - 1)) != 0) {
    block.SetFault(LaunchStatus::kMisalignedAddress, lane, address);
    return nullptr;
  }
  std::uint64_t offset = address;
  const Space space = SpaceOf(instruction.space, &offset);
  std::byte* const host = ResolveIn(block, space, lane, offset, bytes, write);
  if (host == nullptr) block.SetFault(LaunchStatus::kIllegalAddress, lane, address);
  return host;
}

bool FindView(Block& block, const Instruction& instruction, const Lanes& lanes, std::size_t bytes, bool write,
              View* view) {
  if (instruction.space == Space::kLocal || instruction.space == Space::kParam ||
      instruction.rows[kAddressRow] == kNoRow)
    return false;
  const std::uint64_t* const addresses = block.Row<std::uint64_t>(instruction.rows[kAddressRow]);
  const auto displacement = static_cast<std::uint64_t>(instruction.displacement);
  const AddressPattern pattern =
      block.patterns.Of(instruction.rows[kAddressRow], addresses, displacement, lanes, bytes);
  if ((pattern.all_bits & (bytes - 1)) != 0) return false;
  std::uint64_t low_offset = pattern.low;
  std::uint64_t high_offset = pattern.high;
  const Space space = SpaceOf(instruction.space, &low_offset);
  if (SpaceOf(instruction.space, &high_offset) != space || high_offset < low_offset) return false;
  if (space == Space::kLocal || space == Space::kParam || space == Space::kNone) return false;
  const std::uint64_t span = high_offset - low_offset + bytes;
  if (span < bytes) return false;
  std::byte* const host = ResolveIn(block, space, 0, low_offset, span, write);
  *view = View{host, pattern.low, addresses[lanes.first] + displacement, pattern.step, pattern.shape};
  return host != nullptr;
}

}  // namespace softgpu::ptx
