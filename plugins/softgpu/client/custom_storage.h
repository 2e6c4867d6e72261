// The caller's side of custom storage: another process's device memory as ranges of this one, until the operation is
// complete.
//
// The other process's restore thread lists which parts of its devices are in use, in a memfd that its control page
// names. This process maps them one behind the other, for its own copies, and has its daemon do the same for its
// streams and kernels. There is no way back from Begin() but Complete(): the driver has none.
#pragma once

#include "plugins/softgpu/client/control_page.h"

namespace softgpu {

// kCheckpointCustom or kRestoreCustom, on process `pid`. `*info` is the library's until CompleteCustomStorage().
// Errors, beside those of the command: NOT_INITIALIZED before cuInit; INVALID_CONTEXT, a GPU of the process has no
// active primary context here; INVALID_DEVICE, it is not visible here; OPERATING_SYSTEM without CAP_SYS_PTRACE. In all
// of these nothing was begun.
cuda_abi::CUresult BeginCustomStorage(int pid, Command& command, cuda_abi::CUcheckpointCustomStorageInfo** info);

// Waits for the streams, then for the process. INVALID_HANDLE: no such operation.
cuda_abi::CUresult CompleteCustomStorage(cuda_abi::CUcheckpointOperationHandle handle);

}  // namespace softgpu
