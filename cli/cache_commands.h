// The commands about this node's cache of chunks. They work alone, whether an agent runs or not.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"

namespace gpumig {

// Files and directories of images; they stay where they are.
CommandOutcome AddToCache(const std::vector<std::string>& paths);
CommandOutcome ListCache();
CommandOutcome RemoveFromCache(const std::vector<std::string>& ids_or_paths);

}  // namespace gpumig
