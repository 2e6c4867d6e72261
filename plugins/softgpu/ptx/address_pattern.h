// How the addresses that the lanes of an instruction access relate to each other.
//
// Most kernels access memory in straight lines, or, in tiles, in lines that begin anew every few lanes. Whoever knows
// that need not look at each address again.
#pragma once

#include <cstddef>
#include <cstdint>

#include "plugins/softgpu/ptx/lanes.h"

namespace softgpu::ptx {

struct AddressPattern {
  // Only ranges of lanes are ever more than kAny.
  enum class Shape {
    kAny,
    kRuns,  // From each lane first + kRunLanes * k to the lane before the next such, addresses are `step` apart.
    kLine,  // All are.
  };
  static constexpr std::size_t kRunLanes = 8;

  std::uint64_t low = 0;  // Of all addresses; exact.
  std::uint64_t high = 0;
  std::uint64_t all_bits = 0;  // Its lowest set bit is the lowest that any address has.
  std::uint64_t step = 0;
  Shape shape = Shape::kAny;
};

// Of addresses[lane] + displacement. REQUIRES: there are lanes
AddressPattern PatternOf(const std::uint64_t* addresses, std::uint64_t displacement, const Lanes& lanes);

}  // namespace softgpu::ptx
