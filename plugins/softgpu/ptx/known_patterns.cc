#include "plugins/softgpu/ptx/known_patterns.h"

namespace softgpu::ptx {

const AddressPattern& KnownPatterns::Find(std::uint32_t row, const std::uint64_t* addresses, const Lanes& lanes) {
  for (const Known& known : known_) {
    if (known.row == row && known.first == lanes.first && known.end == lanes.end) return known.pattern;
  }
  Known& known = known_[next_];
  next_ = (next_ + 1) % known_.size();
  known = {row, lanes.first, lanes.end, PatternOf(addresses, 0, lanes)};
  return known.pattern;
}

AddressPattern KnownPatterns::Of(std::uint32_t row, const std::uint64_t* addresses, std::uint64_t displacement,
                                 const Lanes& lanes, std::size_t bytes) {
  if (lanes.index != nullptr || lanes.count == 1) return PatternOf(addresses, displacement, lanes);
  AddressPattern pattern = Find(row, addresses, lanes);
  // Where some wrap around with the displacement and others do not, or both it and they are misaligned, nothing follows
  // from what they are without.
  const bool wraps = pattern.low + displacement > pattern.high + displacement;
  if (wraps || ((pattern.all_bits & displacement) & (bytes - 1)) != 0) return PatternOf(addresses, displacement, lanes);
  pattern.low += displacement;
  pattern.high += displacement;
  pattern.all_bits |= displacement;
  return pattern;
}

}  // namespace softgpu::ptx
