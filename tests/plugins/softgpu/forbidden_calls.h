// Watches the rule of the restore thread: no heap and no mutex between Lock and Unlock.
#pragma once

#include <sys/types.h>

namespace softgpu_test {

// From now on a call of malloc, calloc, realloc, free or pthread_mutex_lock by this thread of ours ends the process
// with exit code 82. 0: by none. Without effect under sanitizers, which have these functions to themselves.
void ForbidHeapAndLocks(pid_t tid);
bool CanForbidHeapAndLocks();

}  // namespace softgpu_test
