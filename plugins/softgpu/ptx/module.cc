#include "plugins/softgpu/ptx/module.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "plugins/softgpu/ptx/lowering.h"
#include "plugins/softgpu/ptx/parser.h"
#include "plugins/softgpu/ptx/program.h"

namespace softgpu::ptx {
namespace {

using Failure = std::optional<ParseError>;

// A name may be declared often and defined once.
Failure CollectSymbols(const ModuleSyntax& syntax, ModuleSymbols* symbols) {
  std::uint32_t global_count = 0;
  for (const VariableSyntax& variable : syntax.variables) {
    ModuleSymbol& symbol = (*symbols)[variable.name];
    const bool is_defined = symbol.variable != nullptr && !symbol.variable->is_extern;
    if (symbol.function != nullptr || (is_defined && !variable.is_extern)) {
      return ParseError{variable.line, fmt::format("'{}' is defined twice", variable.name)};
    }
    if (!is_defined) symbol.variable = &variable;
  }
  for (const VariableSyntax& variable : syntax.variables) {
    ModuleSymbol& symbol = symbols->at(variable.name);
    if (variable.space != Space::kShared && symbol.variable == &variable) symbol.global = global_count++;
  }
  for (const FunctionSyntax& function : syntax.functions) {
    ModuleSymbol& symbol = (*symbols)[function.name];
    const bool is_defined = symbol.function != nullptr && symbol.function->has_body;
    if (symbol.variable != nullptr || (is_defined && function.has_body)) {
      return ParseError{function.line, fmt::format("'{}' is defined twice", function.name)};
    }
    if (!is_defined) symbol.function = &function;
  }
  return std::nullopt;
}

Failure MakeGlobal(const VariableSyntax& variable, const ModuleSymbols& symbols, GlobalVariable* global) {
  if (variable.is_extern)
    return ParseError{variable.line, fmt::format("variable '{}' is defined nowhere", variable.name)};
  if (!variable.has_bound && variable.initial.empty())
    return ParseError{variable.line, fmt::format("variable '{}' has no size", variable.name)};
  *global = GlobalVariable{std::string(variable.name),     variable.bytes, variable.alignment, variable.initial, {},
                           variable.space == Space::kConst};
  for (const SymbolInitial& initial : variable.symbols) {
    const auto found = symbols.find(initial.name);
    if (found == symbols.end() || found->second.variable == nullptr ||
        found->second.variable->space == Space::kShared) {
      return ParseError{initial.line,
                        fmt::format("'{}' is not a variable whose address is known", initial.name.substr(0, 80))};
    }
    global->relocations.push_back({initial.offset, found->second.global, initial.addend});
  }
  return std::nullopt;
}

Failure LayOutParameters(const FunctionSyntax& function, Kernel* kernel) {
  std::uint64_t end = 0;
  for (const VariableSyntax& variable : function.parameters) {
    const std::uint64_t offset = (end + variable.alignment - 1) / variable.alignment * variable.alignment;
    end = variable.bytes > kMaxParameterBytes ? kMaxParameterBytes + 1 : offset + variable.bytes;
    if (end > kMaxParameterBytes) {
      return ParseError{variable.line, fmt::format("the parameters of '{}' have more than {} bytes", function.name,
                                                   kMaxParameterBytes)};
    }
    for (const Parameter& other : kernel->parameters) {
      if (other.name == variable.name)
        return ParseError{variable.line, fmt::format("parameter '{}' is declared twice", variable.name)};
    }
    kernel->parameters.push_back({std::string(variable.name), static_cast<std::uint32_t>(variable.bytes),
                                  variable.alignment, static_cast<std::uint32_t>(offset)});
  }
  kernel->parameter_bytes = static_cast<std::uint32_t>(end);
  return std::nullopt;
}

Failure MakeKernel(const FunctionSyntax& function, const ModuleSymbols& symbols, std::size_t* budget, Kernel* kernel) {
  kernel->name = function.name;
  kernel->max_ntid = function.max_ntid;
  kernel->required_ntid = function.required_ntid;
  if (Failure failure = LayOutParameters(function, kernel)) return failure;
  std::variant<Program, ParseError> lowered = LowerKernel(function, *kernel, symbols, budget);
  if (auto* error = std::get_if<ParseError>(&lowered)) return std::move(*error);
  auto program = std::make_shared<Program>(std::move(std::get<Program>(lowered)));
  kernel->static_shared_bytes = program->static_shared_bytes;
  kernel->local_bytes = program->local_bytes;
  kernel->register_estimate = std::clamp(program->frame_bytes / 4, 1u, 255u);
  kernel->program = std::move(program);
  return std::nullopt;
}

}  // namespace

Module::Module(std::vector<GlobalVariable> globals, std::vector<Kernel> kernels)
    : globals_(std::move(globals)), kernels_(std::move(kernels)) {}

const Kernel* Module::FindKernel(std::string_view name) const {
  const auto found = std::ranges::find(kernels_, name, &Kernel::name);
  return found == kernels_.end() ? nullptr : &*found;
}

std::variant<std::unique_ptr<Module>, ParseError> Module::Parse(std::string_view ptx_text) {
  const std::variant<ModuleSyntax, ParseError> parsed = ParseSyntax(ptx_text);
  if (const auto* error = std::get_if<ParseError>(&parsed)) return *error;
  const auto& syntax = std::get<ModuleSyntax>(parsed);
  ModuleSymbols symbols;
  if (Failure failure = CollectSymbols(syntax, &symbols)) return std::move(*failure);
  std::vector<GlobalVariable> globals;
  for (const VariableSyntax& variable : syntax.variables) {
    if (variable.space == Space::kShared || symbols.at(variable.name).variable != &variable) continue;
    if (Failure failure = MakeGlobal(variable, symbols, &globals.emplace_back())) return std::move(*failure);
  }
  std::vector<Kernel> kernels;
  std::size_t budget = kMaxInstructions;
  for (const FunctionSyntax& function : syntax.functions) {
    if (!function.is_entry || !function.has_body) continue;
    if (Failure failure = MakeKernel(function, symbols, &budget, &kernels.emplace_back())) return std::move(*failure);
  }
  return std::unique_ptr<Module>(new Module(std::move(globals), std::move(kernels)));
}

}  // namespace softgpu::ptx
