#include "plugins/softgpu/ptx/lowering.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "plugins/softgpu/ptx/lexer.h"
#include "plugins/softgpu/ptx/lowerer.h"
#include "plugins/softgpu/ptx/memory_operations.h"

namespace softgpu::ptx {
namespace {

std::vector<std::string_view> SplitOpcode(std::string_view opcode) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t dot = opcode.find('.');
    parts.push_back(opcode.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    opcode.remove_prefix(dot + 1);
  }
}

std::uint64_t AlignUp(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

}  // namespace

bool Lowerer::Fail(std::string message) {
  if (!error_.message.empty()) return false;
  error_.line = statement_ != nullptr ? statement_->line : 0;
  error_.message = std::move(message);
  return false;
}

bool Lowerer::Spend(std::size_t amount) {
  if (*budget_ < amount)
    return Fail(fmt::format("the module has more than {} instructions with its calls inlined", kMaxInstructions));
  *budget_ -= amount;
  return true;
}

bool Lowerer::LowerEntry(const FunctionSyntax& function) {
  Frame frame{.function = &function, .depth = 1};
  Scope& scope = frame.scopes.emplace_back();
  for (const Parameter& parameter : kernel_.parameters) {
    const Symbol symbol{
        .kind = Symbol::Kind::kVariable, .space = Space::kParam, .offset = parameter.offset, .bytes = parameter.bytes};
    scope.symbols.emplace(parameter.name, symbol);
  }
  if (!LowerFunction(&frame)) return false;
  Instruction end;
  end.kind = Instruction::Kind::kExit;
  end.line = function.line;
  program_.instructions.push_back(end);
  return true;
}

// What an instruction writes is among its first four rows; that others are there too is harmless.
void Lowerer::MarkWritersOfAddresses() {
  constexpr std::size_t kMaxWritten = kAddressRow;
  std::unordered_set<std::uint32_t> rows;
  for (const Instruction& instruction : program_.instructions) {
    if (instruction.space != Space::kNone) rows.insert(instruction.rows[kAddressRow]);
  }
  rows.erase(kNoRow);
  for (Instruction& instruction : program_.instructions) {
    for (std::size_t i = 0; i < kMaxWritten; ++i) {
      if (rows.contains(instruction.rows[i])) instruction.writes_address = true;
    }
  }
}

void Lowerer::MarkUniformRows() {
  std::unordered_set<std::uint32_t> rows;
  for (const FixedRow& fixed : program_.fixed_rows) {
    if (IsUniform(fixed)) rows.insert(fixed.row);
  }
  for (Instruction& instruction : program_.instructions) {
    for (std::size_t i = 0; i < kMaxRows; ++i) {
      if (rows.contains(instruction.rows[i])) instruction.uniform_rows |= static_cast<std::uint8_t>(1u << i);
    }
  }
}

Program Lowerer::TakeProgram() {
  program_.fixed_rows = rows_.TakeFixedRows();
  MarkWritersOfAddresses();
  MarkUniformRows();
  program_.frame_bytes = rows_.frame_bytes();
  return std::move(program_);
}

bool Lowerer::LowerFunction(Frame* frame) {
  Frame* const caller = std::exchange(frame_, frame);
  frame->label_scopes.emplace_back();
  frame->label_targets.push_back(0);
  frame->scopes.emplace_back();
  if (!CollectLabels(frame)) return false;
  for (const StatementSyntax& statement : frame->function->statements) {
    if (!LowerStatement(statement)) return false;
    if (rows_.overflowed())
      return Fail(fmt::format("the registers of one thread need more than {} bytes", kMaxFrameBytes));
  }
  frame->label_targets[0] = static_cast<std::uint32_t>(program_.instructions.size());
  if (!ApplyFixups(frame)) return false;
  frame_ = caller;
  return true;
}

bool Lowerer::CollectLabels(Frame* frame) {
  std::size_t scope = 0;
  for (const StatementSyntax& statement : frame->function->statements) {
    statement_ = &statement;
    LabelScope& current = frame->label_scopes[scope];
    bool is_new = true;
    switch (statement.kind) {
      case StatementSyntax::Kind::kOpenScope:
        frame->label_scopes.push_back({.parent = scope});
        scope = frame->label_scopes.size() - 1;
        break;
      case StatementSyntax::Kind::kCloseScope:
        scope = current.parent;
        break;
      case StatementSyntax::Kind::kLabel:
        is_new = current.labels.emplace(statement.name, frame->label_targets.size()).second;
        frame->label_targets.push_back(~std::uint32_t{0});
        break;
      case StatementSyntax::Kind::kBranchTargets:
        is_new = current.tables.emplace(statement.name, &statement).second;
        break;
      default:
        break;
    }
    if (!is_new) return Fail(fmt::format("label '{}' is defined twice", statement.name));
  }
  return true;
}

bool Lowerer::ApplyFixups(Frame* frame) {
  for (const Fixup& fixup : frame->fixups) {
    const std::uint32_t target = frame->label_targets[fixup.label];
    if (fixup.in_table) {
      program_.branch_tables[fixup.place][fixup.element] = target;
    } else {
      program_.instructions[fixup.place].target = target;
    }
  }
  return true;
}

bool Lowerer::LowerStatement(const StatementSyntax& statement) {
  statement_ = &statement;
  if (!Spend(1 + statement.operands.size())) return false;
  Frame& frame = *frame_;
  switch (statement.kind) {
    case StatementSyntax::Kind::kOpenScope:
      frame.scopes.emplace_back().label_scope = frame.next_label_scope++;
      return true;
    case StatementSyntax::Kind::kCloseScope:
      frame.scopes.pop_back();
      return true;
    case StatementSyntax::Kind::kLabel: {
      std::size_t label = 0;
      if (!LookupLabel(statement.name, &label)) return false;
      frame.label_targets[label] = static_cast<std::uint32_t>(program_.instructions.size());
      return true;
    }
    case StatementSyntax::Kind::kBranchTargets:
      return true;
    case StatementSyntax::Kind::kRegister:
      return DeclareRegisters(frame.function->registers[statement.declaration]);
    case StatementSyntax::Kind::kVariable:
      return DeclareVariable(frame.function->variables[statement.declaration]);
    case StatementSyntax::Kind::kInstruction:
      return LowerInstruction(statement);
  }
  return true;
}

bool Lowerer::LowerInstruction(const StatementSyntax& statement) {
  rows_.ReleaseTemporaries();
  parts_ = SplitOpcode(statement.name);
  guard_ = kNoRow;
  if (!statement.guard.empty()) {
    Symbol symbol;
    if (!Lookup(statement.guard, &symbol)) return false;
    if (symbol.kind != Symbol::Kind::kRegister || symbol.type != ScalarType::kPred) {
      return Fail(fmt::format("the guard '{}' is not a predicate", statement.guard));
    }
    guard_ = symbol.row;
  }
  const auto method = Methods().find(parts_[0]);
  return method == Methods().end() ? LowerGeneric() : (this->*method->second)();
}

// --- Names.

bool Lowerer::Declare(std::string_view name, const Symbol& symbol) {
  if (frame_->scopes.back().symbols.emplace(name, symbol).second) return true;
  return Fail(fmt::format("'{}' is declared twice", name));
}

bool Lowerer::DeclareRegisters(const RegisterSyntax& declared) {
  if (declared.count == 0) {
    const std::uint32_t row = rows_.Allocate(BytesOf(declared.type));
    return Declare(declared.name, {.kind = Symbol::Kind::kRegister, .type = declared.type, .row = row});
  }
  // Its rows come into being as they are used: "%r<100000>" costs nothing.
  const RegisterRange range{declared.type, declared.count};
  if (frame_->scopes.back().ranges.emplace(declared.name, range).second) return true;
  return Fail(fmt::format("'{}' is declared twice", declared.name));
}

bool Lowerer::DeclareVariable(const VariableSyntax& variable) {
  Symbol symbol;
  const bool allocated =
      variable.space == Space::kShared ? AllocateShared(variable, &symbol) : AllocateLocal(variable, &symbol);
  return allocated && Declare(variable.name, symbol);
}

bool Lowerer::AllocateLocal(const VariableSyntax& variable, Symbol* symbol) {
  const std::uint64_t offset = AlignUp(program_.local_bytes, variable.alignment);
  if (variable.bytes > kMaxLocalBytes || offset + variable.bytes > kMaxLocalBytes) {
    return Fail(fmt::format("one thread needs more than {} bytes of local memory", kMaxLocalBytes));
  }
  program_.local_bytes = static_cast<std::uint32_t>(offset + variable.bytes);
  *symbol = Symbol{.kind = Symbol::Kind::kVariable, .space = Space::kLocal, .offset = offset, .bytes = variable.bytes};
  return true;
}

// One place per kernel, however often its function is inlined.
bool Lowerer::AllocateShared(const VariableSyntax& variable, Symbol* symbol) {
  if (!variable.has_bound || (variable.is_extern && variable.bytes == 0)) {
    program_.uses_dynamic_shared = true;
    *symbol = Symbol{.kind = Symbol::Kind::kDynamicShared, .space = Space::kShared};
    return true;
  }
  const auto [found, is_new] = shared_offsets_.try_emplace(&variable, 0);
  if (is_new) {
    found->second = AlignUp(program_.static_shared_bytes, variable.alignment);
    if (variable.bytes > kMaxSharedBytes || found->second + variable.bytes > kMaxSharedBytes) {
      return Fail(fmt::format("one block needs more than {} bytes of shared memory", kMaxSharedBytes));
    }
    program_.static_shared_bytes = static_cast<std::uint32_t>(found->second + variable.bytes);
  }
  *symbol = Symbol{
      .kind = Symbol::Kind::kVariable, .space = Space::kShared, .offset = found->second, .bytes = variable.bytes};
  return true;
}

bool Lowerer::LookupInScope(Scope* scope, std::string_view name, Symbol* symbol) {
  const auto found = scope->symbols.find(name);
  if (found != scope->symbols.end()) {
    *symbol = found->second;
    return true;
  }
  if (scope->ranges.empty()) return false;
  const std::size_t digits = name.find_last_not_of("0123456789") + 1;
  const auto range = scope->ranges.find(name.substr(0, digits));
  if (range == scope->ranges.end() || digits == name.size() || name.size() - digits > 9) return false;
  const std::string_view number = name.substr(digits);
  if (number.size() > 1 && number[0] == '0') return false;
  std::uint32_t index = 0;
  for (const char digit : number) index = index * 10 + static_cast<std::uint32_t>(digit - '0');
  if (index >= range->second.count) return false;
  *symbol = Symbol{
      .kind = Symbol::Kind::kRegister, .type = range->second.type, .row = rows_.Allocate(BytesOf(range->second.type))};
  scope->symbols.emplace(name, *symbol);
  return true;
}

bool Lowerer::Lookup(std::string_view name, Symbol* symbol) {
  for (auto scope = frame_->scopes.rbegin(); scope != frame_->scopes.rend(); ++scope) {
    if (LookupInScope(&*scope, name, symbol)) return true;
  }
  const auto found = symbols_.find(name);
  if (found == symbols_.end()) return Fail(fmt::format("'{}' is not declared", name.substr(0, 80)));
  const VariableSyntax* variable = found->second.variable;
  if (variable == nullptr)
    return Fail(fmt::format("addresses of functions, here of '{}', are not supported", name.substr(0, 80)));
  if (variable->space == Space::kShared) return AllocateShared(*variable, symbol);
  *symbol = Symbol{.kind = Symbol::Kind::kGlobal,
                   .space = variable->space,
                   .global = found->second.global,
                   .bytes = variable->bytes};
  return true;
}

bool Lowerer::LookupLabel(std::string_view name, std::size_t* label) {
  for (std::size_t scope = frame_->scopes.back().label_scope;; scope = frame_->label_scopes[scope].parent) {
    const auto found = frame_->label_scopes[scope].labels.find(name);
    if (found != frame_->label_scopes[scope].labels.end()) {
      *label = found->second;
      return true;
    }
    if (scope == 0) return Fail(fmt::format("there is no label '{}'", name.substr(0, 80)));
  }
}

// --- Control flow.

bool Lowerer::LowerBranch() {
  if (!ExpectOperands(1, 1)) return false;
  std::size_t label = 0;
  if (operand(0).kind != OperandSyntax::Kind::kName) return Fail("a branch needs a label");
  if (!LookupLabel(operand(0).name, &label)) return false;
  Instruction& branch = Emit(nullptr, {});
  branch.kind = Instruction::Kind::kBranch;
  frame_->fixups.push_back({.place = program_.instructions.size() - 1, .label = label});
  return true;
}

bool Lowerer::LowerIndexedBranch() {
  if (!ExpectOperands(2, 2)) return false;
  const StatementSyntax* table = nullptr;
  for (std::size_t scope = frame_->scopes.back().label_scope; table == nullptr;
       scope = frame_->label_scopes[scope].parent) {
    const auto found = frame_->label_scopes[scope].tables.find(operand(1).name);
    if (found != frame_->label_scopes[scope].tables.end()) table = found->second;
    if (scope == 0) break;
  }
  if (table == nullptr) return Fail(fmt::format("there is no list of branch targets '{}'", operand(1).name));
  const std::vector<OperandSyntax>& targets = table->operands[0].elements;
  std::uint32_t index = kNoRow;
  if (!Spend(targets.size()) || !SourceOf(0, ScalarType::kU32, &index)) return false;
  Instruction& branch = Emit(nullptr, {index});
  branch.kind = Instruction::Kind::kBranchIndexed;
  branch.target = static_cast<std::uint32_t>(program_.branch_tables.size());
  program_.branch_tables.emplace_back(targets.size());
  for (std::size_t i = 0; i < targets.size(); ++i) {
    std::size_t label = 0;
    if (!LookupLabel(targets[i].name, &label)) return false;
    frame_->fixups.push_back(
        {.place = program_.branch_tables.size() - 1, .element = i, .label = label, .in_table = true});
  }
  return true;
}

bool Lowerer::LowerReturn() {
  if (frame_->function->is_entry) return LowerExit();
  Emit(nullptr, {}).kind = Instruction::Kind::kBranch;
  frame_->fixups.push_back({.place = program_.instructions.size() - 1, .label = 0});
  return true;
}

bool Lowerer::LowerExit() {
  if (!ExpectOperands(0, 0)) return false;
  Emit(nullptr, {}).kind = Instruction::Kind::kExit;
  return true;
}

bool Lowerer::LowerTrap() {
  Emit(nullptr, {}).kind = Instruction::Kind::kTrap;
  return true;
}

bool Lowerer::LowerNothing() { return true; }

// --- Calls.

bool Lowerer::LowerCall() {
  std::size_t callee = 0;
  if (!ExpectOperands(1, 4)) return false;
  if (!operand(0).elements.empty() || operand(0).kind == OperandSyntax::Kind::kList) callee = 1;
  if (!ExpectOperands(callee + 1, callee + 2) || operand(callee).kind != OperandSyntax::Kind::kName) {
    return Fail("only direct calls are supported: call (result), function, (arguments)");
  }
  static const std::vector<OperandSyntax> kNone;
  const std::vector<OperandSyntax>& results = callee == 1 ? operand(0).elements : kNone;
  const bool has_arguments = statement_->operands.size() > callee + 1;
  if (has_arguments && operand(callee + 1).kind != OperandSyntax::Kind::kList)
    return Fail("indirect calls are not supported");
  const std::vector<OperandSyntax>& arguments = has_arguments ? operand(callee + 1).elements : kNone;
  const std::string_view name = operand(callee).name;
  const auto found = symbols_.find(name);
  if (found == symbols_.end() || found->second.function == nullptr) {
    return Fail(fmt::format("'{}' is not a function; indirect calls are not supported", name.substr(0, 80)));
  }
  const FunctionSyntax& function = *found->second.function;
  if (!function.has_body) return LowerExternalCall(name);
  if (function.is_entry) return Fail("an entry cannot be called");
  if (frame_->depth >= kMaxNesting)
    return Fail(fmt::format("calls are nested more than {} deep; recursion is not supported", kMaxNesting));
  if (results.size() != function.results.size() || arguments.size() != function.parameters.size()) {
    return Fail(fmt::format("the call does not fit the {} results and {} parameters of '{}'", function.results.size(),
                            function.parameters.size(), name));
  }
  if (!Spend(1 + results.size() + arguments.size())) return false;

  const StatementSyntax* const call = statement_;
  Frame* const caller = frame_;
  std::size_t skip = 0;  // The branch around a call whose guard does not hold.
  const bool guarded = guard_ != kNoRow;
  if (guarded) {
    Instruction& branch = Emit(nullptr, {});
    branch.kind = Instruction::Kind::kBranch;
    branch.guard_negated = !branch.guard_negated;
    skip = program_.instructions.size() - 1;
    guard_ = kNoRow;
  }
  Frame frame{.function = &function, .depth = caller->depth + 1};
  Scope bound;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (!BindArgument(function.parameters[i], arguments[i], false, &bound)) return false;
  }
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (!BindArgument(function.results[i], results[i], true, &bound)) return false;
  }
  frame.scopes.push_back(std::move(bound));
  if (!LowerFunction(&frame)) return false;
  statement_ = call;
  guard_ = kNoRow;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const Symbol inner = frame.scopes.front().symbols.at(function.results[i].name);
    if (!CopyResult(function.results[i], results[i], inner)) return false;
  }
  if (guarded) program_.instructions[skip].target = static_cast<std::uint32_t>(program_.instructions.size());
  return true;
}

