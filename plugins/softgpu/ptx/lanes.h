// The lanes that an instruction runs for.
#pragma once

#include <cstddef>
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

// Calls `body` with the number of each lane. The body must touch no row but at that number.
template <class Body>
[[gnu::always_inline]] inline void ForEachLane(const Lanes& lanes, Body body) {
  if (lanes.index == nullptr) {
    const std::size_t end = lanes.end;
#pragma GCC ivdep
    for (std::size_t lane = lanes.first; lane < end; ++lane) body(lane);
  } else {
    for (std::size_t i = 0; i < lanes.count; ++i) body(lanes.index[i]);
  }
}

}  // namespace softgpu::ptx
