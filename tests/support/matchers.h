// IsOk() and FailsWith(): what tests say about a Result.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "core/base/result.h"

namespace gpumig {

MATCHER(IsOk, negation ? "is an error" : "is ok") {
  if (arg) return true;
  *result_listener << ErrorCodeName(arg.error().code()) << ": " << arg.error().message();
  return false;
}

// An error of this code whose message contains `text`.
MATCHER_P2(FailsWith, code, text,
           std::string("is an error ") + std::string(ErrorCodeName(code)) + " with text '" + std::string(text) + "'") {
  if (arg) {
    *result_listener << "is ok";
    return false;
  }
  *result_listener << ErrorCodeName(arg.error().code()) << ": " << arg.error().message();
  return arg.error().code() == code && arg.error().message().find(text) != std::string::npos;
}

}  // namespace gpumig
