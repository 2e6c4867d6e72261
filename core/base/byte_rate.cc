#include "core/base/byte_rate.h"

#include <array>
#include <charconv>
#include <cmath>
#include <utility>

namespace gpumig {
namespace {

constexpr double kMostByteRate = 1e15;

constexpr std::array<std::pair<std::string_view, double>, 12> kUnits{{{"K", 1024.0},
                                                                      {"M", 1024.0 * 1024},
                                                                      {"G", 1024.0 * 1024 * 1024},
                                                                      {"KiB", 1024.0},
                                                                      {"MiB", 1024.0 * 1024},
                                                                      {"GiB", 1024.0 * 1024 * 1024},
                                                                      {"KB", 1e3},
                                                                      {"MB", 1e6},
                                                                      {"GB", 1e9},
                                                                      {"Kbit", 1e3 / 8},
                                                                      {"Mbit", 1e6 / 8},
                                                                      {"Gbit", 1e9 / 8}}};

}  // namespace

Result<std::uint64_t> ParseByteRate(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  const std::string_view suffix = text.substr(static_cast<std::size_t>(end - text.data()));
  for (const auto& [unit, factor] : kUnits) {
    if (error != std::errc() || suffix != unit) continue;
    const double rate = number * factor;
    if (!(rate >= static_cast<double>(kLeastByteRate) && rate <= kMostByteRate)) break;
    return static_cast<std::uint64_t>(std::llround(rate));
  }
  return MakeError(ErrorCode::kInvalidArgument,
                   "rate '{}' is not a number with K, M, G (bytes per second) or Kbit, Mbit, Gbit (bits), of 64K at "
                   "least, such as 100M or 800Mbit",
                   text);
}

}  // namespace gpumig
