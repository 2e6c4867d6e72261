// A listening socket of TCP or of a unix path, and what accept() tells of the peer. For HttpServer's own use.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "core/base/result.h"
#include "core/base/unique_fd.h"
#include "transport/http_message.h"

namespace gpumig {

// Ownership: owns the socket and, of a unix socket, its file, which is removed with it.
class Listener {
 public:
  static Result<Listener> Tcp(const std::string& host, std::uint16_t port);
  static Result<Listener> Unix(const std::filesystem::path& path, unsigned mode);
  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&&) = delete;
  ~Listener();

  struct Accepted {
    UniqueFd fd;    // non-blocking, close-on-exec
    HttpPeer peer;  // of TCP, the address only
  };
  // Empty: nobody waits. Errors: kResourceExhausted, no descriptors are left; others concern one peer only.
  Result<std::optional<Accepted>> Accept() const;

  int fd() const { return fd_.get(); }
  std::uint16_t port() const { return port_; }
  bool is_unix() const { return !path_.empty(); }

 private:
  Listener(UniqueFd fd, std::uint16_t port, std::filesystem::path path)
      : fd_(std::move(fd)), port_(port), path_(std::move(path)) {}

  UniqueFd fd_;
  std::uint16_t port_ = 0;
  std::filesystem::path path_;
};

}  // namespace gpumig
