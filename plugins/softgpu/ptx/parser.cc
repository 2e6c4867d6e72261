#include "plugins/softgpu/ptx/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "plugins/softgpu/ptx/lexer.h"

namespace softgpu::ptx {
namespace {

constexpr std::size_t kMaxOperands = 16;
constexpr std::size_t kMaxListElements = 1024;  // Arguments of a call, targets of a brx.idx.
constexpr std::size_t kQuotedBytes = 80;        // Of the text, in an error.

// A recursive-descent parser. A function that returns false has set error_, the first of which stays.
class Parser {
 public:
  explicit Parser(std::string_view text) : lexer_(text) {}

  bool Parse();
  ModuleSyntax& module() { return module_; }
  ParseError& error() { return error_; }

 private:
  struct Linkage {
    bool is_extern = false;
  };

  bool Fail(std::string message) { return FailAt(lexer_.current().line, std::move(message)); }
  bool FailAt(int line, std::string message);
  bool FailUnexpected(std::string_view wanted);
  bool Expect(char punctuation);
  bool TakeIf(char punctuation);
  bool TakeName(std::string_view* name);
  bool TakeInteger(std::uint64_t limit, std::uint64_t* value);
  bool TakeSigned(std::int64_t* value);
  bool TakeNumber(Number* number);

  bool ParseVersion();
  bool ParseTarget();
  bool ParseAddressSize();
  bool ParseModuleItem();
  bool SkipSection();
  bool SkipPragma();
  bool ParseFunction(bool is_entry, const Linkage& linkage);
  bool ParseFunctionDirectives(FunctionSyntax* function);
  bool ParseParameters(std::vector<VariableSyntax>* parameters);
  bool ParseParameter(VariableSyntax* parameter);
  bool ParseTriple(std::array<std::uint32_t, 3>* triple);
  bool ParseBody(FunctionSyntax* function);
  bool ParseBodyItem(FunctionSyntax* function);
  bool ParseRegisters(FunctionSyntax* function);
  bool ParseVariables(Space space, const Linkage& linkage, std::vector<VariableSyntax>* variables,
                      FunctionSyntax* function);
  bool ParseVariableType(VariableSyntax* variable, std::uint32_t* vector_length);
  bool ParseVariable(const VariableSyntax& type, std::uint32_t vector_length, VariableSyntax* variable);
  bool ParseBounds(std::uint64_t element_bytes, VariableSyntax* variable);
  bool ParseInitial(VariableSyntax* variable, std::size_t depth);
  bool ParseInitialValue(VariableSyntax* variable);
  bool AppendInitial(VariableSyntax* variable, std::uint64_t bits, std::size_t bytes);
  bool ParseLabelled(FunctionSyntax* function, const Token& label);
  bool ParseInstruction(FunctionSyntax* function);
  bool ParseOperand(OperandSyntax* operand, std::size_t depth);
  bool ParseAddress(OperandSyntax* operand);
  bool ParseElements(OperandSyntax* operand, char close, std::size_t depth);
  bool ParseOffset(std::int64_t* offset);
  bool AddStatement(FunctionSyntax* function, StatementSyntax statement);
  bool AddSymbol();
  bool CountOperand();

