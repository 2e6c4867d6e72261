// Reading and comparing CRIU versions.
#pragma once

#include <string>
#include <string_view>

namespace gpumig {

// Where scripts/bootstrap puts a CRIU that the distribution does not have.
#ifndef GPUMIG_CRIU_PREFIX
#define GPUMIG_CRIU_PREFIX "/opt/gpumig/criu"
#endif
inline constexpr std::string_view kPrivateCriuPrefix = GPUMIG_CRIU_PREFIX;

// "4.1.1" of the text that `criu --version` prints, or empty.
std::string CriuVersionIn(std::string_view text);

// Numeric, part by part: 4.10 is newer than 4.9. An empty version is older than all.
bool IsAtLeast(std::string_view version, std::string_view wanted);

}  // namespace gpumig
