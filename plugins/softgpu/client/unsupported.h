// What a real libcuda exports beside what is implemented here: functions that return NOT_SUPPORTED.
#pragma once

#include <span>

namespace softgpu {

// A symbol of driver_symbols.inc. `stub` returns NOT_SUPPORTED, whatever it is given.
struct UnsupportedSymbol {
  const char* symbol;
  const char* base_name;
  int since;
  bool is_per_thread;
  void* stub;
};

// All symbols of the list, those with an implementation included: it is up to the caller to prefer that.
std::span<const UnsupportedSymbol> UnsupportedSymbols();

}  // namespace softgpu
