// The driver API as a program that opens libcuda.so.1 at run time sees it.
#pragma once

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "plugins/cuda_abi/cuda_functions.h"

namespace softgpu_test {

using namespace cuda_abi;  // Tests read best in the interface's own names.

// Every function in cuda_functions.inc, found by dlsym. Never closed.
struct Driver {
#define CUDA_ABI_FUNCTION(symbol, base_name, since, ...) cuda_abi::fn::symbol* symbol = nullptr;
#define CUDA_ABI_STREAM_FUNCTION(symbol, base_name, since, suffix, suffix_since, ...) \
  cuda_abi::fn::symbol* symbol = nullptr;
#include "plugins/cuda_abi/cuda_functions.inc"

  void* library = nullptr;

  // Exits if the library is not as it must be.
  static Driver Open(const std::string& path);
  // Functions that the library lacks are null.
  static Driver OpenWhatIsThere(const std::string& path);
};

// The software GPU's, from the build tree.
Driver OpenSoftDriver();

}  // namespace softgpu_test
