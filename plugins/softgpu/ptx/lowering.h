// From the syntax of a kernel to the program that runs it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <variant>

#include "plugins/softgpu/ptx/module.h"
#include "plugins/softgpu/ptx/program.h"
#include "plugins/softgpu/ptx/syntax.h"

namespace softgpu::ptx {

// What the names of module scope stand for.
struct ModuleSymbol {
  const VariableSyntax* variable = nullptr;  // Null if it is a function.
  const FunctionSyntax* function = nullptr;
  std::uint32_t global = 0;  // Of a .global or .const variable.
};
using ModuleSymbols = std::unordered_map<std::string_view, ModuleSymbol>;

// `kernel` has its name and parameters; Lower adds all that follows from the body. `budget` bounds the work, in
// statements with every call inlined, and is reduced by what was used.
std::variant<Program, ParseError> LowerKernel(const FunctionSyntax& function, const Kernel& kernel,
                                              const ModuleSymbols& symbols, std::size_t* budget);

}  // namespace softgpu::ptx