// What device code calls without bringing it along.
bool Lowerer::LowerExternalCall(std::string_view name) {
  if (name == "vprintf") return true;  // Nothing is printed; the result reads as 0.
  if (name == "__assertfail") return LowerTrap();
  return Fail(fmt::format("function '{}' has no body", name.substr(0, 80)));
}

// A .param of the callee that is given a .param of the caller is that variable.
bool Lowerer::BindArgument(const VariableSyntax& formal, const OperandSyntax& actual, bool is_result, Scope* scope) {
  Symbol symbol;
  Symbol given;
  const bool is_name = actual.kind == OperandSyntax::Kind::kName && !actual.name.starts_with('%') && actual.name != "_";
  if (!formal.is_register && is_name) {
    if (!Lookup(actual.name, &given)) return false;
    if (given.kind == Symbol::Kind::kVariable && given.space == Space::kLocal) {
      if (given.bytes < formal.bytes)
        return Fail(fmt::format("argument '{}' is smaller than the parameter", actual.name));
      symbol = given;
    }
  }
  if (symbol.kind == Symbol::Kind::kNone) {
    if (formal.is_register) {
      symbol =
          Symbol{.kind = Symbol::Kind::kRegister, .type = formal.type, .row = rows_.Allocate(BytesOf(formal.type))};
    } else if (!AllocateLocal(formal, &symbol)) {
      return false;
    }
    if (!is_result) {
      const std::uint32_t bytes = BytesOf(formal.type);
      std::uint32_t row = kNoRow;
      if (!Source(actual, bytes, IsFloat(formal.type), formal.type != ScalarType::kPred, &row)) return false;
      if (formal.is_register) {
        if (!EmitNamed(fmt::format("move.{}", bytes), {symbol.row, row})) return false;
      } else {
        const Address address{Space::kLocal, kNoRow, static_cast<std::int64_t>(symbol.offset)};
        if (!EmitAccess(StoreHandler(bytes, 1), address, {row, kNoRow, kNoRow, kNoRow})) return false;
      }
    }
  }
  if (scope->symbols.emplace(formal.name, symbol).second) return true;
  return Fail(fmt::format("parameter '{}' is declared twice", formal.name));
}

