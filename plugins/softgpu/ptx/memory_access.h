// From addresses to host memory. Every byte that a handler touches has gone through here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "plugins/softgpu/ptx/address_pattern.h"
#include "plugins/softgpu/ptx/program.h"

namespace softgpu::ptx {

// The host bytes of [address, address + bytes) as `lane` sees them. Null, with Block::fault set: there are none, or the
// address is not a multiple of `bytes`. REQUIRES: bytes is a power of two
std::byte* Resolve(Block& block, const Instruction& instruction, std::uint32_t lane, std::uint64_t address,
                   std::size_t bytes, bool write);

// Host memory in which every access of an instruction lies: of address x it is at host + (x - base).
struct View {
  std::byte* host = nullptr;
  std::uint64_t base = 0;   // The lowest of all addresses.
  std::uint64_t first = 0;  // That of the first lane.
  std::uint64_t step = 0;
  AddressPattern::Shape shape = AddressPattern::Shape::kAny;

  bool IsLineOf(std::uint64_t bytes) const { return shape == AddressPattern::Shape::kLine && step == bytes; }
};

// False: there is no such memory, or an address is misaligned; Resolve() will tell for each lane.
bool FindView(Block& block, const Instruction& instruction, const Lanes& lanes, std::size_t bytes, bool write,
              View* view);

}  // namespace softgpu::ptx
