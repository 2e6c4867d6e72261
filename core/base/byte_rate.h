// Rates of bytes as people write them: "100M", "1.5GB", "800Mbit".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/result.h"

namespace gpumig {

// A limit below this cannot be meant: a chunk alone would take minutes.
inline constexpr std::uint64_t kLeastByteRate = 64 << 10;

// In bytes per second. K, M and G (or KiB, MiB, GiB) count in 1024s, as rsync and restic have it; KB, MB and GB in
// 1000s; Kbit, Mbit and Gbit are thousands of bits. Errors: kInvalidArgument, also for what is below kLeastByteRate.
Result<std::uint64_t> ParseByteRate(std::string_view text);

}  // namespace gpumig
