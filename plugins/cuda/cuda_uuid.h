// UUIDs of NVIDIA GPUs: 16 bytes to the driver, "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" to people.
#pragma once

#include <string>
#include <string_view>

#include "core/base/result.h"
#include "plugins/cuda_abi/cuda_abi.h"

namespace gpumig {

std::string FormatCudaUuid(const cuda_abi::CUuuid& uuid);

// Errors: kInvalidArgument, it is not of the form above.
Result<cuda_abi::CUuuid> ParseCudaUuid(std::string_view text);

}  // namespace gpumig
