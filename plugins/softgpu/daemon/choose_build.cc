#include "plugins/softgpu/daemon/choose_build.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace softgpu {

namespace {

constexpr char kSuffix[] = "-v3";

bool IsNewProcessor() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("lzcnt");
}

// Where the program's own file lies, with the suffix. Empty: the system does not say.
std::string FastSibling() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  if (length <= 0 || length == static_cast<ssize_t>(sizeof(path))) return {};
  return std::string(path, static_cast<std::size_t>(length)) + kSuffix;
}

}  // namespace

const char* ChooseBuild(char** argv) {
  if constexpr (SOFTGPU_BASELINE == 0) {
    if (IsNewProcessor()) return "interpreter for x86-64-v3";
    std::fprintf(stderr, "softgpud: this build needs a processor with AVX2, FMA and F16C; run softgpud instead\n");
    std::exit(1);
  }
  const char* wanted = std::getenv("SOFTGPU_BUILD");
  if (wanted != nullptr && std::string_view(wanted) == "baseline") return "baseline interpreter, as SOFTGPU_BUILD says";
  if (!IsNewProcessor()) return "this processor has no AVX2: baseline interpreter, at about half the speed";
  const std::string fast = FastSibling();
  if (!fast.empty()) execv(fast.c_str(), argv);
  return "no softgpud-v3 beside softgpud: baseline interpreter, at about half the speed";
}

}  // namespace softgpu
