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
  const std::vector<std::byte> written = map->Serialise();
  GPUMIG_CHECK(gpumig::MemoryMap::Parse(written)->Serialise() == written);
  for (const gpumig::ProcessPages& pages : map->processes) {
    // Any part of it can be found.
    const gpumig::MemoryExtent& middle = pages.extents()[pages.extents().size() / 2];
    GPUMIG_CHECK(pages.Pieces(middle.offset + middle.bytes / 2, 1).size() == 1);
  }
  return 0;
}
