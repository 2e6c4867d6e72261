// The daemon's devices, sessions and connections.
//
// One thread per connection, at most kMaxConnections. A connection that sends anything but a well-formed request is
// closed; the connection that opened a session ends it by ending.
//
// Thread safety: Run() in one thread, Stop() from any.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "plugins/softgpu/daemon/device.h"
#include "plugins/softgpu/daemon/session.h"
#include "plugins/softgpu/wire/unique_fd.h"

namespace softgpu {

class Server {
 public:
  static constexpr std::size_t kMaxConnections = 2048;
  static constexpr std::size_t kMaxConnectionsOfOne = 300;  // Process, so that none can keep the others out.
  static constexpr std::size_t kMaxSessions = 256;
  static constexpr std::size_t kMaxSessionsOfOne = 4;

  explicit Server(const std::vector<DeviceDescription>& devices);
  ~Server();

  // Listens at `path`, which appears when connections are accepted. The string is what is wrong.
  std::string Listen(const std::string& path, unsigned mode);
  // Serves until Stop().
  void Run();
  void Stop();

  // --- for connections ---
  std::vector<DeviceDescription> Describe() const;
  // Null, with `result` saying why. The token is what further channels attach with.
  std::shared_ptr<Session> Open(pid_t owner, const request::OpenSession& open, const SessionState* state, Token& token,
                                cuda_abi::CUresult& result);
  std::shared_ptr<Session> Find(const Token& token) const;
  void Close(const Token& token);

 private:
  struct Connection {
    UniqueFd socket;
    pid_t peer = 0;
    std::thread thread;
    std::atomic<bool> finished{false};
  };

  void Accept();
  void ReapFinished();
  std::size_t SessionsOf(pid_t owner) const;

  std::vector<std::unique_ptr<Device>> devices_;
  UniqueFd listener_;
  UniqueFd stop_;  // An eventfd.
  std::string path_;
  struct OwnedSession {
    std::shared_ptr<Session> session;  // Shared with the channels of the session's client.
    pid_t owner = 0;                   // 0: in a pid namespace that we do not see.
  };
  mutable std::mutex mutex_;  // Guards sessions_ and session_count_.
  std::map<Token, OwnedSession> sessions_;
  std::uint64_t session_count_ = 0;
  std::list<Connection> connections_;  // Of Run()'s thread.
};

}  // namespace softgpu
