// The patterns of rows of addresses that were found since any such row was written to.
//
// A loop accesses an array at several distances from one address, and a tile has dozens of accesses per address.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "plugins/softgpu/ptx/address_pattern.h"
#include "plugins/softgpu/ptx/lanes.h"

namespace softgpu::ptx {

class KnownPatterns {
 public:
  // Of addresses[lane], which are row number `row`, plus `displacement`; for accesses of so many bytes, a power of two.
  AddressPattern Of(std::uint32_t row, const std::uint64_t* addresses, std::uint64_t displacement, const Lanes& lanes,
                    std::size_t bytes);
  void Forget() {
    for (Known& known : known_) known.end = 0;
    next_ = 0;
  }

 private:
  struct Known {
    std::uint32_t row = 0;
    std::uint32_t first = 0;  // Of a range of lanes.
    std::uint32_t end = 0;    // 0: nothing is known.
    AddressPattern pattern;   // Without displacement.
  };
  const AddressPattern& Find(std::uint32_t row, const std::uint64_t* addresses, const Lanes& lanes);

  std::array<Known, 4> known_;
  std::size_t next_ = 0;
};

}  // namespace softgpu::ptx
