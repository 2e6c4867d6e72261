// CutProxy: passes TCP connections through to a server of this host, and cuts them where a test says.
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "core/base/unique_fd.h"
#include "tests/support/matchers.h"

namespace gpumig {

// Ownership: owns its threads, which end with it.
class CutProxy {
 public:
  enum class Cut { kWhenReached, kAtTheAnswer };

  // `limit_of(n)`: how many bytes connection n (from 0) carries towards the server before it is reset: at once, or when
  // the server next answers, so that it has certainly done what it was asked.
  CutProxy(std::uint16_t server_port, std::function<std::uint64_t(int)> limit_of, Cut cut = Cut::kWhenReached)
      : server_port_(server_port),
        limit_of_(std::move(limit_of)),
        cut_(cut),
        listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = Loopback(0);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), size), 0);
    EXPECT_EQ(getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    EXPECT_EQ(listen(listener_.get(), 16), 0);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::jthread([this](const std::stop_token& stop) { AcceptAll(stop); });
  }
  ~CutProxy() {
    acceptor_.request_stop();
    acceptor_.join();
    threads_.clear();
  }

  std::uint16_t port() const { return port_; }
  int connection_count() const { return connection_count_; }
  int cut_count() const { return cut_count_; }

 private:
  static sockaddr_in Loopback(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }

  void AcceptAll(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      pollfd polled{listener_.get(), POLLIN, 0};
      if (poll(&polled, 1, 20) <= 0) continue;
      UniqueFd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      UniqueFd server(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      const sockaddr_in address = Loopback(server_port_);
      if (connect(server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) continue;
      const std::uint64_t limit = limit_of_(connection_count_++);
      threads_.emplace_back([this, client = client.Release(), server = server.Release(), limit](
                                const std::stop_token& own) { Pass(UniqueFd(client), UniqueFd(server), limit, own); });
    }
  }

  void Pass(UniqueFd client, UniqueFd server, std::uint64_t limit, const std::stop_token& stop) {
    std::array<char, 65536> buffer;
    std::uint64_t passed = 0;
    while (!stop.stop_requested()) {
      std::array<pollfd, 2> polled{{{client.get(), POLLIN, 0}, {server.get(), POLLIN, 0}}};
      if (poll(polled.data(), polled.size(), 20) <= 0) continue;
      if (polled[0].revents != 0) {
        const std::uint64_t room = cut_ == Cut::kWhenReached ? limit - passed : buffer.size();
        const ssize_t count = recv(client.get(), buffer.data(), std::min<std::uint64_t>(buffer.size(), room), 0);
        if (count <= 0) return;
        send(server.get(), buffer.data(), static_cast<std::size_t>(count), MSG_NOSIGNAL);
        passed += static_cast<std::uint64_t>(count);
        if (passed >= limit && cut_ == Cut::kWhenReached) return Reset(client, server);
      }
      if (polled[1].revents != 0) {
        const ssize_t count = recv(server.get(), buffer.data(), buffer.size(), 0);
        if (count <= 0) return;
        if (passed >= limit) return Reset(client, server);
        send(client.get(), buffer.data(), static_cast<std::size_t>(count), MSG_NOSIGNAL);
      }
    }
  }

  // Zero linger: both ends see a reset, as when a link dies.
  void Reset(const UniqueFd& client, const UniqueFd& server) {
    ++cut_count_;
    const linger now{1, 0};
    setsockopt(client.get(), SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    setsockopt(server.get(), SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  }

  const std::uint16_t server_port_;
  const std::function<std::uint64_t(int)> limit_of_;
  const Cut cut_;
  UniqueFd listener_;
  std::uint16_t port_ = 0;
  std::atomic<int> connection_count_{0};
  std::atomic<int> cut_count_{0};
  std::vector<std::jthread> threads_;  // of the acceptor while it runs
  std::jthread acceptor_;
};

}  // namespace gpumig
