// The daemon's devices, sessions and connections.
//
// One thread per connection, at most kMaxConnections. A connection that sends anything but a well-formed request is
// closed; the connection that opened a session ends it by ending.
//
// Thread safety: Run() in one thread, Stop() from any.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "plugins/softgpu/daemon/device.h"
#include "plugins/softgpu/daemon/fault_table.h"
#include "plugins/softgpu/daemon/session.h"
#include "plugins/softgpu/wire/unique_fd.h"

namespace softgpu {

class Server {
 public:
  static constexpr std::size_t kMaxConnections = 2048;
  static constexpr std::size_t kMaxConnectionsOfOne = 300;  // Process, so that none can keep the others out.
  static constexpr std::size_t kMaxSessions = 256;
  static constexpr std::size_t kMaxSessionsOfOne = 4;

  explicit Server(const std::vector<DeviceDescription>& devices, std::uint32_t driver_version = kDefaultDriverVersion);
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

  std::uint32_t driver_version() const { return driver_version_; }
  FaultTable& faults() { return faults_; }

  // Which sessions' processes are locked. False from a wait: it was not so in time, or the server stops.
  using Deadline = std::optional<std::chrono::steady_clock::time_point>;
  void SetLocked(const Session* session, bool locked);
  bool WaitUntilNoOtherIsLocked(const Session* session, Deadline deadline);
  bool WaitUntilSomeIsLocked(Deadline deadline);
  // Waits for the deadline, or until the server stops or the session (null: none) ends.
  void WaitOut(const Session* session, Deadline deadline);
  std::size_t session_count() const;

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
  bool WaitFor(Deadline deadline, const std::function<bool()>& condition);

  std::vector<std::unique_ptr<Device>> devices_;
  SharedMemoryTable shared_;
  UniqueFd listener_;
  UniqueFd stop_;  // An eventfd.
  std::string path_;
  struct OwnedSession {
    std::shared_ptr<Session> session;  // Shared with the channels of the session's client.
    pid_t owner = 0;                   // 0: in a pid namespace that we do not see.
  };
  const std::uint32_t driver_version_;
  FaultTable faults_;
  mutable std::mutex mutex_;  // Guards sessions_, session_count_, locked_ and stopping_.
  std::condition_variable locked_changed_;
  std::set<const Session*> locked_;
  bool stopping_ = false;
  std::map<Token, OwnedSession> sessions_;
  std::uint64_t session_count_ = 0;
  std::list<Connection> connections_;  // Of Run()'s thread.
};

}  // namespace softgpu
