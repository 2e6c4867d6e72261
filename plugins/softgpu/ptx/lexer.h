// Cuts PTX text into tokens.
#pragma once

#include <cstdint>
#include <string_view>

namespace softgpu::ptx {

enum class TokenKind {
  kEnd,
  kWord,         // Names, opcodes with all their parts, directives, special registers.
  kNumber,       // Anything that begins with a digit.
  kString,       // Without its quotes.
  kPunctuation,  // One character.
  kInvalid,      // A character that PTX does not know, or a comment or string without an end.
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string_view text;
  int line = 1;

  bool Is(char punctuation) const { return kind == TokenKind::kPunctuation && text[0] == punctuation; }
  bool IsWord(std::string_view word) const { return kind == TokenKind::kWord && text == word; }
};

// Ownership: borrows the text, and so do its tokens. Thread safety: one thread at a time.
class Lexer {
 public:
  explicit Lexer(std::string_view text);

  const Token& current() const { return current_; }
  // Returns the current token and goes on to the next.
  Token Take();
  // Goes on to the first token of a later line.
  void SkipLine();

 private:
  void Advance();
  bool SkipBlanks();
  std::size_t WordEnd(std::size_t begin) const;

  std::string_view text_;
  std::size_t position_ = 0;
  int line_ = 1;
  Token current_;
};

// What a number token stands for.
struct Number {
  enum class Kind { kInteger, kFloat32, kFloat64, kInvalid };
  Kind kind = Kind::kInvalid;
  std::uint64_t bits = 0;
};
Number ParseNumber(std::string_view text);

}  // namespace softgpu::ptx
