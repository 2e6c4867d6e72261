// GPUMIG_CHECK: what a correct program cannot break. On in every build; says where and aborts.
#pragma once

#include <cstdio>
#include <cstdlib>

#define GPUMIG_CHECK(condition)                                                          \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
