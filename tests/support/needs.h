// What a test needs of its machine. A test whose need is not met skips with a reason; GPUMIG_REQUIRE=gpu,criu,root,nvcc
// (any of them) turns that skip into a failure.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace gpumig {

inline bool IsRequired(const std::string& need) {
  const char* required = std::getenv("GPUMIG_REQUIRE");
  return required != nullptr && ("," + std::string(required) + ",").find("," + need + ",") != std::string::npos;
}

}  // namespace gpumig

#define GPUMIG_NEEDS(need, met, why)                                                                \
  do {                                                                                              \
    if (!(met)) {                                                                                   \
      if (::gpumig::IsRequired(need)) FAIL() << "GPUMIG_REQUIRE names " << (need) << ": " << (why); \
      GTEST_SKIP() << (why);                                                                        \
    }                                                                                               \
  } while (false)

#define GPUMIG_NEEDS_ROOT() GPUMIG_NEEDS("root", geteuid() == 0, "needs root")
