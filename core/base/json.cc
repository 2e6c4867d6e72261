#include "core/base/json.h"

namespace gpumig {
namespace {

constexpr int kDeepestNesting = 64;

Error Wrong(const char* key, const char* wanted) {
  return MakeError(ErrorCode::kDamaged, "member '{}' is missing or is not {}", key, wanted);
}

const Json* Find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

}  // namespace

Result<Json> ParseJson(std::string_view text) {
  bool too_deep = false;
  const auto limit_depth = [&](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kDeepestNesting;
    return !too_deep;
  };
  Json parsed = Json::parse(text, limit_depth, /*allow_exceptions=*/false);
  if (too_deep) return MakeError(ErrorCode::kDamaged, "JSON is nested deeper than {}", kDeepestNesting);
  if (parsed.is_discarded()) return MakeError(ErrorCode::kDamaged, "not JSON");
  return parsed;
}

std::string ToText(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

Result<std::string> StringMember(const Json& object, const char* key) {
  const Json* member = Find(object, key);
  if (member == nullptr || !member->is_string()) return Wrong(key, "a string");
  return member->get<std::string>();
}

Result<std::uint64_t> UnsignedMember(const Json& object, const char* key) {
  const Json* member = Find(object, key);
  if (member == nullptr || !member->is_number_unsigned()) return Wrong(key, "an unsigned integer");
  return member->get<std::uint64_t>();
}

Result<std::int64_t> IntegerMember(const Json& object, const char* key) {
  const Json* member = Find(object, key);
  if (member == nullptr || !member->is_number_integer()) return Wrong(key, "an integer");
  return member->get<std::int64_t>();
}

Result<bool> BoolMember(const Json& object, const char* key) {
  const Json* member = Find(object, key);
  if (member == nullptr || !member->is_boolean()) return Wrong(key, "true or false");
  return member->get<bool>();
}

Result<Json> ObjectMember(const Json& object, const char* key) {
  const Json* member = Find(object, key);
  if (member == nullptr || !member->is_object()) return Wrong(key, "an object");
  return *member;
}

Result<Json> ArrayMember(const Json& object, const char* key) {
  const Json* member = Find(object, key);
  if (member == nullptr || !member->is_array()) return Wrong(key, "an array");
  return *member;
}

}  // namespace gpumig
