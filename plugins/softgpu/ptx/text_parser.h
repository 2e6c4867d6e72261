// The parser behind ParseSyntax(), whose members are in three files: what a module consists of in parser.cc, variables
// in parse_variables.cc, bodies of functions in parse_statements.cc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/softgpu/ptx/lexer.h"
#include "plugins/softgpu/ptx/parser.h"

namespace softgpu::ptx {

inline constexpr std::size_t kQuotedBytes = 80;  // Of the text, in an error.

inline constexpr std::size_t kMaxListElements = 1024;  // Parameters, arguments of a call, targets of a brx.idx.

// A recursive-descent parser. A function that returns false has set error_, the first of which stays.
class TextParser {
 public:
  explicit TextParser(std::string_view text) : lexer_(text) {}

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

}  // namespace softgpu::ptx
