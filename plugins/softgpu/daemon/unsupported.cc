#include "plugins/softgpu/daemon/unsupported.h"

#include <set>

namespace softgpu {

std::vector<std::string> UnsupportedFunctions() {
  std::set<std::string> symbols = {
#define CUDA_ABI_SYMBOL(symbol, base_name, since, flavour) #symbol,
#include "plugins/cuda_abi/driver_symbols.inc"
  };
#define CUDA_ABI_FUNCTION(symbol, base_name, since, ...) symbols.erase(#symbol);
#define CUDA_ABI_STREAM_FUNCTION(symbol, base_name, since, suffix, suffix_since, ...) \
  symbols.erase(#symbol);                                                             \
  symbols.erase(#symbol "_" #suffix);
#include "plugins/cuda_abi/cuda_functions.inc"
#define CUDA_ABI_ALIAS(name, target, is_same) symbols.erase(#name);
#include "plugins/cuda_abi/cuda_aliases.inc"
  return {symbols.begin(), symbols.end()};
}

}  // namespace softgpu
