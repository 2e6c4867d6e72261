// Logging to stderr. Only main(), the agent's request loop and destructors log; everything else returns an Error.
#pragma once

#include <spdlog/spdlog.h>

#include <string_view>

namespace gpumig {

// `level` is one of debug, info, warn, error, off; anything else counts as info.
void SetUpLogging(std::string_view level);

}  // namespace gpumig
