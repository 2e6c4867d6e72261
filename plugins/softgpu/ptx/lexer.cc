#include "plugins/softgpu/ptx/lexer.h"

#include <bit>
#include <charconv>
#include <system_error>

namespace softgpu::ptx {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '$' || c == '%';
}
bool IsNamePart(char c) { return IsNameStart(c) || IsDigit(c); }

}  // namespace

Lexer::Lexer(std::string_view text) : text_(text) { Advance(); }

Token Lexer::Take() {
  const Token taken = current_;
  if (taken.kind != TokenKind::kEnd) Advance();
  return taken;
}

void Lexer::SkipLine() {
  const int line = current_.line;
  while (current_.kind != TokenKind::kEnd && current_.line == line) Advance();
}

// False: a comment does not end.
bool Lexer::SkipBlanks() {
  while (position_ < text_.size()) {
    const char c = text_[position_];
    if (c == '\n') {
      ++line_;
      ++position_;
    } else if (c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v') {
      ++position_;
    } else if (text_.substr(position_, 2) == "//") {
      position_ = std::min(text_.find('\n', position_), text_.size());
    } else if (text_.substr(position_, 2) == "/*") {
      const std::size_t end = text_.find("*/", position_ + 2);
      if (end == std::string_view::npos) return false;
      for (; position_ < end + 2; ++position_) line_ += text_[position_] == '\n';
    } else {
      break;
    }
  }
  return true;
}

// Dots and double colons belong to a word if another part follows: "ld.global.L1::evict_last.u32".
std::size_t Lexer::WordEnd(std::size_t begin) const {
  const auto part_at = [this](std::size_t i) { return i < text_.size() && IsNamePart(text_[i]); };
  std::size_t end = begin;
  while (true) {
    if (part_at(end)) {
      ++end;
    } else if (end < text_.size() && text_[end] == '.' && part_at(end + 1)) {
      end += 2;
    } else if (text_.substr(end, 2) == "::" && part_at(end + 2)) {
      end += 3;
    } else {
      return end;
    }
  }
}

void Lexer::Advance() {
  const bool closed = SkipBlanks();
  current_ = Token{TokenKind::kEnd, {}, line_};
  if (!closed) {
    current_ = Token{TokenKind::kInvalid, text_.substr(position_, 2), line_};
    position_ = text_.size();
    return;
  }
  if (position_ >= text_.size()) return;
  const char c = text_[position_];
  std::size_t end = position_ + 1;
  if (IsDigit(c)) {
    current_.kind = TokenKind::kNumber;
    while (end < text_.size() && (IsNamePart(text_[end]) || text_[end] == '.')) ++end;
    // The sign of a decimal exponent.
    if (end + 1 < text_.size() && (text_[end] == '-' || text_[end] == '+') &&
        (text_[end - 1] == 'e' || text_[end - 1] == 'E') && text_[position_ + 1] != 'x' &&
        text_[position_ + 1] != 'X' && text_.substr(position_, end - position_).find('.') != std::string_view::npos) {
      ++end;
      while (end < text_.size() && IsDigit(text_[end])) ++end;
    }
  } else if (IsNameStart(c) || c == '.') {
    end = WordEnd(position_);
    current_.kind = end > position_ ? TokenKind::kWord : TokenKind::kInvalid;
    end = std::max(end, position_ + 1);
  } else if (c == '"') {
    end = text_.find('"', position_ + 1);
    if (end == std::string_view::npos) {
      current_.kind = TokenKind::kInvalid;
      current_.text = text_.substr(position_, 1);
      position_ = text_.size();
      return;
    }
    current_.kind = TokenKind::kString;
    current_.text = text_.substr(position_ + 1, end - position_ - 1);
    for (const char quoted : current_.text) line_ += quoted == '\n';
    position_ = end + 1;
    return;
  } else {
    const bool known = std::string_view("()[]{}<>,;:+-*/=@!|&~?").find(c) != std::string_view::npos;
    current_.kind = known ? TokenKind::kPunctuation : TokenKind::kInvalid;
  }
  current_.text = text_.substr(position_, end - position_);
  position_ = end;
}

Number ParseNumber(std::string_view text) {
  const auto parse = [](std::string_view digits, int base, std::uint64_t* value) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), *value, base);
    return !digits.empty() && error == std::errc() && end == digits.data() + digits.size();
  };
  Number number;
  const char second = text.size() > 1 && text[0] == '0' ? text[1] : ' ';
  if (second == 'f' || second == 'F') {
    if (text.size() == 10 && parse(text.substr(2), 16, &number.bits)) number.kind = Number::Kind::kFloat32;
    return number;
  }
  if (second == 'd' || second == 'D') {
    if (text.size() == 18 && parse(text.substr(2), 16, &number.bits)) number.kind = Number::Kind::kFloat64;
    return number;
  }
  if (text.find('.') != std::string_view::npos) {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return number;
    return {Number::Kind::kFloat64, std::bit_cast<std::uint64_t>(value)};
  }
  if (!text.empty() && text.back() == 'U') text.remove_suffix(1);
  bool valid = false;
  if (second == 'x' || second == 'X') {
    valid = parse(text.substr(2), 16, &number.bits);
  } else if (second == 'b' || second == 'B') {
    valid = parse(text.substr(2), 2, &number.bits);
  } else {
    valid = parse(text, IsDigit(second) ? 8 : 10, &number.bits);
  }
  if (valid) number.kind = Number::Kind::kInteger;
  return number;
}

}  // namespace softgpu::ptx
