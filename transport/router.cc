#include "transport/router.h"

#include <algorithm>
#include <optional>

#include "core/base/check.h"
#include "transport/protocol.h"

namespace gpumig {
namespace {

constexpr std::size_t kMaxParameterBytes = 128;
constexpr std::size_t kMaxSegments = 16;

// Empty: it does not start with '/', or has too many segments.
std::vector<std::string> Split(std::string_view path) {
  std::vector<std::string> segments;
  if (!path.starts_with('/')) return segments;
  while (!path.empty() && segments.size() <= kMaxSegments) {
    path.remove_prefix(1);
    const std::size_t end = std::min(path.find('/'), path.size());
    segments.emplace_back(path.substr(0, end));
    path.remove_prefix(end);
  }
  if (segments.size() > kMaxSegments) segments.clear();
  return segments;
}

bool IsParameter(std::string_view segment) { return segment.starts_with('{') && segment.ends_with('}'); }

bool IsParameterCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

bool IsGoodParameter(std::string_view text) {
  return !text.empty() && text.size() <= kMaxParameterBytes && std::ranges::all_of(text, IsParameterCharacter) &&
         text != "." && text != "..";
}

bool Fits(const Router::Route& route, const std::vector<std::string>& segments) {
  return std::ranges::equal(route.segments, segments, [](const std::string& pattern, const std::string& segment) {
    return IsParameter(pattern) || pattern == segment;
  });
}

// For messages only: hostile text stays short and printable.
std::string Shown(std::string_view text) {
  std::string shown(text.substr(0, 100));
  std::ranges::replace_if(shown, [](char c) { return c < 0x20 || c == 0x7f; }, '?');
  return shown;
}

}  // namespace

void Router::Add(std::string method, std::string_view pattern, HttpHandler handler, std::size_t body_limit_bytes) {
  std::vector<std::string> segments = Split(pattern);
  GPUMIG_CHECK(!segments.empty());
  routes_.push_back({std::move(method), std::move(segments), std::move(handler), body_limit_bytes});
}

Result<Router::Match> Router::Find(std::string_view method, std::string_view path) const {
  const std::vector<std::string> segments = Split(path);
  bool path_known = false;
  for (const Route& route : routes_) {
    if (!Fits(route, segments)) continue;
    path_known = true;
    if (route.method != method) continue;
    Match match{&route, {}};
    for (std::size_t i = 0; i < segments.size(); ++i) {
      if (!IsParameter(route.segments[i])) continue;
      const std::string name = route.segments[i].substr(1, route.segments[i].size() - 2);
      if (!IsGoodParameter(segments[i])) {
        return MakeError(ErrorCode::kInvalidArgument, "{} {}: '{}' is no {}", method, Shown(path), Shown(segments[i]),
                         name);
      }
      match.parameters.emplace(name, segments[i]);
    }
    return match;
  }
  if (path_known) return MakeError(ErrorCode::kNotFound, "{} is not served with {}", Shown(path), method);
  if (!segments.empty() && segments[0] != kProtocolVersion && segments[0].starts_with('v')) {
    return MakeError(ErrorCode::kUnsupported, "the request is of protocol {}; this node speaks {}", Shown(segments[0]),
                     kProtocolVersion)
        .WithNextStep("install the same version of gpumig on both nodes");
  }
  return MakeError(ErrorCode::kNotFound, "no such path: {}", Shown(path));
}

}  // namespace gpumig