bool Lowerer::CopyResult(const VariableSyntax& formal, const OperandSyntax& actual, const Symbol& inner) {
  if (actual.kind != OperandSyntax::Kind::kName) return Fail("a result needs a name");
  if (actual.name == "_") return true;
  Symbol outer;
  if (!Lookup(actual.name, &outer)) return false;
  const std::uint32_t bytes = BytesOf(formal.type);
  if (outer.kind == Symbol::Kind::kVariable) {
    if (outer.space == Space::kLocal && inner.kind == Symbol::Kind::kRegister && outer.bytes >= bytes) {
      const Address address{Space::kLocal, kNoRow, static_cast<std::int64_t>(outer.offset)};
      return EmitAccess(StoreHandler(bytes, 1), address, {inner.row, kNoRow, kNoRow, kNoRow});
    }
    if (outer.space == Space::kLocal && inner.kind == Symbol::Kind::kVariable && inner.offset == outer.offset)
      return true;
  }
  if (outer.kind != Symbol::Kind::kRegister || BytesOf(outer.type) != bytes)
    return Fail(fmt::format("the result does not fit '{}'", actual.name));
  if (inner.kind == Symbol::Kind::kRegister) return EmitNamed(fmt::format("move.{}", bytes), {outer.row, inner.row});
  const Address address{Space::kLocal, kNoRow, static_cast<std::int64_t>(inner.offset)};
  return EmitAccess(LoadHandler(bytes, 1), address, {outer.row, kNoRow, kNoRow, kNoRow});
}

std::variant<Program, ParseError> LowerKernel(const FunctionSyntax& function, const Kernel& kernel,
                                              const ModuleSymbols& symbols, std::size_t* budget) {
  Lowerer lowerer(kernel, symbols, budget);
  if (!lowerer.LowerEntry(function)) {
    if (lowerer.error().line == 0) lowerer.error().line = function.line;
    return std::move(lowerer.error());
  }
  return lowerer.TakeProgram();
}

}  // namespace softgpu::ptx
