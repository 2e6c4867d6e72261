// How durations are shown in reports: milliseconds with three decimals, by the names of their parts.
#pragma once

#include <chrono>
#include <vector>

#include "core/base/json.h"
#include "core/session/handoff_types.h"

namespace gpumig {

double Milliseconds(std::chrono::microseconds duration);

// {"quiesce": 1.234, ...}
Json PartsToJson(const std::vector<TimedPart>& parts);

}  // namespace gpumig
