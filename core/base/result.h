// Result<T>: a value, or the Error that says why there is none. And GPUMIG_TRY, which passes errors on.
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include <tl/expected.hpp>

#include "core/base/error.h"

namespace gpumig {

template <typename T>
class [[nodiscard]] Result : public tl::expected<T, Error> {
 public:
  using tl::expected<T, Error>::expected;
  // NOLINTNEXTLINE(google-explicit-constructor): `return MakeError(...)` is how functions fail.
  Result(Error error) : tl::expected<T, Error>(tl::unexpect, std::move(error)) {}
};

inline Result<void> Ok() { return Result<void>(); }

namespace internal {

inline std::string TryContext() { return std::string(); }

template <typename... Args>
std::string TryContext(fmt::format_string<Args...> format, Args&&... args) {
  return fmt::format(format, std::forward<Args>(args)...);
}

template <typename T>
T Unwrap(Result<T>& result) {
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

}  // namespace internal
}  // namespace gpumig

// GPUMIG_TRY(expression of Result<T>[, "context {}", args...]): its T, or returns its Error, with the context put
// before the message, from the function this stands in.
#define GPUMIG_TRY(expression, ...) GPUMIG_TRY_NAMED(__COUNTER__, expression __VA_OPT__(, ) __VA_ARGS__)

// A name of its own for every use, so that one can stand inside another.
#define GPUMIG_TRY_NAMED(number, ...) GPUMIG_TRY_NAMED_(number, __VA_ARGS__)
#define GPUMIG_TRY_NAMED_(number, expression, ...)                   \
  __extension__({                                                    \
    auto gpumig_try_##number = (expression);                         \
    if (!gpumig_try_##number) {                                      \
      return ::gpumig::Error(std::move(gpumig_try_##number).error()) \
          .AddContext(::gpumig::internal::TryContext(__VA_ARGS__));  \
    }                                                                \
    ::gpumig::internal::Unwrap(gpumig_try_##number);                 \
  })
