// That nothing the driver library offers goes untested: every function that is not one of softgpud --unsupported is
// called by some test, and older names and twins lead to functions that are.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "plugins/softgpu/daemon/unsupported.h"
#include "tests/plugins/softgpu/driver.h"

namespace softgpu_test {
namespace {

const std::vector<std::string> kFunctions = {
#define CUDA_ABI_FUNCTION(symbol, base_name, since, ...) #symbol,
#define CUDA_ABI_STREAM_FUNCTION(symbol, base_name, since, suffix, suffix_since, ...) #symbol,
#include "plugins/cuda_abi/cuda_functions.inc"
};

// Names that are jumps to one of kFunctions.
const std::vector<std::pair<std::string, std::string>> kOtherNames = {
#define CUDA_ABI_FUNCTION(symbol, base_name, since, ...)
#define CUDA_ABI_STREAM_FUNCTION(symbol, base_name, since, suffix, suffix_since, ...) {#symbol "_" #suffix, #symbol},
#include "plugins/cuda_abi/cuda_functions.inc"
#define CUDA_ABI_ALIAS(name, target, is_same) {#name, #target},
#include "plugins/cuda_abi/cuda_aliases.inc"
};

bool IsPartOfName(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// The identifiers behind a `.` and before a `(`: what tests call through a Driver. Comments and macros do not count.
void AddCalls(const std::string& text, std::set<std::string>& calls) {
  for (std::size_t at = text.find(".cu"); at != std::string::npos; at = text.find(".cu", at + 1)) {
    std::size_t end = at + 1;
    while (end < text.size() && IsPartOfName(text[end])) ++end;
    if (end < text.size() && text[end] == '(') calls.insert(text.substr(at + 1, end - at - 1));
  }
}

std::string WithoutComments(const std::string& text) {
  std::string code;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    code += line.substr(0, line.find("//")) + "\n";
    begin = end + 1;
  }
  return code;
}

TEST(EveryFunctionTest, IsCalledByATest) {
  std::set<std::string> calls;
  for (const char* folder : {"conformance", "faults", "plugins/softgpu"}) {
    const std::filesystem::path root = std::filesystem::path(TESTS_DIRECTORY) / folder;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
      if (entry.path().extension() != ".cc") continue;
      std::ifstream file(entry.path());
      AddCalls(WithoutComments(std::string(std::istreambuf_iterator<char>(file), {})), calls);
    }
  }
  ASSERT_GT(calls.size(), 100U) << "no tests are found in " << TESTS_DIRECTORY;
  std::string missing;
  for (const std::string& function : kFunctions) {
    if (!calls.contains(function)) missing += "\n  " + function;
  }
  EXPECT_EQ(missing, "") << "add a test that calls them, or make them unsupported";
}

// So that the test above looks at all of them.
TEST(EveryFunctionTest, IsInOneOfTheLists) {
  std::set<std::string> listed(kFunctions.begin(), kFunctions.end());
  for (const auto& [name, target] : kOtherNames) listed.insert(name);
  for (const std::string& name : softgpu::UnsupportedFunctions()) {
    EXPECT_TRUE(listed.insert(name).second) << name << " is both there and unsupported";
  }
  for (const char* symbol : {
#define CUDA_ABI_SYMBOL(symbol, base_name, since, flavour) #symbol,
#include "plugins/cuda_abi/driver_symbols.inc"
       }) {
    EXPECT_TRUE(listed.contains(symbol)) << symbol;
  }
}

// The address of the instruction that a jump at `code` leads to, as the library has them; null: it is none.
const unsigned char* Destination(const unsigned char* code) {
  constexpr unsigned char kEndBranch[] = {0xf3, 0x0f, 0x1e, 0xfa};
  if (std::memcmp(code, kEndBranch, sizeof(kEndBranch)) == 0) code += sizeof(kEndBranch);
  std::int32_t offset = 0;
  if (code[0] == 0xe9) {
    std::memcpy(&offset, code + 1, sizeof(offset));
    return code + 5 + offset;
  }
  if (code[0] == 0xeb) return code + 2 + static_cast<signed char>(code[1]);
  return nullptr;
}

TEST(EveryFunctionTest, OtherNamesLeadToTheFunctionsThemselves) {
  const Driver cuda = OpenSoftDriver();
  for (const auto& [name, target] : kOtherNames) {
    const auto* jump = static_cast<const unsigned char*>(dlsym(cuda.library, name.c_str()));
    const void* function = dlsym(cuda.library, target.c_str());
    ASSERT_NE(jump, nullptr) << name;
    ASSERT_NE(function, nullptr) << target;
    EXPECT_EQ(static_cast<const void*>(Destination(jump)), function) << name << " does not lead to " << target;
  }
}

}  // namespace
}  // namespace softgpu_test
