// What the parser makes of PTX text, before any name in it means something.
//
// Ownership: the names are views of the text, which must outlive them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "plugins/softgpu/ptx/types.h"

namespace softgpu::ptx {

struct OperandSyntax {
  enum class Kind {
    kName,     // name + offset
    kInteger,  // bits
    kFloat32,
    kFloat64,
    kAddress,  // [name + offset], or [offset] if name is empty
    kVector,   // {elements}
    kPair,     // a|b
    kList,     // (elements), of a call
  };
  Kind kind = Kind::kName;
  bool negated = false;  // !name
  std::string_view name = {};
  std::uint64_t bits = 0;
  std::int64_t offset = 0;
  std::vector<OperandSyntax> elements = {};
};

// A name with a number: .reg .b32 %r<count>, or without: count 0.
struct RegisterSyntax {
  ScalarType type = ScalarType::kNone;
  std::string_view name = {};
  std::uint32_t count = 0;
};

struct SymbolInitial {
  std::uint64_t offset = 0;
  std::string_view name = {};
  std::int64_t addend = 0;
  int line = 0;
};

struct VariableSyntax {
  Space space = Space::kNone;
  ScalarType type = ScalarType::kNone;
  std::string_view name = {};
  std::uint64_t bytes = 0;
  std::uint32_t alignment = 1;
  bool is_register = false;  // A parameter of a .func declared as .reg.
  bool is_extern = false;
  bool has_bound = true;  // False: name[]
  int line = 0;
  std::vector<std::byte> initial;
  std::vector<SymbolInitial> symbols;
};

struct StatementSyntax {
  enum class Kind { kInstruction, kLabel, kOpenScope, kCloseScope, kRegister, kVariable, kBranchTargets };
  Kind kind = Kind::kInstruction;
  bool guard_negated = false;
  int line = 0;
  std::uint32_t declaration = 0;  // kRegister, kVariable: index into the function's lists.
  std::string_view name = {};     // Opcode or label.
  std::string_view guard = {};    // Empty: none.
  std::vector<OperandSyntax> operands = {};
};

struct FunctionSyntax {
  std::string_view name = {};
  bool is_entry = false;
  bool has_body = false;
  int line = 0;
  std::vector<VariableSyntax> results;
  std::vector<VariableSyntax> parameters;
  std::vector<RegisterSyntax> registers;
  std::vector<VariableSyntax> variables;
  std::vector<StatementSyntax> statements;
  std::optional<std::array<std::uint32_t, 3>> max_ntid;
  std::optional<std::array<std::uint32_t, 3>> required_ntid;
};

struct ModuleSyntax {
  std::vector<VariableSyntax> variables;
  std::vector<FunctionSyntax> functions;
};

}  // namespace softgpu::ptx
