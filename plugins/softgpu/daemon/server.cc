#include "plugins/softgpu/daemon/server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

#include "plugins/softgpu/daemon/connection.h"
#include "plugins/softgpu/wire/packet.h"

namespace softgpu {

namespace {

std::string SystemError(const std::string& what) {
  const int error = errno;
  return what + ": " + std::strerror(error) + " (errno " + std::to_string(error) + ")";
}

// Address ranges must be page-aligned, below the interpreter's windows for shared and local memory, and apart.
bool AreSound(const request::OpenSession& open) {
  constexpr std::uint64_t kMaxAddress = std::uint64_t{1} << 56;
  if (open.device_count > kMaxDevices) return false;
  for (std::size_t i = 0; i < open.device_count; ++i) {
    const DeviceRange& range = open.devices[i];
    if (range.base == 0 || range.base % 4096 != 0 || range.bytes % 4096 != 0) return false;
    if (range.bytes == 0 || range.bytes > kMaxSpanBytes || range.base > kMaxAddress) return false;
    for (std::size_t j = 0; j < i; ++j) {
      const DeviceRange& other = open.devices[j];
      if (range.base < other.base + other.bytes && other.base < range.base + range.bytes) return false;
      if (range.uuid == other.uuid) return false;
    }
  }
  return true;
}

}  // namespace

Server::Server(const std::vector<DeviceDescription>& devices, std::uint32_t driver_version)
    : stop_(eventfd(0, EFD_CLOEXEC)), driver_version_(driver_version) {
  for (const DeviceDescription& device : devices) devices_.push_back(std::make_unique<Device>(device));
}

Server::~Server() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  locked_changed_.notify_all();
  for (Connection& connection : connections_) shutdown(connection.socket.get(), SHUT_RDWR);
  std::vector<std::shared_ptr<Session>> sessions;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [token, session] : sessions_) sessions.push_back(session.session);
  }
  for (const auto& session : sessions) session->Close();  // Wakes the connections that wait in it.
  for (Connection& connection : connections_) {
    if (connection.thread.joinable()) connection.thread.join();
  }
  if (!path_.empty()) unlink(path_.c_str());
}

std::string Server::Listen(const std::string& path, unsigned mode) {
  // Whoever can connect finds another daemon there, which we must not push aside. A file without one is left over.
  if (const UniqueFd other(ConnectTo(path.c_str())); other.valid()) return path + " is in use by another softgpud";
  // The default path's directory is on a file system that is empty after a boot.
  const std::string directory = path.substr(0, path.find_last_of('/') + 1);
  if (!directory.empty()) mkdir(directory.c_str(), 0755);
  const std::string fresh = path + ".new";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (fresh.size() >= sizeof(address.sun_path)) return path + " is too long for a socket's name (103 characters)";
  std::memcpy(address.sun_path, fresh.c_str(), fresh.size() + 1);
  listener_.reset(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener_.valid()) return SystemError("socket");
  unlink(fresh.c_str());
  if (bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return SystemError("bind " + fresh);
  }
  if (chmod(fresh.c_str(), mode) != 0) return SystemError("chmod " + fresh);
  if (listen(listener_.get(), 128) != 0) return SystemError("listen at " + fresh);
  // Under its own name only now, so that who sees it can connect.
  if (rename(fresh.c_str(), path.c_str()) != 0) return SystemError("rename " + fresh + " to " + path);
  path_ = path;
  return {};
}

void Server::Run() {
  for (;;) {
    pollfd waits[] = {{listener_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    if (poll(waits, 2, -1) < 0 && errno != EINTR) return;
    if ((waits[1].revents & POLLIN) != 0) return;
    ReapFinished();
    if ((waits[0].revents & POLLIN) != 0) Accept();
  }
}

void Server::Stop() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(stop_.get(), &one, sizeof(one));
}

void Server::ReapFinished() {
  connections_.remove_if([](Connection& connection) {
    if (connection.finished) connection.thread.join();
    return connection.finished.load();
  });
}

void Server::Accept() {
  UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket.valid() || connections_.size() >= kMaxConnections) return;
  ucred peer{};
  socklen_t size = sizeof(peer);
  getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size);
  const auto of_peer =
      std::count_if(connections_.begin(), connections_.end(), [&](const auto& c) { return c.peer == peer.pid; });
  if (peer.pid != 0 && static_cast<std::size_t>(of_peer) >= kMaxConnectionsOfOne) return;
  Connection& connection = connections_.emplace_back();
  connection.peer = peer.pid;
  connection.socket = std::move(socket);
  try {
    connection.thread = std::thread([this, &connection] {
      ServeConnection(*this, connection.socket.get(), connection.peer);
      // The client sees the end now, not when somebody reaps us.
      shutdown(connection.socket.get(), SHUT_RDWR);
      connection.finished = true;
    });
  } catch (const std::system_error& error) {
    std::fprintf(stderr, "softgpud: refused a connection: %s\n", error.what());
    connections_.pop_back();
  }
}

