#include "plugins/softgpu/ptx/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "plugins/softgpu/ptx/text_parser.h"

namespace softgpu::ptx {

bool TextParser::FailAt(int line, std::string message) {
  if (error_.message.empty()) error_ = ParseError{line, std::move(message)};
  return false;
}

bool TextParser::FailUnexpected(std::string_view wanted) {
  const Token& token = lexer_.current();
  if (token.kind == TokenKind::kEnd) return Fail(fmt::format("the text ends where {} should be", wanted));
  return Fail(fmt::format("'{}' where {} should be", token.text.substr(0, kQuotedBytes), wanted));
}

bool TextParser::Expect(char punctuation) {
  if (TakeIf(punctuation)) return true;
  return FailUnexpected(fmt::format("'{}'", punctuation));
}

bool TextParser::TakeIf(char punctuation) {
  if (!lexer_.current().Is(punctuation)) return false;
  lexer_.Take();
  return true;
}

bool TextParser::TakeName(std::string_view* name) {
  const Token& token = lexer_.current();
  if (token.kind != TokenKind::kWord || token.text[0] == '.') return FailUnexpected("a name");
  *name = lexer_.Take().text;
  return true;
}

bool TextParser::TakeNumber(Number* number) {
  if (lexer_.current().kind != TokenKind::kNumber) return FailUnexpected("a number");
  *number = ParseNumber(lexer_.current().text);
  if (number->kind == Number::Kind::kInvalid) return FailUnexpected("a number that PTX knows");
  lexer_.Take();
  return true;
}

bool TextParser::TakeInteger(std::uint64_t limit, std::uint64_t* value) {
  Number number;
  if (!TakeNumber(&number)) return false;
  if (number.kind != Number::Kind::kInteger) return Fail("an integer should stand here");
  if (number.bits > limit) return Fail(fmt::format("{} is beyond the limit of {}", number.bits, limit));
  *value = number.bits;
  return true;
}

bool TextParser::TakeSigned(std::int64_t* value) {
  const bool negative = TakeIf('-');
  std::uint64_t magnitude = 0;
  if (!TakeInteger(~std::uint64_t{0}, &magnitude)) return false;
  *value = static_cast<std::int64_t>(negative ? 0 - magnitude : magnitude);
  return true;
}

bool TextParser::Parse() {
  if (!ParseVersion() || !ParseTarget()) return false;
  while (lexer_.current().kind != TokenKind::kEnd) {
    if (!ParseModuleItem()) return false;
  }
  return true;
}

bool TextParser::ParseVersion() {
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

bool TextParser::ParseTarget() {
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

bool TextParser::ParseAddressSize() {
  std::uint64_t bits = 0;
  if (!TakeInteger(64, &bits)) return false;
  return bits == 64 || Fail("only .address_size 64 is supported");
}

bool TextParser::ParseModuleItem() {
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

bool TextParser::SkipPragma() {
  while (lexer_.current().kind == TokenKind::kString) {
    lexer_.Take();
    if (!TakeIf(',')) break;
  }
  return Expect(';');
}

bool TextParser::SkipSection() {
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

bool TextParser::AddSymbol() {
  if (++symbol_count_ <= kMaxSymbols) return true;
  return Fail(fmt::format("more than {} symbols", kMaxSymbols));
}

bool TextParser::ParseFunction(bool is_entry, const Linkage& linkage) {
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

bool TextParser::ParseFunctionDirectives(FunctionSyntax* function) {
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

bool TextParser::ParseTriple(std::array<std::uint32_t, 3>* triple) {
  for (std::uint32_t& value : *triple) {
    std::uint64_t taken = 0;
    if (!TakeInteger(~std::uint32_t{0}, &taken)) return false;
    value = static_cast<std::uint32_t>(taken);
    if (!TakeIf(',')) break;
  }
  return true;
}

std::variant<ModuleSyntax, ParseError> ParseSyntax(std::string_view text) {
  if (text.size() > kMaxTextBytes) {
    return ParseError{0, fmt::format("the text has {} bytes, more than the limit of {}", text.size(), kMaxTextBytes)};
  }
  text = text.substr(0, text.find('\0'));
  TextParser parser(text);
  if (!parser.Parse()) return std::move(parser.error());
  return std::move(parser.module());
}

}  // namespace softgpu::ptx
