// The driver functions that programs find in the client library and that return NOT_SUPPORTED.
#pragma once

#include <string>
#include <vector>

namespace softgpu {

// Symbols, sorted.
std::vector<std::string> UnsupportedFunctions();

}  // namespace softgpu
