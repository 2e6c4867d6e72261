// The edge to nlohmann::json: its exceptions end here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "core/base/result.h"

namespace gpumig {

using Json = nlohmann::ordered_json;

// Errors: kDamaged, not JSON, or nested deeper than 64.
Result<Json> ParseJson(std::string_view text);

// Invalid UTF-8 is replaced, never thrown over.
std::string ToText(const Json& json);

// A required member of the given type. Errors: kDamaged naming `key`.
Result<std::string> StringMember(const Json& object, const char* key);
Result<std::uint64_t> UnsignedMember(const Json& object, const char* key);
Result<std::int64_t> IntegerMember(const Json& object, const char* key);
Result<bool> BoolMember(const Json& object, const char* key);
Result<Json> ObjectMember(const Json& object, const char* key);
Result<Json> ArrayMember(const Json& object, const char* key);

}  // namespace gpumig
