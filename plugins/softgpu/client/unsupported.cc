#include "plugins/softgpu/client/unsupported.h"

#include "plugins/cuda_abi/cuda_abi.h"

// Weak, so that what is implemented elsewhere in this library takes the name.
#define SOFTGPU_STUB(name)                                                                        \
  __asm__(".pushsection .text\n.weak " #name "\n.type " #name ", @function\n" #name               \
          ":\n"                                                                                   \
          "softgpu_stub_" #name ":\nendbr64\n\tmovl $801, %eax\n\tret\n.size " #name ", .-" #name \
          "\n"                                                                                    \
          ".popsection\n");
#define CUDA_ABI_SYMBOL(symbol, base_name, since, flavour) SOFTGPU_STUB(symbol)
#include "plugins/cuda_abi/driver_symbols.inc"

static_assert(cuda_abi::CUDA_ERROR_NOT_SUPPORTED == 801);

extern "C" {
#define CUDA_ABI_SYMBOL(symbol, base_name, since, flavour) void softgpu_stub_##symbol();
#include "plugins/cuda_abi/driver_symbols.inc"
}

namespace softgpu {

std::span<const UnsupportedSymbol> UnsupportedSymbols() {
  enum Flavour { plain, ptds, ptsz };
  static const UnsupportedSymbol kSymbols[] = {
#define CUDA_ABI_SYMBOL(symbol, base_name, since, flavour) \
  {#symbol, #base_name, since, flavour != plain, reinterpret_cast<void*>(&softgpu_stub_##symbol)},
#include "plugins/cuda_abi/driver_symbols.inc"
  };
  return kSymbols;
}

}  // namespace softgpu
