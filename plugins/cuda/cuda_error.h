// What the CUDA driver's numbers mean to gpumig, and to a person.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "core/base/error.h"
#include "plugins/cuda/cuda_library.h"

namespace gpumig {

// "CUDA_ERROR_NOT_READY (600)".
std::string CudaResultName(const CudaFunctions& functions, cuda_abi::CUresult result);

// The error of a cuCheckpointProcess* call on a process. CUDA_ERROR_NOT_INITIALIZED does not come here where it is an
// answer (the process uses no GPU). REQUIRES: result != CUDA_SUCCESS
Error CudaCheckpointError(const CudaFunctions& functions, cuda_abi::CUresult result, std::string_view call);

}  // namespace gpumig
