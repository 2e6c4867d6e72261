// Loads, stores and atomics.
//
// Rows: [0] to [3] the values, [4] the address, kNoRow if the displacement is all of it; of an atomic [0] what was
// there before or kNoRow, [1] and [2] the operands.
#pragma once

#include <cstdint>
#include <string_view>

#include "plugins/softgpu/ptx/program.h"

namespace softgpu::ptx {

inline constexpr std::size_t kAddressRow = 4;

// Null: there is no such access. `bytes` is of one element, `count` is 1, 2 or 4.
Handler LoadHandler(std::uint32_t bytes, std::uint32_t count);
Handler StoreHandler(std::uint32_t bytes, std::uint32_t count);
// Of the packed kernel parameters, at the same address for all lanes.
Handler ParameterHandler(std::uint32_t bytes, std::uint32_t count);

// "add.u32", "cas.b64" ... Null: there is no such atomic.
Handler AtomicHandler(std::string_view operation);

}  // namespace softgpu::ptx
