// The thread by which a driver restores a process, as our pid namespace numbers it.
#pragma once

#include <sys/types.h>

#include "core/base/result.h"

namespace gpumig {

// A driver may tell the number that a process in a pid namespace of its own knows, or ours; nothing says which. `told`
// is looked for among our numbers first: those of a process in a namespace of its own are higher than its own numbers,
// which start at 1, so that the two hardly meet. Errors: kNotFound, `process` has no such thread.
Result<pid_t> ThreadInOurNamespace(pid_t process, pid_t told);

}  // namespace gpumig