std::size_t Server::SessionsOf(pid_t owner) const {
  if (owner == 0) return 0;
  return static_cast<std::size_t>(
      std::count_if(sessions_.begin(), sessions_.end(), [&](const auto& s) { return s.second.owner == owner; }));
}

std::vector<DeviceDescription> Server::Describe() const {
  std::vector<DeviceDescription> descriptions;
  for (const auto& device : devices_) descriptions.push_back(device->Describe());
  return descriptions;
}

std::shared_ptr<Session> Server::Open(pid_t owner, const request::OpenSession& open, const SessionState* state,
                                      Token& token, cuda_abi::CUresult& result) {
  result = cuda_abi::CUDA_ERROR_INVALID_VALUE;
  if (!AreSound(open)) return nullptr;
  std::uint64_t number = 0;
  {
    const std::lock_guard lock(mutex_);
    result = cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
    if (sessions_.size() >= kMaxSessions || SessionsOf(owner) >= kMaxSessionsOfOne) return nullptr;
    number = ++session_count_;
  }
  result = cuda_abi::CUDA_ERROR_INVALID_VALUE;
  std::vector<std::unique_ptr<Arena>> arenas;
  for (std::size_t i = 0; i < open.device_count; ++i) {
    const DeviceRange& range = open.devices[i];
    const auto device =
        std::find_if(devices_.begin(), devices_.end(), [&](const auto& d) { return d->uuid() == range.uuid; });
    if (device == devices_.end()) return nullptr;
    auto arena = Arena::Create(**device, range.base, range.bytes);
    if (arena == nullptr) {
      result = cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
      return nullptr;
    }
    arenas.push_back(std::move(arena));
  }
  auto session = std::make_shared<Session>(number, std::move(arenas), shared_);
  if (state != nullptr) {
    result = session->Import(*state);
    if (result != cuda_abi::CUDA_SUCCESS) return nullptr;
  }
  if (getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size())) return nullptr;
  const std::lock_guard lock(mutex_);
  sessions_.emplace(token, OwnedSession{session, owner});
  result = cuda_abi::CUDA_SUCCESS;
  return session;
}

std::shared_ptr<Session> Server::Find(const Token& token) const {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(token);
  return found == sessions_.end() ? nullptr : found->second.session;
}

void Server::Close(const Token& token) {
  std::shared_ptr<Session> session;
  {
    const std::lock_guard lock(mutex_);
    const auto found = sessions_.find(token);
    if (found == sessions_.end()) return;
    session = std::move(found->second.session);
    sessions_.erase(found);
    locked_.erase(session.get());
  }
  session->Close();
  locked_changed_.notify_all();
}

void Server::SetLocked(const Session* session, bool locked) {
  {
    const std::lock_guard lock(mutex_);
    if (locked) {
      locked_.insert(session);
    } else {
      locked_.erase(session);
    }
  }
  locked_changed_.notify_all();
}

bool Server::WaitFor(Deadline deadline, const std::function<bool()>& condition) {
  std::unique_lock lock(mutex_);
  while (!stopping_ && !condition()) {
    if (!deadline) {
      locked_changed_.wait(lock);
    } else if (locked_changed_.wait_until(lock, *deadline) == std::cv_status::timeout) {
      return !stopping_ && condition();
    }
  }
  return !stopping_;
}

bool Server::WaitUntilNoOtherIsLocked(const Session* session, Deadline deadline) {
  return WaitFor(deadline, [&] { return locked_.size() == locked_.count(session) || session->is_closed(); });
}

bool Server::WaitUntilSomeIsLocked(Deadline deadline) {
  return WaitFor(deadline, [&] { return !locked_.empty(); });
}

void Server::WaitOut(const Session* session, Deadline deadline) {
  WaitFor(deadline, [&] { return session != nullptr && session->is_closed(); });
}

std::size_t Server::session_count() const {
  const std::lock_guard lock(mutex_);
  return sessions_.size();
}

}  // namespace softgpu
