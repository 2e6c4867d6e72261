#include "transport/http_server.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/base/bounded_queue.h"
#include "transport/certificates.h"
#include "transport/http_exchange.h"
#include "transport/listener.h"

namespace gpumig {
namespace {

using Clock = Connection::Clock;

constexpr std::chrono::seconds kDrainLimit{2};
constexpr std::chrono::milliseconds kAcceptPause{100};

Result<UniqueFd> MakeEvent() {
  UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return Error::FromErrno(errno, "eventfd");
  return fd;
}

void Signal(const UniqueFd& event) {
  const std::uint64_t one = 1;
  // Fails only where the event is signalled already.
  [[maybe_unused]] const ssize_t ignored = write(event.get(), &one, sizeof(one));
}

void Clear(const UniqueFd& event) {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t ignored = read(event.get(), &count, sizeof(count));
}

}  // namespace

class HttpServer::Poller {
 public:
  static Result<std::unique_ptr<Poller>> Start(Listener listener, TlsContextHandle context, Router router,
                                               const HttpServerOptions& options) {
    if (options.worker_count == 0 || options.max_connections == 0 || options.max_requests_per_node == 0 ||
        options.slowest_bytes_per_second == 0) {
      return MakeError(ErrorCode::kInvalidArgument, "a server needs workers, connections, requests and a rate above 0");
    }
    // OpenSSL writes to sockets whose peer may be gone.
    std::signal(SIGPIPE, SIG_IGN);
    std::unique_ptr<Poller> poller(new Poller(std::move(listener), std::move(context), std::move(router), options));
    poller->epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
    if (!poller->epoll_.valid()) return Error::FromErrno(errno, "epoll_create1");
    poller->stop_event_ = GPUMIG_TRY(MakeEvent());
    poller->wake_event_ = GPUMIG_TRY(MakeEvent());
    for (const int fd : {poller->listener_->fd(), poller->stop_event_.get(), poller->wake_event_.get()}) {
      GPUMIG_TRY(poller->Watch(fd, EPOLLIN, EPOLL_CTL_ADD));
    }
    poller->StartThreads();
    return poller;
  }

  ~Poller() { Stop(); }

  std::uint16_t port() const { return port_; }
  HttpServerCounts counts() const { return {accepted_.load(), refused_.load(), handled_.load()}; }

  void Stop() {
    stop_.request_stop();
    Signal(stop_event_);
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    // Closes what waited for a worker, or came back from one: its peers shall not wait for an answer.
    while (ready_.Pop(stop_.get_token())) continue;
    returned_.clear();
    nodes_.clear();
  }

 private:
  // A connection and what the poller remembers of it. Moves to a worker and back.
  struct Entry {
    std::unique_ptr<Connection> connection;
    bool admitted = false;  // counted in nodes_
    std::uint64_t request_count = 0;
    HttpExchange::Outcome outcome = HttpExchange::Outcome::kKeepConnection;
  };
  struct NodeUse {
    std::size_t connection_count = 0;
    std::size_t running_count = 0;
    std::deque<Entry> parked;  // wait for one of the node's running requests to end
  };

  Poller(Listener listener, TlsContextHandle context, Router router, const HttpServerOptions& options)
      : listener_(std::move(listener)),
        port_(listener_->port()),
        context_(std::move(context)),
        router_(std::move(router)),
        options_(options),
        ready_(options.max_connections) {}

  void StartThreads() {
    threads_.emplace_back([this] { Poll(); });
    for (std::size_t i = 0; i < options_.worker_count; ++i) threads_.emplace_back([this] { Work(); });
  }

  // ---- workers

