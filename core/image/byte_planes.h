// Numbers apart into planes of bytes and back: plane k holds byte k of every element. The sign and exponent of floats
// then stand together, where an entropy coder finds what they have in common, and the noise of mantissas stands alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace gpumig {

inline constexpr std::size_t kMostPlanes = 4;

// Writes plain.size() / planes.size() bytes to each plane; what is left of `plain` behind the last whole element is the
// caller's. REQUIRES: 2 or 4 planes, which overlap neither each other nor `plain`
void SplitPlanes(std::span<const std::byte> plain, std::span<std::byte* const> planes);

// The reverse: fills plain.size() / planes.size() elements of `plain`. REQUIRES: as SplitPlanes()
void MergePlanes(std::span<const std::byte* const> planes, std::span<std::byte> plain);

}  // namespace gpumig
