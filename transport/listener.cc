#include "transport/listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "transport/openssl_handles.h"

namespace gpumig {
namespace {

constexpr int kBacklog = 128;

std::string AddressText(const sockaddr* address, socklen_t size) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (getnameinfo(address, size, host.data(), host.size(), port.data(), port.size(), NI_NUMERICHOST | NI_NUMERICSERV) !=
      0) {
    return "an unknown address";
  }
  const bool is_v6 = std::strchr(host.data(), ':') != nullptr;
  return is_v6 ? fmt::format("[{}]:{}", host.data(), port.data()) : fmt::format("{}:{}", host.data(), port.data());
}

std::uint16_t PortOf(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

Error BindFailure(int error_number, std::string_view what) {
  Error error = Error::FromErrno(error_number, what);
  if (error_number == EADDRINUSE) return Error(ErrorCode::kAlreadyExists, error.message());
  if (error_number == EADDRNOTAVAIL) return Error(ErrorCode::kInvalidArgument, error.message());
  return error;
}

Result<UniqueFd> BindTcp(const addrinfo& address) {
  UniqueFd fd(socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Error::FromErrno(errno, "socket");
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd.get(), address.ai_addr, address.ai_addrlen) != 0) return BindFailure(errno, "bind");
  if (listen(fd.get(), kBacklog) != 0) return BindFailure(errno, "listen");
  return fd;
}

Result<sockaddr_un> UnixAddress(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.string().size() >= sizeof(address.sun_path)) {
    return MakeError(ErrorCode::kInvalidArgument, "a unix socket's path has 1 to {} bytes",
                     sizeof(address.sun_path) - 1);
  }
  std::memcpy(address.sun_path, path.c_str(), path.string().size());
  return address;
}

// True: a server listens there. A file that is no socket counts as served too: it is not ours to remove.
bool IsServed(const std::filesystem::path& path, const sockaddr_un& address) {
  struct stat status{};
  if (lstat(path.c_str(), &status) != 0) return false;
  if (!S_ISSOCK(status.st_mode)) return true;
  const UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int connected = connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  return connected == 0 || errno == EAGAIN;
}

}  // namespace

Listener::Listener(Listener&& other) noexcept
    : fd_(std::move(other.fd_)), port_(other.port_), path_(std::exchange(other.path_, {})) {}

Listener::~Listener() {
  if (!path_.empty()) unlink(path_.c_str());
}

Result<Listener> Listener::Tcp(const std::string& host, std::uint16_t port) {
  const std::string context = fmt::format("listen on {}:{}", host, port);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failed = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  const std::unique_ptr<addrinfo, OpensslDeleter<&freeaddrinfo>> addresses(found);
  if (failed != 0) return MakeError(ErrorCode::kInvalidArgument, "{}: {}", context, gai_strerror(failed));
  UniqueFd fd = GPUMIG_TRY(BindTcp(*addresses), "{}", context);
  const std::uint16_t bound = PortOf(fd.get());
  return Listener(std::move(fd), bound, {});
}

Result<Listener> Listener::Unix(const std::filesystem::path& path, unsigned mode) {
  const std::string context = fmt::format("listen on {}", path.string());
  const sockaddr_un address = GPUMIG_TRY(UnixAddress(path), "{}", context);
  if (IsServed(path, address)) return MakeError(ErrorCode::kAlreadyExists, "{}: another process serves it", context);
  unlink(path.c_str());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Error::FromErrno(errno, context);
  // Nobody may connect in the moment between bind() and chmod().
  if (fchmod(fd.get(), 0600) != 0 ||
      bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return BindFailure(errno, context);
  }
  Listener listener(std::move(fd), 0, path);
  if (chmod(path.c_str(), mode) != 0 || listen(listener.fd(), kBacklog) != 0) return BindFailure(errno, context);
  return listener;
}

Result<std::optional<Listener::Accepted>> Listener::Accept() const {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  UniqueFd fd(accept4(fd_.get(), reinterpret_cast<sockaddr*>(&address), &size, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) {
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return std::optional<Accepted>();
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      return Error(ErrorCode::kResourceExhausted, Error::FromErrno(errno, "accept").message());
    }
    return Error::FromErrno(errno, "accept");
  }
  Accepted accepted;
  if (is_unix()) {
    ucred credentials{};
    socklen_t credentials_size = sizeof(credentials);
    if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &credentials_size) != 0) {
      return Error::FromErrno(errno, "SO_PEERCRED");
    }
    accepted.peer.address = "unix socket";
    accepted.peer.uid = credentials.uid;
    accepted.peer.pid = credentials.pid;
  } else {
    const int on = 1;
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    accepted.peer.address = AddressText(reinterpret_cast<const sockaddr*>(&address), size);
  }
  accepted.fd = std::move(fd);
  return std::optional<Accepted>(std::move(accepted));
}

}  // namespace gpumig