  void Work() {
    HttpExchange exchange(router_, {options_.keep_alive_limit, options_.stall_limit, options_.slowest_bytes_per_second},
                          stop_.get_token());
    while (std::optional<Entry> entry = ready_.Pop(stop_.get_token())) {
      if (stop_.stop_requested()) break;
      Connection& connection = *entry->connection;
      const bool last = ++entry->request_count >= kMaxRequestsPerConnection || connection.refusal().has_value();
      entry->outcome = exchange.Run(connection, last);
      if (!connection.refusal()) ++handled_;
      if (stop_.stop_requested()) connection.StartDraining();
      {
        const std::lock_guard lock(returned_mutex_);
        returned_.push_back(std::move(*entry));
      }
      Signal(wake_event_);
    }
  }

  // ---- the polling thread; all below is its own

  void Poll() {
    std::array<epoll_event, 64> events{};
    while (!stop_.stop_requested()) {
      const int count = epoll_wait(epoll_.get(), events.data(), events.size(), MillisecondsToNextDeadline());
      for (int i = 0; i < count; ++i) {
        const int fd = events[static_cast<std::size_t>(i)].data.fd;
        if (fd == listener_->fd()) {
          AcceptAll();
        } else if (fd == wake_event_.get()) {
          TakeBack();
        } else if (fd != stop_event_.get()) {
          Serve(fd);
        }
      }
      CloseLate();
    }
    // Who comes now is told at once that nobody listens.
    listener_.reset();
    waiting_.clear();
  }

  Result<void> Watch(int fd, std::uint32_t what, int operation) {
    epoll_event event{};
    event.events = what;
    event.data.fd = fd;
    if (epoll_ctl(epoll_.get(), operation, fd, &event) != 0) return Error::FromErrno(errno, "epoll_ctl");
    return Ok();
  }

  void AcceptAll() {
    while (!stop_.stop_requested()) {
      Result<std::optional<Listener::Accepted>> accepted = listener_->Accept();
      if (!accepted && accepted.error().code() == ErrorCode::kResourceExhausted) {
        // Level-triggered: without the pause this would spin until somebody closes a descriptor.
        epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener_->fd(), nullptr);
        accept_again_ = Clock::now() + kAcceptPause;
        return;
      }
      if (!accepted) continue;
      if (!*accepted) return;
      ++accepted_;
      Add(std::move(**accepted));
    }
  }

  void Add(Listener::Accepted accepted) {
    const std::string address = accepted.peer.address;
    if (total_count_ >= options_.max_connections && !CloseLongestInHandshake()) {
      Report(address,
             MakeError(ErrorCode::kResourceExhausted, "all {} connections are in use", options_.max_connections));
      return;
    }
    TlsHandle tls;
    if (context_) {
      tls.reset(SSL_new(context_.get()));
      if (!tls || SSL_set_fd(tls.get(), accepted.fd.get()) != 1) {
        Report(address, MakeError(ErrorCode::kInternal, "set up TLS: {}", TakeOpensslError()));
        return;
      }
    }
    Entry entry;
    entry.connection = std::make_unique<Connection>(std::move(accepted.fd), std::move(tls), std::move(accepted.peer),
                                                    stop_event_.get());
    entry.connection->set_deadline(Clock::now() + (context_ ? options_.handshake_limit : options_.keep_alive_limit));
    ++total_count_;
    Keep(std::move(entry), EPOLL_CTL_ADD);
  }

