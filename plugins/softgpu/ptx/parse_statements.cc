// Bodies of functions: registers, labels, instructions, operands.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "plugins/softgpu/ptx/text_parser.h"

namespace softgpu::ptx {
namespace {

constexpr std::size_t kMaxOperands = 16;

}  // namespace

bool TextParser::AddStatement(FunctionSyntax* function, StatementSyntax statement) {
  if (++statement_count_ > kMaxStatements) return Fail(fmt::format("more than {} statements", kMaxStatements));
  function->statements.push_back(std::move(statement));
  return true;
}

bool TextParser::ParseBody(FunctionSyntax* function) {
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

bool TextParser::ParseBodyItem(FunctionSyntax* function) {
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

bool TextParser::ParseRegisters(FunctionSyntax* function) {
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

bool TextParser::ParseLabelled(FunctionSyntax* function, const Token& label) {
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

bool TextParser::ParseInstruction(FunctionSyntax* function) {
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

bool TextParser::CountOperand() {
  if (++operand_count_ <= kMaxModuleOperands) return true;
  return Fail(fmt::format("more than {} operands", kMaxModuleOperands));
}

bool TextParser::ParseOffset(std::int64_t* offset) {
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

bool TextParser::ParseAddress(OperandSyntax* operand) {
  operand->kind = OperandSyntax::Kind::kAddress;
  if (lexer_.current().kind == TokenKind::kWord) {
    if (!TakeName(&operand->name) || !ParseOffset(&operand->offset)) return false;
  } else if (!TakeSigned(&operand->offset)) {
    return false;
  }
  return Expect(']');
}

bool TextParser::ParseElements(OperandSyntax* operand, char close, std::size_t depth) {
  if (depth > 1) return Fail("operands are nested too deeply");
  if (TakeIf(close)) return true;
  do {
    if (operand->elements.size() >= kMaxListElements) return Fail("too many operands");
    if (!ParseOperand(&operand->elements.emplace_back(), depth + 1)) return false;
  } while (TakeIf(','));
  return Expect(close);
}

bool TextParser::ParseOperand(OperandSyntax* operand, std::size_t depth) {
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

}  // namespace softgpu::ptx
