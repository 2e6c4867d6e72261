// The lanes that an instruction runs for.
#pragma once

#include <cstdint>

namespace softgpu::ptx {

// [first, end), or if `index` is not null those `count` it lists, ascending.
struct Lanes {
  std::uint32_t first = 0;
  std::uint32_t end = 0;
  std::uint32_t count = 0;
  const std::uint16_t* index = nullptr;
};

inline std::uint32_t LaneAt(const Lanes& lanes, std::uint32_t i) {
  return lanes.index == nullptr ? lanes.first + i : lanes.index[i];
}

}  // namespace softgpu::ptx