  // Lets the connection go on, then puts it where its state belongs.
  void Keep(Entry entry, int operation) {
    Connection& connection = *entry.connection;
    const Connection::State before = connection.state();
    const bool had_begun = connection.head_begun();
    const Result<void> advanced = connection.Advance();
    if (!advanced) Report(connection.peer().address, advanced.error());
    if (!entry.admitted && IsIdentified(connection)) Admit(entry);
    switch (connection.state()) {
      case Connection::State::kHeadComplete:
        if (operation == EPOLL_CTL_MOD) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection.fd(), nullptr);
        Dispatch(std::move(entry));
        return;
      case Connection::State::kClosed:
        Drop(std::move(entry));
        return;
      case Connection::State::kDraining:
        if (before != Connection::State::kDraining) connection.set_deadline(Clock::now() + kDrainLimit);
        break;
      case Connection::State::kReadingHead:
        if (before == Connection::State::kHandshaking) connection.set_deadline(Clock::now() + options_.head_limit);
        if (connection.head_begun() && !had_begun) connection.set_deadline(Clock::now() + options_.head_limit);
        break;
      case Connection::State::kHandshaking:
        break;
    }
    const std::uint32_t what = connection.waits() == Connection::Waits::kReadable ? EPOLLIN : EPOLLOUT;
    if (!Watch(connection.fd(), what, operation)) {
      Drop(std::move(entry));
      return;
    }
    const int fd = connection.fd();
    waiting_.emplace(fd, std::move(entry));
  }

  void Serve(int fd) {
    const auto found = waiting_.find(fd);
    if (found == waiting_.end()) return;  // closed by an event before this one
    Entry entry = std::move(found->second);
    waiting_.erase(found);
    Keep(std::move(entry), EPOLL_CTL_MOD);
  }

  static bool IsIdentified(const Connection& connection) {
    return connection.state() == Connection::State::kReadingHead ||
           connection.state() == Connection::State::kHeadComplete;
  }

  void Admit(Entry& entry) {
    Connection& connection = *entry.connection;
    const HttpPeer& peer = connection.peer();
    entry.admitted = true;
    NodeUse& use = nodes_[peer.node];
    if (++use.connection_count > options_.max_connections_per_node) {
      connection.set_refusal(MakeError(ErrorCode::kResourceExhausted, "{} has {} connections to this node already",
                                       peer.ToString(), options_.max_connections_per_node));
    } else if (peer.is_local() && peer.uid != 0 && peer.uid != geteuid()) {
      connection.set_refusal(
          MakeError(ErrorCode::kPermissionDenied, "uid {} may not give orders to this agent", peer.uid)
              .WithNextStep("run the command as root"));
    } else if (options_.admit) {
      const Result<void> admitted = options_.admit(peer);
      if (!admitted) connection.set_refusal(admitted.error());
    }
    if (connection.refusal()) Report(peer.address, *connection.refusal());
  }

  void Dispatch(Entry entry) {
    NodeUse& use = nodes_[entry.connection->peer().node];
    if (use.running_count >= options_.max_requests_per_node) {
      use.parked.push_back(std::move(entry));
      return;
    }
    ++use.running_count;
    // Never waits: the queue has room for all connections there can be.
    ready_.Push(std::move(entry), stop_.get_token());
  }

  void TakeBack() {
    Clear(wake_event_);
    std::vector<Entry> returned;
    {
      const std::lock_guard lock(returned_mutex_);
      returned.swap(returned_);
    }
    for (Entry& entry : returned) {
      NodeUse& use = nodes_[entry.connection->peer().node];
      --use.running_count;
      if (!use.parked.empty()) {
        Entry next = std::move(use.parked.front());
        use.parked.pop_front();
        Dispatch(std::move(next));
      }
      Connection& connection = *entry.connection;
      if (entry.outcome == HttpExchange::Outcome::kKeepConnection) {
        connection.ExpectNextHead();
        connection.set_deadline(Clock::now() + options_.keep_alive_limit);
      } else {
        connection.StartDraining();
        connection.set_deadline(Clock::now() + kDrainLimit);
      }
      Keep(std::move(entry), EPOLL_CTL_ADD);
    }
  }

  // Closes the socket, which also takes it out of epoll.
  void Drop(Entry entry) {
    --total_count_;
    if (!entry.admitted) return;
    const auto node = nodes_.find(entry.connection->peer().node);
    if (--node->second.connection_count == 0) nodes_.erase(node);
  }

  bool CloseLongestInHandshake() {
    auto longest = waiting_.end();
    for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
      const Connection::State state = it->second.connection->state();
      if (state != Connection::State::kHandshaking && state != Connection::State::kDraining) continue;
      if (longest == waiting_.end() || it->second.connection->deadline() < longest->second.connection->deadline()) {
        longest = it;
      }
    }
    if (longest == waiting_.end()) return false;
    Report(longest->second.connection->peer().address,
           MakeError(ErrorCode::kResourceExhausted, "gave way to a newer connection"));
    Drop(std::move(longest->second));
    waiting_.erase(longest);
    return true;
  }

  int MillisecondsToNextDeadline() const {
    auto next = Clock::now() + std::chrono::minutes(1);
    if (accept_again_) next = std::min(next, *accept_again_);
    for (const auto& [fd, entry] : waiting_) next = std::min(next, entry.connection->deadline());
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now());
    return static_cast<int>(std::max<std::int64_t>(left.count(), 0));
  }

  void CloseLate() {
    const auto now = Clock::now();
    if (accept_again_ && *accept_again_ <= now && Watch(listener_->fd(), EPOLLIN, EPOLL_CTL_ADD)) accept_again_.reset();
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      const Connection& connection = *it->second.connection;
      if (connection.deadline() > now) {
        ++it;
        continue;
      }
      if (connection.state() == Connection::State::kHandshaking) {
        Report(connection.peer().address, MakeError(ErrorCode::kDeadlineExceeded, "no TLS handshake in time"));
      } else if (connection.head_begun()) {
        Report(connection.peer().address, MakeError(ErrorCode::kDeadlineExceeded, "no whole request head in time"));
      }
      Drop(std::move(it->second));
      it = waiting_.erase(it);
    }
  }

  void Report(const std::string& address, const Error& error) {
    ++refused_;
    if (options_.on_refused) options_.on_refused(address, error);
  }

  std::optional<Listener> listener_;  // of the polling thread while it runs
  const std::uint16_t port_;
  const TlsContextHandle context_;
  const Router router_;
  const HttpServerOptions options_;
  UniqueFd epoll_;
  UniqueFd stop_event_;  // readable from Stop() on
  UniqueFd wake_event_;  // readable while returned_ holds entries
  std::stop_source stop_;
  std::atomic<std::uint64_t> accepted_{0};
  std::atomic<std::uint64_t> refused_{0};
  std::atomic<std::uint64_t> handled_{0};

  // Of the polling thread.
  std::unordered_map<int, Entry> waiting_;
  std::map<std::string, NodeUse> nodes_;
  std::size_t total_count_ = 0;
  std::optional<Clock::time_point> accept_again_;

  BoundedQueue<Entry> ready_;
  std::mutex returned_mutex_;
  std::vector<Entry> returned_;  // guarded by returned_mutex_

  std::vector<std::thread> threads_;
};

