#include "plugins/softgpu/ptx/address_pattern.h"

#include <algorithm>
#include <cstring>

#include "plugins/softgpu/ptx/program.h"

namespace softgpu::ptx {
namespace {

// Half a run. Vectors by hand: what is compared are differences from the first of eight, which compilers do not see.
using Four [[gnu::vector_size(32)]] = std::uint64_t;
constexpr std::size_t kRunLanes = AddressPattern::kRunLanes;
static_assert(kRunLanes * sizeof(std::uint64_t) == 2 * sizeof(Four));

// With steps and spans up to these no run wraps around.
constexpr std::uint64_t kMaxStep = std::uint64_t{1} << 32;
constexpr std::uint64_t kMaxSpan = std::uint64_t{1} << 63;

AddressPattern AnyPattern(const std::uint64_t* addresses, std::uint64_t displacement, const Lanes& lanes) {
  AddressPattern pattern;
  pattern.low = ~std::uint64_t{0};
  ForEachLane(lanes, [&](std::size_t lane) {
    const std::uint64_t address = addresses[lane] + displacement;
    pattern.low = address < pattern.low ? address : pattern.low;
    pattern.high = address > pattern.high ? address : pattern.high;
    pattern.all_bits |= address;
  });
  return pattern;
}

// Is each of `count` runs from `addresses` on a line of this step?
bool AreRuns(const std::uint64_t* addresses, std::size_t count, std::uint64_t step) {
  const Four near = {0, step, 2 * step, 3 * step};
  const Four far = near + 4 * step;
  Four different = {};
  for (std::size_t run = 0; run < count; ++run) {
    Four low;
    Four high;
    std::memcpy(&low, addresses + run * kRunLanes, sizeof(low));
    std::memcpy(&high, addresses + run * kRunLanes + 4, sizeof(high));
    const std::uint64_t first = addresses[run * kRunLanes];
    different |= (low - first) ^ near;
    different |= (high - first) ^ far;
  }
  return (different[0] | different[1] | different[2] | different[3]) == 0;
}

// The lanes of the last, shorter run.
bool IsLine(const std::uint64_t* addresses, std::size_t count, std::uint64_t step) {
  for (std::size_t i = 1; i < count; ++i) {
    if (addresses[i] - addresses[i - 1] != step) return false;
  }
  return true;
}

}  // namespace

AddressPattern PatternOf(const std::uint64_t* addresses, std::uint64_t displacement, const Lanes& lanes) {
  if (lanes.count == 1) {
    const std::uint64_t address = addresses[lanes.first] + displacement;
    return {.low = address, .high = address, .all_bits = address, .shape = AddressPattern::Shape::kLine};
  }
  const std::uint64_t* const begin = addresses + lanes.first;
  const std::size_t count = lanes.count;
  const std::uint64_t step = begin[1] - begin[0];
  const std::size_t whole = count / kRunLanes * kRunLanes;
  if (lanes.index != nullptr || step + kMaxStep > 2 * kMaxStep || !AreRuns(begin, whole / kRunLanes, step) ||
      !IsLine(begin + whole, count - whole, step)) {
    return AnyPattern(addresses, displacement, lanes);
  }
  AddressPattern pattern{.low = ~std::uint64_t{0}, .all_bits = step, .step = step};
  std::uint64_t off_line = 0;
  for (std::size_t i = 0; i < count; i += kRunLanes) {
    const std::uint64_t first = begin[i] + displacement;
    const std::uint64_t last = begin[std::min(i + kRunLanes, count) - 1] + displacement;
    pattern.low = std::min(pattern.low, std::min(first, last));
    pattern.high = std::max(pattern.high, std::max(first, last));
    pattern.all_bits |= first;
    off_line |= begin[i] - begin[0] - i * step;
  }
  // A run that wraps around does not end at its lowest and highest address.
  if (pattern.high - pattern.low >= kMaxSpan) return AnyPattern(addresses, displacement, lanes);
  pattern.shape = off_line == 0 ? AddressPattern::Shape::kLine : AddressPattern::Shape::kRuns;
  return pattern;
}

}  // namespace softgpu::ptx