  Lexer lexer_;
  ModuleSyntax module_;
  ParseError error_;
  std::size_t statement_count_ = 0;
  std::size_t symbol_count_ = 0;
  std::size_t operand_count_ = 0;
  std::size_t initial_bytes_ = 0;
};

bool Parser::FailAt(int line, std::string message) {
  if (error_.message.empty()) error_ = ParseError{line, std::move(message)};
  return false;
}

bool Parser::FailUnexpected(std::string_view wanted) {
  const Token& token = lexer_.current();
  if (token.kind == TokenKind::kEnd) return Fail(fmt::format("the text ends where {} should be", wanted));
  return Fail(fmt::format("'{}' where {} should be", token.text.substr(0, kQuotedBytes), wanted));
}

bool Parser::Expect(char punctuation) {
  if (TakeIf(punctuation)) return true;
  return FailUnexpected(fmt::format("'{}'", punctuation));
}

bool Parser::TakeIf(char punctuation) {
  if (!lexer_.current().Is(punctuation)) return false;
  lexer_.Take();
  return true;
}

bool Parser::TakeName(std::string_view* name) {
  const Token& token = lexer_.current();
  if (token.kind != TokenKind::kWord || token.text[0] == '.') return FailUnexpected("a name");
  *name = lexer_.Take().text;
  return true;
}

bool Parser::TakeNumber(Number* number) {
  if (lexer_.current().kind != TokenKind::kNumber) return FailUnexpected("a number");
  *number = ParseNumber(lexer_.current().text);
  if (number->kind == Number::Kind::kInvalid) return FailUnexpected("a number that PTX knows");
  lexer_.Take();
  return true;
}

bool Parser::TakeInteger(std::uint64_t limit, std::uint64_t* value) {
  Number number;
  if (!TakeNumber(&number)) return false;
  if (number.kind != Number::Kind::kInteger) return Fail("an integer should stand here");
  if (number.bits > limit) return Fail(fmt::format("{} is beyond the limit of {}", number.bits, limit));
  *value = number.bits;
  return true;
}

bool Parser::TakeSigned(std::int64_t* value) {
  const bool negative = TakeIf('-');
  std::uint64_t magnitude = 0;
  if (!TakeInteger(~std::uint64_t{0}, &magnitude)) return false;
  *value = static_cast<std::int64_t>(negative ? 0 - magnitude : magnitude);
  return true;
}

bool Parser::Parse() {
  if (!ParseVersion() || !ParseTarget()) return false;
  while (lexer_.current().kind != TokenKind::kEnd) {
    if (!ParseModuleItem()) return false;
  }
  return true;
}

bool Parser::ParseVersion() {
  if (!lexer_.current().IsWord(".version")) return FailUnexpected(".version");
  lexer_.Take();
  const Token version = lexer_.Take();
  const std::size_t dot = version.text.find('.');
  const Number major = ParseNumber(version.text.substr(0, dot));
  if (version.kind != TokenKind::kNumber || dot == std::string_view::npos || major.kind != Number::Kind::kInteger) {
    return FailAt(version.line, "a version, as in '.version 8.0', should stand here");
  }
  if (major.bits < 6 || major.bits > 9) {
    return FailAt(version.line, fmt::format("PTX ISA version {} is not supported: only 6.0 to 9.x are",
                                            version.text.substr(0, kQuotedBytes)));
  }
  return true;
}

bool Parser::ParseTarget() {
  if (!lexer_.current().IsWord(".target")) return FailUnexpected(".target");
  lexer_.Take();
  bool has_architecture = false;
  do {
    std::string_view name;
    if (!TakeName(&name)) return false;
    if (!name.starts_with("sm_")) continue;
    std::string_view digits = name.substr(3);
    if (digits.ends_with('a') || digits.ends_with('f')) digits.remove_suffix(1);
    const Number architecture = ParseNumber(digits);
    if (architecture.kind != Number::Kind::kInteger || architecture.bits < 50 || architecture.bits > 199) {
      return Fail(fmt::format("target {} is not supported: only sm_50 and later are", name.substr(0, kQuotedBytes)));
    }
    has_architecture = true;
  } while (TakeIf(','));
  return has_architecture || Fail("the target names no sm_");
}

bool Parser::ParseAddressSize() {
  std::uint64_t bits = 0;
  if (!TakeInteger(64, &bits)) return false;
  return bits == 64 || Fail("only .address_size 64 is supported");
}

bool Parser::ParseModuleItem() {
  Linkage linkage;
  while (true) {
    if (lexer_.current().kind != TokenKind::kWord) return FailUnexpected("a directive");
    const Token token = lexer_.Take();
    if (token.text == ".visible" || token.text == ".weak" || token.text == ".common") continue;
    if (token.text == ".extern") {
      linkage.is_extern = true;
      continue;
    }
    if (token.text == ".address_size") return ParseAddressSize();
    if (token.text == ".entry" || token.text == ".func") return ParseFunction(token.text == ".entry", linkage);
    if (token.text == ".pragma") return SkipPragma();
    if (token.text == ".section") return SkipSection();
    if (token.text == ".file" || token.text == ".loc") {
      if (lexer_.current().line == token.line) lexer_.SkipLine();
      return true;
    }
    const Space space = SpaceNamed(token.text.substr(1));
    if (space == Space::kGlobal || space == Space::kConst || space == Space::kShared) {
      return ParseVariables(space, linkage, &module_.variables, nullptr);
    }
    return FailAt(token.line, fmt::format("unknown or unsupported directive '{}'", token.text.substr(0, kQuotedBytes)));
  }
}

bool Parser::SkipPragma() {
  while (lexer_.current().kind == TokenKind::kString) {
    lexer_.Take();
    if (!TakeIf(',')) break;
  }
  return Expect(';');
}

bool Parser::SkipSection() {
  std::string_view name;
  if (lexer_.current().kind != TokenKind::kWord) return FailUnexpected("the name of a section");
  name = lexer_.Take().text;
  if (!Expect('{')) return false;
  while (!lexer_.current().Is('}')) {
    if (lexer_.current().kind == TokenKind::kEnd) return FailUnexpected("the end of a section");
    lexer_.Take();
  }
  return Expect('}');
}

bool Parser::AddSymbol() {
  if (++symbol_count_ <= kMaxSymbols) return true;
  return Fail(fmt::format("more than {} symbols", kMaxSymbols));
}

bool Parser::ParseFunction(bool is_entry, const Linkage& linkage) {
  FunctionSyntax function;
  function.is_entry = is_entry;
  function.line = lexer_.current().line;
  if (lexer_.current().Is('(') && !ParseParameters(&function.results)) return false;
  if (is_entry && !function.results.empty()) return Fail("an entry has no results");
  if (!TakeName(&function.name) || !AddSymbol()) return false;
  if (lexer_.current().Is('(') && !ParseParameters(&function.parameters)) return false;
  if (!ParseFunctionDirectives(&function)) return false;
  if (!TakeIf(';')) {
    if (linkage.is_extern) return FailUnexpected("';' after an .extern function");
    if (!ParseBody(&function)) return false;
    function.has_body = true;
  }
  module_.functions.push_back(std::move(function));
  return true;
}

bool Parser::ParseFunctionDirectives(FunctionSyntax* function) {
  while (lexer_.current().kind == TokenKind::kWord) {
    const Token token = lexer_.Take();
    std::array<std::uint32_t, 3> triple = {1, 1, 1};
    if (token.text == ".maxntid" || token.text == ".reqntid") {
      if (!ParseTriple(&triple)) return false;
      (token.text == ".maxntid" ? function->max_ntid : function->required_ntid) = triple;
    } else if (token.text == ".minnctapersm" || token.text == ".maxnctapersm" || token.text == ".maxnreg") {
      if (!ParseTriple(&triple)) return false;
    } else if (token.text == ".pragma") {
      if (!SkipPragma()) return false;
    } else if (token.text != ".noreturn") {
      return FailAt(token.line,
                    fmt::format("unknown or unsupported directive '{}'", token.text.substr(0, kQuotedBytes)));
    }
  }
  return true;
}

bool Parser::ParseTriple(std::array<std::uint32_t, 3>* triple) {
  for (std::uint32_t& value : *triple) {
    std::uint64_t taken = 0;
    if (!TakeInteger(~std::uint32_t{0}, &taken)) return false;
    value = static_cast<std::uint32_t>(taken);
    if (!TakeIf(',')) break;
  }
  return true;
}

bool Parser::ParseParameters(std::vector<VariableSyntax>* parameters) {
  if (!Expect('(')) return false;
  if (TakeIf(')')) return true;
  do {
    if (parameters->size() >= kMaxListElements) return Fail("too many parameters");
    if (!ParseParameter(&parameters->emplace_back())) return false;
  } while (TakeIf(','));
  return Expect(')');
}

bool Parser::ParseParameter(VariableSyntax* parameter) {
  parameter->line = lexer_.current().line;
  const Token declared = lexer_.Take();
  parameter->is_register = declared.text == ".reg";
  if (!parameter->is_register && declared.text != ".param")
    return FailAt(declared.line, "a parameter should begin with .param or .reg");
  parameter->space = Space::kParam;
  VariableSyntax type = *parameter;
  std::uint32_t vector_length = 1;
  if (!ParseVariableType(&type, &vector_length)) return false;
  return ParseVariable(type, vector_length, parameter);
}

// [.align N] .type, and of a kernel parameter that is a pointer [.ptr [.space] [.align N]].
bool Parser::ParseVariableType(VariableSyntax* variable, std::uint32_t* vector_length) {
  std::uint64_t alignment = 0;
  bool of_pointer = false;
  while (lexer_.current().kind == TokenKind::kWord && lexer_.current().text[0] == '.') {
    const Token token = lexer_.Take();
    const std::string_view name = token.text.substr(1);
    if (name == "align") {
      std::uint64_t value = 0;
      if (!TakeInteger(1 << 16, &value)) return false;
      if (!std::has_single_bit(value)) return FailAt(token.line, "an alignment must be a power of two");
      if (!of_pointer) alignment = value;
    } else if (name == "ptr") {
      of_pointer = true;
    } else if (name == "v2" || name == "v4") {
      *vector_length = name == "v2" ? 2 : 4;
    } else if (TypeNamed(name) != ScalarType::kNone) {
      variable->type = TypeNamed(name);
    } else if (!of_pointer || SpaceNamed(name) == Space::kNone) {
      return FailAt(token.line, fmt::format("unknown or unsupported type '{}'", token.text.substr(0, kQuotedBytes)));
    }
  }
  if (variable->type == ScalarType::kNone) return FailUnexpected("a type");
  if (variable->type == ScalarType::kPred && !variable->is_register) return Fail("a variable cannot be a predicate");
  const std::uint32_t natural = BytesOf(variable->type) * *vector_length;
  variable->alignment = alignment == 0 ? natural : static_cast<std::uint32_t>(alignment);
  return true;
}

bool Parser::ParseVariable(const VariableSyntax& type, std::uint32_t vector_length, VariableSyntax* variable) {
  *variable = type;
  variable->line = lexer_.current().line;
  if (!TakeName(&variable->name) || !AddSymbol()) return false;
  variable->bytes = std::uint64_t{BytesOf(type.type)} * vector_length;
  if (!ParseBounds(variable->bytes, variable)) return false;
  if (!TakeIf('=')) return true;
  if (variable->space != Space::kGlobal && variable->space != Space::kConst)
    return Fail("only .global and .const variables can be initialised");
  return ParseInitial(variable, 0);
}

bool Parser::ParseBounds(std::uint64_t element_bytes, VariableSyntax* variable) {
  std::uint64_t count = 1;
  while (TakeIf('[')) {
    if (TakeIf(']')) {
      variable->has_bound = false;
      continue;
    }
    std::uint64_t bound = 0;
    if (!TakeInteger(kMaxVariableBytes, &bound) || !Expect(']')) return false;
    if (bound != 0 && count > kMaxVariableBytes / bound) return Fail("the variable is too large");
    count *= bound;
  }
  if (count > kMaxVariableBytes / element_bytes) return Fail("the variable is too large");
  variable->bytes = variable->has_bound ? count * element_bytes : 0;
  return true;
}

bool Parser::ParseInitial(VariableSyntax* variable, std::size_t depth) {
  if (!lexer_.current().Is('{')) return ParseInitialValue(variable);
  if (depth >= kMaxNesting) return Fail("initial values are nested too deeply");
  lexer_.Take();
  if (TakeIf('}')) return true;
  do {
    if (!ParseInitial(variable, depth + 1)) return false;
  } while (TakeIf(','));
  return Expect('}');
}

bool Parser::ParseInitialValue(VariableSyntax* variable) {
  const std::size_t bytes = BytesOf(variable->type);
  if (lexer_.current().kind == TokenKind::kWord) {
    std::string_view name;
    const int line = lexer_.current().line;
    if (!TakeName(&name)) return false;
    const bool generic = name == "generic" && TakeIf('(');
    if (generic && !TakeName(&name)) return false;
    SymbolInitial symbol{variable->initial.size(), name, 0, line};
    if (generic && !Expect(')')) return false;
    if (!ParseOffset(&symbol.addend)) return false;
    if (bytes != 8) return FailAt(line, "an address needs a variable of 64 bits");
    variable->symbols.push_back(symbol);
    return AppendInitial(variable, 0, bytes);
  }
  const bool negative = TakeIf('-');
  Number number;
  if (!TakeNumber(&number)) return false;
  if (number.kind == Number::Kind::kFloat64 && bytes == 4) {
    number.bits = std::bit_cast<std::uint32_t>(static_cast<float>(std::bit_cast<double>(number.bits)));
    number.kind = Number::Kind::kFloat32;
  }
  if (negative && number.kind == Number::Kind::kInteger) number.bits = 0 - number.bits;
  if (negative && number.kind == Number::Kind::kFloat32) number.bits ^= std::uint64_t{1} << 31;
  if (negative && number.kind == Number::Kind::kFloat64) number.bits ^= std::uint64_t{1} << 63;
  return AppendInitial(variable, number.bits, bytes);
}

bool Parser::AppendInitial(VariableSyntax* variable, std::uint64_t bits, std::size_t bytes) {
  initial_bytes_ += bytes;
  if (initial_bytes_ > kMaxInitialBytes)
    return Fail(fmt::format("more than {} bytes of initial values", kMaxInitialBytes));
  if (!variable->has_bound) {
    variable->bytes += bytes;
  } else if (variable->initial.size() + bytes > variable->bytes) {
    return Fail("more initial values than the variable holds");
  }
  for (std::size_t i = 0; i < bytes; ++i) variable->initial.push_back(static_cast<std::byte>(bits >> (8 * i)));
  return true;
}

bool Parser::AddStatement(FunctionSyntax* function, StatementSyntax statement) {
  if (++statement_count_ > kMaxStatements) return Fail(fmt::format("more than {} statements", kMaxStatements));
  function->statements.push_back(std::move(statement));
  return true;
}

bool Parser::ParseBody(FunctionSyntax* function) {
  if (!Expect('{')) return false;
  std::size_t depth = 1;
  while (depth > 0) {
    const int line = lexer_.current().line;
    if (TakeIf('{')) {
      if (++depth > kMaxNesting) return Fail("scopes are nested too deeply");
      if (!AddStatement(function, {.kind = StatementSyntax::Kind::kOpenScope, .line = line})) return false;
    } else if (TakeIf('}')) {
      --depth;
      if (!AddStatement(function, {.kind = StatementSyntax::Kind::kCloseScope, .line = line})) return false;
    } else if (!TakeIf(';') && !ParseBodyItem(function)) {
      return false;
    }
  }
  return true;
}

bool Parser::ParseBodyItem(FunctionSyntax* function) {
  const Token& token = lexer_.current();
  if (token.Is('@')) return ParseInstruction(function);
  if (token.kind != TokenKind::kWord) return FailUnexpected("an instruction");
  if (token.text[0] != '.') return ParseInstruction(function);
  const Token directive = lexer_.Take();
  if (directive.text == ".reg") return ParseRegisters(function);
  if (directive.text == ".pragma") return SkipPragma();
  if (directive.text == ".loc" || directive.text == ".file") {
    if (lexer_.current().line == directive.line) lexer_.SkipLine();
    return true;
  }
  const Space space = SpaceNamed(directive.text.substr(1));
  if (space == Space::kShared || space == Space::kLocal || space == Space::kParam) {
    return ParseVariables(space, Linkage{}, &function->variables, function);
  }
  if (space != Space::kNone)
    return FailAt(directive.line, "variables of this space must be declared outside functions");
  return FailAt(directive.line,
                fmt::format("unknown or unsupported directive '{}'", directive.text.substr(0, kQuotedBytes)));
}

bool Parser::ParseRegisters(FunctionSyntax* function) {
  const Token type = lexer_.Take();
  const ScalarType scalar = type.kind == TokenKind::kWord ? TypeNamed(type.text.substr(1)) : ScalarType::kNone;
  if (scalar == ScalarType::kNone || type.text[0] != '.') {
    return FailAt(type.line,
                  fmt::format("unknown or unsupported register type '{}'", type.text.substr(0, kQuotedBytes)));
  }
  do {
    RegisterSyntax declared{scalar, {}, 0};
    const int line = lexer_.current().line;
    if (!TakeName(&declared.name)) return false;
    if (TakeIf('<')) {
      std::uint64_t count = 0;
      if (!TakeInteger(1 << 20, &count) || !Expect('>')) return false;
      declared.count = static_cast<std::uint32_t>(count);
      if (count == 0) continue;
    }
    const auto index = static_cast<std::uint32_t>(function->registers.size());
    if (!AddStatement(function, {.kind = StatementSyntax::Kind::kRegister, .line = line, .declaration = index}))
      return false;
    function->registers.push_back(declared);
  } while (TakeIf(','));
  return Expect(';');
}

// With a function, its statements note where the variables come into scope.
bool Parser::ParseVariables(Space space, const Linkage& linkage, std::vector<VariableSyntax>* variables,
                            FunctionSyntax* function) {
  VariableSyntax type;
  type.space = space;
  type.is_extern = linkage.is_extern;
  std::uint32_t vector_length = 1;
  if (!ParseVariableType(&type, &vector_length)) return false;
  do {
    VariableSyntax variable;
    if (!ParseVariable(type, vector_length, &variable)) return false;
    if (function != nullptr) {
      const auto index = static_cast<std::uint32_t>(variables->size());
      if (!AddStatement(function,
                        {.kind = StatementSyntax::Kind::kVariable, .line = variable.line, .declaration = index}))
        return false;
    }
    variables->push_back(std::move(variable));
  } while (TakeIf(','));
  return Expect(';');
}

bool Parser::ParseLabelled(FunctionSyntax* function, const Token& label) {
  StatementSyntax statement{.kind = StatementSyntax::Kind::kLabel, .line = label.line, .name = label.text};
  if (lexer_.current().IsWord(".branchtargets")) {
    lexer_.Take();
    statement.kind = StatementSyntax::Kind::kBranchTargets;
    OperandSyntax targets{.kind = OperandSyntax::Kind::kList};
    do {
      if (targets.elements.size() >= kMaxListElements) return Fail("too many branch targets");
      if (!CountOperand()) return false;
      if (!TakeName(&targets.elements.emplace_back().name)) return false;
    } while (TakeIf(','));
    if (!Expect(';')) return false;
    statement.operands.push_back(std::move(targets));
  } else if (lexer_.current().IsWord(".callprototype") || lexer_.current().IsWord(".calltargets")) {
    return Fail("indirect calls are not supported");
  }
  return AddStatement(function, std::move(statement));
}

bool Parser::ParseInstruction(FunctionSyntax* function) {
  StatementSyntax statement;
  statement.line = lexer_.current().line;
  if (TakeIf('@')) {
    statement.guard_negated = TakeIf('!');
    if (!TakeName(&statement.guard)) return false;
  }
  if (lexer_.current().kind != TokenKind::kWord || lexer_.current().text[0] == '.') return FailUnexpected("an opcode");
  const Token opcode = lexer_.Take();
  if (lexer_.current().Is(':') && statement.guard.empty()) {
    lexer_.Take();
    return ParseLabelled(function, opcode);
  }
  statement.line = opcode.line;
  statement.name = opcode.text;
  if (!lexer_.current().Is(';')) {
    do {
      if (statement.operands.size() >= kMaxOperands) return Fail("too many operands");
      if (!ParseOperand(&statement.operands.emplace_back(), 0)) return false;
    } while (TakeIf(','));
  }
  if (!Expect(';')) return false;
  return AddStatement(function, std::move(statement));
}

bool Parser::CountOperand() {
  if (++operand_count_ <= kMaxModuleOperands) return true;
  return Fail(fmt::format("more than {} operands", kMaxModuleOperands));
}

bool Parser::ParseOffset(std::int64_t* offset) {
  *offset = 0;
  while (lexer_.current().Is('+') || lexer_.current().Is('-')) {
    const bool negative = lexer_.Take().text == "-";
    std::int64_t value = 0;
    if (!TakeSigned(&value)) return false;
    const auto sum = static_cast<std::uint64_t>(*offset);
    *offset = static_cast<std::int64_t>(negative ? sum - static_cast<std::uint64_t>(value)
                                                 : sum + static_cast<std::uint64_t>(value));
  }
  return true;
}

bool Parser::ParseAddress(OperandSyntax* operand) {
  operand->kind = OperandSyntax::Kind::kAddress;
  if (lexer_.current().kind == TokenKind::kWord) {
    if (!TakeName(&operand->name) || !ParseOffset(&operand->offset)) return false;
  } else if (!TakeSigned(&operand->offset)) {
    return false;
  }
  return Expect(']');
}

bool Parser::ParseElements(OperandSyntax* operand, char close, std::size_t depth) {
  if (depth > 1) return Fail("operands are nested too deeply");
  if (TakeIf(close)) return true;
  do {
    if (operand->elements.size() >= kMaxListElements) return Fail("too many operands");
    if (!ParseOperand(&operand->elements.emplace_back(), depth + 1)) return false;
  } while (TakeIf(','));
  return Expect(close);
}

bool Parser::ParseOperand(OperandSyntax* operand, std::size_t depth) {
  if (!CountOperand()) return false;
  if (TakeIf('[')) return ParseAddress(operand);
  if (TakeIf('{')) {
    operand->kind = OperandSyntax::Kind::kVector;
    return ParseElements(operand, '}', depth);
  }
  if (TakeIf('(')) {
    operand->kind = OperandSyntax::Kind::kList;
    return ParseElements(operand, ')', depth);
  }
  if (lexer_.current().Is('-') || lexer_.current().kind == TokenKind::kNumber) {
    const bool negative = TakeIf('-');
    Number number;
    if (!TakeNumber(&number)) return false;
    operand->bits = number.bits;
    operand->kind = OperandSyntax::Kind::kInteger;
    if (number.kind == Number::Kind::kFloat32) operand->kind = OperandSyntax::Kind::kFloat32;
    if (number.kind == Number::Kind::kFloat64) operand->kind = OperandSyntax::Kind::kFloat64;
    if (negative && number.kind == Number::Kind::kInteger) operand->bits = 0 - number.bits;
    if (negative && number.kind == Number::Kind::kFloat32) operand->bits ^= std::uint64_t{1} << 31;
    if (negative && number.kind == Number::Kind::kFloat64) operand->bits ^= std::uint64_t{1} << 63;
    return true;
  }
  operand->negated = TakeIf('!');
  if (!TakeName(&operand->name)) return false;
  if (lexer_.current().Is('+') || lexer_.current().Is('-')) return ParseOffset(&operand->offset);
  if (!lexer_.current().Is('|') || depth > 0) return true;
  lexer_.Take();
  OperandSyntax first = std::move(*operand);
  *operand = OperandSyntax{.kind = OperandSyntax::Kind::kPair};
  operand->elements.push_back(std::move(first));
  return ParseOperand(&operand->elements.emplace_back(), depth + 1);
}

}  // namespace

std::variant<ModuleSyntax, ParseError> ParseSyntax(std::string_view text) {
  if (text.size() > kMaxTextBytes) {
    return ParseError{0, fmt::format("the text has {} bytes, more than the limit of {}", text.size(), kMaxTextBytes)};
  }
  text = text.substr(0, text.find('\0'));
  Parser parser(text);
  if (!parser.Parse()) return std::move(parser.error());
  return std::move(parser.module());
}

}  // namespace softgpu::ptx