Result<std::unique_ptr<HttpServer>> HttpServer::ListenTls(const std::string& host, std::uint16_t port,
                                                          const NodeIdentity& identity, Router router,
                                                          const HttpServerOptions& options) {
  GPUMIG_TRY(CheckDates(identity, CertificateTimeNow()), "listen on {}:{}", host, port);
  TlsContextHandle context = GPUMIG_TRY(MakeServerContext(identity), "listen on {}:{}", host, port);
  Listener listener = GPUMIG_TRY(Listener::Tcp(host, port));
  std::unique_ptr<Poller> poller =
      GPUMIG_TRY(Poller::Start(std::move(listener), std::move(context), std::move(router), options));
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(poller)));
}

Result<std::unique_ptr<HttpServer>> HttpServer::ListenUnix(const std::filesystem::path& path, unsigned mode,
                                                           Router router, const HttpServerOptions& options) {
  Listener listener = GPUMIG_TRY(Listener::Unix(path, mode));
  std::unique_ptr<Poller> poller = GPUMIG_TRY(Poller::Start(std::move(listener), nullptr, std::move(router), options));
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(poller)));
}

HttpServer::HttpServer(std::unique_ptr<Poller> poller) : poller_(std::move(poller)) {}
HttpServer::~HttpServer() = default;
std::uint16_t HttpServer::port() const { return poller_->port(); }
HttpServerCounts HttpServer::counts() const { return poller_->counts(); }
void HttpServer::Stop() { poller_->Stop(); }

}  // namespace gpumig
