// What a report says of copying while a workload ran.
#pragma once

#include "core/base/json.h"
#include "core/session/live_copy.h"

namespace gpumig {

// {"rounds": [{"bytes": 1, "ms": 1.0}], "converged": true, "bytes_left": 1, "left_alone": ["process 1: why"]}
Json LiveToJson(const LiveReport& live);

}  // namespace gpumig
