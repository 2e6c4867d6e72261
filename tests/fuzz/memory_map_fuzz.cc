// Memory maps from hostile hands: any bytes are refused with a typed error, or are a map that can be written again.
#include <algorithm>
#include <cstdint>

#include "core/base/check.h"
#include "core/host/memory_map.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using gpumig::ErrorCode;
  const auto bytes = std::as_bytes(std::span(data, size));
  const gpumig::Result<gpumig::MemoryMap> map = gpumig::MemoryMap::Parse(bytes);
  if (!map) {
    GPUMIG_CHECK(map.error().code() == ErrorCode::kDamaged || map.error().code() == ErrorCode::kUnsupported);
    return 0;
  }
  GPUMIG_CHECK(std::ranges::equal(map->Serialise(), bytes));
  for (const gpumig::ProcessPages& pages : map->processes) {
    // Any part of it can be found.
    const std::uint64_t middle = pages.bytes() / 2;
    GPUMIG_CHECK(!pages.Pieces(middle, 1).empty());
  }
  return 0;
}
