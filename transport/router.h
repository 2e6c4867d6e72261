// Router: which handler serves which method and path.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"
#include "transport/http_message.h"

namespace gpumig {

inline constexpr std::size_t kDefaultBodyLimitBytes = 1 << 20;

// Thread safety: Find() from any number of threads, once the last Add() is done.
class Router {
 public:
  struct Route {
    std::string method;
    std::vector<std::string> segments;  // "{name}" stands for a parameter
    HttpHandler handler;
    std::size_t body_limit_bytes = kDefaultBodyLimitBytes;
  };
  struct Match {
    const Route* route;
    std::map<std::string, std::string, std::less<>> parameters;
  };

  // `pattern` such as "/v1/migrations/{id}/lacking". Two routes must not both match a path.
  void Add(std::string method, std::string_view pattern, HttpHandler handler,
           std::size_t body_limit_bytes = kDefaultBodyLimitBytes);

  // Parameters have 1 to 128 of A-Z, a-z, 0-9, '.', '_', '-', and are not "." or "..".
  // Errors: kNotFound, no such path or not with this method; kUnsupported, another version of the protocol;
  //     kInvalidArgument, a parameter holds other characters.
  Result<Match> Find(std::string_view method, std::string_view path) const;

 private:
  std::vector<Route> routes_;
};

}  // namespace gpumig
