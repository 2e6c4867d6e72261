// What is known to make a capture impossible, found before anything is stopped.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "core/base/result.h"

namespace gpumig {

struct Blocker {
  pid_t process = 0;
  std::string what;  // "holds an io_uring (descriptor 5)"
  std::string cure;
};

// Of the processes of a workload, in their order. One that ends meanwhile has none.
std::vector<Blocker> FindBlockers(const std::vector<pid_t>& processes);

// kUnsupported naming the first blocker, with its cure, and how many more there are; Ok where there is none.
Result<void> RefuseBlockers(const std::vector<Blocker>& blockers);

}  // namespace gpumig
