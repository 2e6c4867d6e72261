#include "core/image/byte_planes.h"

#include "core/base/check.h"

// Plain loops that compilers turn into shuffles of 16 bytes and more; this file is built with -O3 for that. On the
// machine of bench/README.md they run at half the speed of a copy or more.
namespace gpumig {
namespace {

void Split2(const std::byte* __restrict plain, std::byte* __restrict a, std::byte* __restrict b, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    a[i] = plain[2 * i];
    b[i] = plain[2 * i + 1];
  }
}

void Split4(const std::byte* __restrict plain, std::byte* __restrict a, std::byte* __restrict b,
            std::byte* __restrict c, std::byte* __restrict d, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    a[i] = plain[4 * i];
    b[i] = plain[4 * i + 1];
    c[i] = plain[4 * i + 2];
    d[i] = plain[4 * i + 3];
  }
}

void Merge2(const std::byte* a, const std::byte* b, std::byte* __restrict plain, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    plain[2 * i] = a[i];
    plain[2 * i + 1] = b[i];
  }
}

void Merge4(const std::byte* a, const std::byte* b, const std::byte* c, const std::byte* d, std::byte* __restrict plain,
            std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    plain[4 * i] = a[i];
    plain[4 * i + 1] = b[i];
    plain[4 * i + 2] = c[i];
    plain[4 * i + 3] = d[i];
  }
}

}  // namespace

void SplitPlanes(std::span<const std::byte> plain, std::span<std::byte* const> planes) {
  GPUMIG_CHECK(planes.size() == 2 || planes.size() == 4);
  const std::size_t count = plain.size() / planes.size();
  if (planes.size() == 2) {
    Split2(plain.data(), planes[0], planes[1], count);
  } else {
    Split4(plain.data(), planes[0], planes[1], planes[2], planes[3], count);
  }
}

void MergePlanes(std::span<const std::byte* const> planes, std::span<std::byte> plain) {
  GPUMIG_CHECK(planes.size() == 2 || planes.size() == 4);
  const std::size_t count = plain.size() / planes.size();
  if (planes.size() == 2) {
    Merge2(planes[0], planes[1], plain.data(), count);
  } else {
    Merge4(planes[0], planes[1], planes[2], planes[3], plain.data(), count);
  }
}

}  // namespace gpumig
