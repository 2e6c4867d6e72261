#include "core/host/criu_version.h"

#include <cstdlib>

namespace gpumig {
namespace {

// Takes the next number off the front; a missing part counts as 0.
int TakeNumber(std::string_view& version) {
  const std::size_t dot = version.find('.');
  const int number = std::atoi(std::string(version.substr(0, dot)).c_str());
  version = dot == std::string_view::npos ? std::string_view() : version.substr(dot + 1);
  return number;
}

}  // namespace

std::string CriuVersionIn(std::string_view text) {
  static constexpr std::string_view kKey = "Version: ";
  const std::size_t at = text.find(kKey);
  if (at == std::string_view::npos) return std::string();
  text.remove_prefix(at + kKey.size());
  return std::string(text.substr(0, text.find('\n')));
}

bool IsAtLeast(std::string_view version, std::string_view wanted) {
  if (version.empty()) return false;
  while (!version.empty() || !wanted.empty()) {
    const int have = TakeNumber(version);
    const int need = TakeNumber(wanted);
    if (have != need) return have > need;
  }
  return true;
}

}  // namespace gpumig
