// Connection: one accepted socket of HttpServer, with TLS on TCP and without on a unix socket. For HttpServer's own
// use.
//
// States: handshaking, then reading a head, then (a worker's) reading a body and writing a response, then a head again
// or draining. Advance() never blocks and is the poller's; Read() and Write() block up to a deadline and are a
// worker's.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/base/result.h"
#include "core/base/unique_fd.h"
#include "transport/http_message.h"
#include "transport/openssl_handles.h"

namespace gpumig {

// Ownership: owns the socket. Thread safety: one thread at a time; HttpServer hands it from poller to worker and back.
class Connection {
 public:
  using Clock = std::chrono::steady_clock;

  enum class State { kHandshaking, kReadingHead, kHeadComplete, kDraining, kClosed };
  enum class Waits { kReadable, kWritable };

  // `fd` is non-blocking. `tls` is null on a unix socket. `stop_fd` becomes readable, and stays so, when the server
  // stops: blocking calls then give up.
  Connection(UniqueFd fd, TlsHandle tls, HttpPeer peer, int stop_fd);

  // Goes on as far as it can without blocking. The state then says what is next; while handshaking, reading a head or
  // draining, waits() says what for. Errors: why a peer was refused; the connection is draining or closed then.
  Result<void> Advance();

  State state() const { return state_; }
  Waits waits() const { return waits_; }
  int fd() const { return fd_.get(); }
  const HttpPeer& peer() const { return peer_; }
  bool head_begun() const { return state_ == State::kReadingHead && !input_.empty(); }
  Clock::time_point deadline() const { return deadline_; }
  void set_deadline(Clock::time_point deadline) { deadline_ = deadline; }

  // Set: each request is answered with it, and no handler runs.
  const std::optional<Error>& refusal() const { return refusal_; }
  void set_refusal(Error error) { refusal_ = std::move(error); }

  // Blocking, for workers. Errors: kDeadlineExceeded; kUnavailable, the peer is gone; kCancelled, the server stops.
  Result<void> ReadExactly(std::span<std::byte> bytes, Clock::time_point deadline);
  Result<std::size_t> ReadSome(std::span<char> bytes, Clock::time_point deadline);
  Result<void> WriteAll(std::string_view bytes, Clock::time_point deadline);

  // After a response, before the next head.
  void ExpectNextHead();
  // Says goodbye, then throws away what still comes, so that a peer which is still sending reads our last words
  // instead of a reset.
  void StartDraining();

 private:
  // What one try at the socket came to.
  struct Attempt {
    enum class Outcome { kBytes, kEnd, kWait, kBroken } outcome;
    std::size_t size = 0;
  };
  Attempt TryRead(std::span<char> bytes);
  Attempt TryWrite(std::string_view bytes);
  Attempt FromTls(int returned);

  Result<void> AdvanceHandshake();
  Result<void> AdvanceHead();
  void AdvanceDraining();
  Result<void> Refuse(Error error);
  Result<void> WaitFor(Waits waits, Clock::time_point deadline) const;

  UniqueFd fd_;
  TlsHandle tls_;
  HttpPeer peer_;
  const int stop_fd_;
  State state_;
  Waits waits_ = Waits::kReadable;
  Clock::time_point deadline_{};
  std::optional<Error> refusal_;
  std::string input_;         // a head, and what came behind it in the same read
  std::size_t consumed_ = 0;  // of input_
  std::size_t drained_bytes_ = 0;
};

}  // namespace gpumig
