// Variables and parameters, with their types and initial contents.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "plugins/softgpu/ptx/text_parser.h"

namespace softgpu::ptx {

bool TextParser::ParseParameters(std::vector<VariableSyntax>* parameters) {
  if (!Expect('(')) return false;
  if (TakeIf(')')) return true;
  do {
    if (parameters->size() >= kMaxListElements) return Fail("too many parameters");
    if (!ParseParameter(&parameters->emplace_back())) return false;
  } while (TakeIf(','));
  return Expect(')');
}

bool TextParser::ParseParameter(VariableSyntax* parameter) {
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
bool TextParser::ParseVariableType(VariableSyntax* variable, std::uint32_t* vector_length) {
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

bool TextParser::ParseVariable(const VariableSyntax& type, std::uint32_t vector_length, VariableSyntax* variable) {
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

bool TextParser::ParseBounds(std::uint64_t element_bytes, VariableSyntax* variable) {
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

bool TextParser::ParseInitial(VariableSyntax* variable, std::size_t depth) {
  if (!lexer_.current().Is('{')) return ParseInitialValue(variable);
  if (depth >= kMaxNesting) return Fail("initial values are nested too deeply");
  lexer_.Take();
  if (TakeIf('}')) return true;
  do {
    if (!ParseInitial(variable, depth + 1)) return false;
  } while (TakeIf(','));
  return Expect('}');
}

bool TextParser::ParseInitialValue(VariableSyntax* variable) {
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

bool TextParser::AppendInitial(VariableSyntax* variable, std::uint64_t bits, std::size_t bytes) {
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

// With a function, its statements note where the variables come into scope.
bool TextParser::ParseVariables(Space space, const Linkage& linkage, std::vector<VariableSyntax>* variables,
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

}  // namespace softgpu::ptx
