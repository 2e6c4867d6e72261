#include "tests/plugins/softgpu/driver.h"

namespace softgpu_test {

Driver Driver::Open(const std::string& path) {
  Driver driver;
  driver.library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (driver.library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    std::exit(90);
  }
  const auto find = [&](const char* name) {
    void* address = dlsym(driver.library, name);
    if (address == nullptr) {
      std::fprintf(stderr, "%s has no %s\n", path.c_str(), name);
      std::exit(91);
    }
    return address;
  };
#define CUDA_ABI_FUNCTION(symbol, base_name, since, ...) \
  driver.symbol = reinterpret_cast<cuda_abi::fn::symbol*>(find(#symbol));
#define CUDA_ABI_STREAM_FUNCTION(symbol, base_name, since, suffix, suffix_since, ...) \
  driver.symbol = reinterpret_cast<cuda_abi::fn::symbol*>(find(#symbol));             \
  find(#symbol "_" #suffix);
#include "plugins/cuda_abi/cuda_functions.inc"
  return driver;
}

Driver Driver::OpenWhatIsThere(const std::string& path) {
  Driver driver;
  driver.library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (driver.library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    std::exit(90);
  }
#define CUDA_ABI_FUNCTION(symbol, base_name, since, ...) \
  driver.symbol = reinterpret_cast<cuda_abi::fn::symbol*>(dlsym(driver.library, #symbol));
#define CUDA_ABI_STREAM_FUNCTION(symbol, base_name, since, suffix, suffix_since, ...) \
  driver.symbol = reinterpret_cast<cuda_abi::fn::symbol*>(dlsym(driver.library, #symbol));
#include "plugins/cuda_abi/cuda_functions.inc"
  return driver;
}

Driver OpenSoftDriver() { return Driver::Open(SOFTGPU_LIBRARY); }

}  // namespace softgpu_test
