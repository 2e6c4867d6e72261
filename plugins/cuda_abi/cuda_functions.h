// The signatures of the driver functions in use here: cuda_abi::fn::cuMemAlloc_v2 is a function type, so that
// `cuda_abi::fn::cuMemAlloc_v2* alloc` holds what cuGetProcAddress returns.
//
// `fn::kName_cuMemAlloc_v2` and `fn::kSince_cuMemAlloc_v2` are what to ask cuGetProcAddress for.
#pragma once

#include "plugins/cuda_abi/cuda_abi.h"

namespace cuda_abi::fn {

#define CUDA_ABI_FUNCTION(symbol, base_name, since, ...)    \
  using symbol = CUresult(__VA_ARGS__);                     \
  inline constexpr const char* kName_##symbol = #base_name; \
  inline constexpr int kSince_##symbol = since;
// Not by the macro above: that would expand the names once more, which a cuda.h beside this one redefines.
#define CUDA_ABI_STREAM_FUNCTION(symbol, base_name, since, suffix, suffix_since, ...) \
  using symbol = CUresult(__VA_ARGS__);                                               \
  inline constexpr const char* kName_##symbol = #base_name;                           \
  inline constexpr int kSince_##symbol = since;
#include "plugins/cuda_abi/cuda_functions.inc"

}  // namespace cuda_abi::fn
