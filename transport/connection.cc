#include "transport/connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/base/check.h"
#include "transport/identity.h"
#include "transport/protocol.h"

namespace gpumig {
namespace {

constexpr std::string_view kHeadEnd = "\r\n\r\n";
constexpr std::chrono::seconds kLastWrite{1};
constexpr std::size_t kMaxDrainedBytes = 2 * kMaxChunkBodyBytes;

// For who speaks plain HTTP to a TLS port: the one answer that goes out in clear, and it says nothing of us.
std::string SpeakTls() {
  const std::string body =
      ToHttpResponse(Error(ErrorCode::kInvalidArgument, "this port speaks TLS 1.3 only").WithNextStep("use https"))
          .body;
  return fmt::format("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}", body.size(),
                     body);
}

// httplib takes lines of any length and any number of them, so what it may see is limited here.
Result<void> CheckHead(std::string_view head) {
  std::size_t count = 0;
  while (!head.empty()) {
    const std::size_t end = head.find("\r\n");
    if (end > kMaxHeaderLineBytes) {
      return MakeError(ErrorCode::kInvalidArgument, "a header line has more than {} bytes", kMaxHeaderLineBytes);
    }
    if (++count > kMaxHeaderCount) {
      return MakeError(ErrorCode::kInvalidArgument, "the request has more than {} headers", kMaxHeaderCount);
    }
    head.remove_prefix(end + 2);
  }
  return Ok();
}

}  // namespace

Connection::Connection(UniqueFd fd, TlsHandle tls, HttpPeer peer, int stop_fd)
    : fd_(std::move(fd)),
      tls_(std::move(tls)),
      peer_(std::move(peer)),
      stop_fd_(stop_fd),
      state_(tls_ ? State::kHandshaking : State::kReadingHead) {}

Result<void> Connection::Advance() {
  if (state_ == State::kHandshaking) GPUMIG_TRY(AdvanceHandshake());
  if (state_ == State::kReadingHead) GPUMIG_TRY(AdvanceHead());
  if (state_ == State::kDraining) AdvanceDraining();
  return Ok();
}

Result<void> Connection::AdvanceHandshake() {
  ERR_clear_error();
  const int returned = SSL_accept(tls_.get());
  if (returned == 1) {
    const X509* certificate = SSL_get0_peer_certificate(tls_.get());
    GPUMIG_CHECK(certificate != nullptr);  // the context demands one
    Result<std::string> node = NodeNameOf(certificate);
    if (!node) return Refuse(node.error());
    peer_.node = std::move(*node);
    peer_.serial_number = SerialNumberOf(certificate);
    state_ = State::kReadingHead;
    return Ok();
  }
  const int reason = SSL_get_error(tls_.get(), returned);
  if (reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE) {
    waits_ = reason == SSL_ERROR_WANT_READ ? Waits::kReadable : Waits::kWritable;
    return Ok();
  }
  const unsigned long code = ERR_peek_error();
  const long verified = SSL_get_verify_result(tls_.get());
  Error error = MakeError(ErrorCode::kUntrusted, "TLS handshake with {}: {}", peer_.address, TakeOpensslError());
  if (verified != X509_V_OK) error.AddContext(X509_verify_cert_error_string(verified));
  if (ERR_GET_REASON(code) == SSL_R_HTTP_REQUEST) {
    const std::string answer = SpeakTls();
    send(fd_.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
  }
  if (code == 0) error = MakeError(ErrorCode::kUnavailable, "{} left during the TLS handshake", peer_.address);
  return Refuse(std::move(error));
}

Result<void> Connection::AdvanceHead() {
  std::array<char, 4096> buffer;
  while (true) {
    const std::size_t end = input_.find(kHeadEnd);
    if (end != std::string::npos && end <= kMaxHeadBytes) {
      Result<void> good = CheckHead(std::string_view(input_).substr(0, end + 2));
      if (!good) return Refuse(good.error());
      state_ = State::kHeadComplete;
      return Ok();
    }
    if (input_.size() > kMaxHeadBytes) {
      return Refuse(MakeError(ErrorCode::kInvalidArgument, "the request's head has more than {} bytes", kMaxHeadBytes));
    }
    const Attempt attempt = TryRead(buffer);
    switch (attempt.outcome) {
      case Attempt::Outcome::kBytes:
        input_.append(buffer.data(), attempt.size);
        break;
      case Attempt::Outcome::kWait:
        return Ok();
      case Attempt::Outcome::kEnd:
      case Attempt::Outcome::kBroken:
        state_ = State::kClosed;
        return Ok();
    }
  }
}

void Connection::ExpectNextHead() {
  state_ = State::kReadingHead;
  input_.erase(0, std::exchange(consumed_, 0));
}

void Connection::StartDraining() {
  state_ = State::kDraining;
  input_.clear();
  consumed_ = 0;
  if (tls_ && SSL_is_init_finished(tls_.get())) SSL_shutdown(tls_.get());
  ERR_clear_error();
  shutdown(fd_.get(), SHUT_WR);
  waits_ = Waits::kReadable;
}

void Connection::AdvanceDraining() {
  std::array<char, 16384> buffer;
  while (drained_bytes_ <= kMaxDrainedBytes) {
    const ssize_t count = recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (count > 0) {
      drained_bytes_ += static_cast<std::size_t>(count);
      continue;
    }
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    break;
  }
  state_ = State::kClosed;
}

Result<void> Connection::Refuse(Error error) {
  StartDraining();
  return error;
}

Connection::Attempt Connection::FromTls(int returned) {
  switch (SSL_get_error(tls_.get(), returned)) {
    case SSL_ERROR_WANT_READ:
      waits_ = Waits::kReadable;
      return {Attempt::Outcome::kWait};
    case SSL_ERROR_WANT_WRITE:
      waits_ = Waits::kWritable;
      return {Attempt::Outcome::kWait};
    case SSL_ERROR_ZERO_RETURN:
      return {Attempt::Outcome::kEnd};
    default:
      ERR_clear_error();
      return {Attempt::Outcome::kBroken};
  }
}

Connection::Attempt Connection::TryRead(std::span<char> bytes) {
  if (tls_) {
    ERR_clear_error();
    const int count =
        SSL_read(tls_.get(), bytes.data(), static_cast<int>(std::min(bytes.size(), std::size_t{1} << 20)));
    if (count > 0) return {Attempt::Outcome::kBytes, static_cast<std::size_t>(count)};
    return FromTls(count);
  }
  const ssize_t count = recv(fd_.get(), bytes.data(), bytes.size(), 0);
  if (count > 0) return {Attempt::Outcome::kBytes, static_cast<std::size_t>(count)};
  if (count == 0) return {Attempt::Outcome::kEnd};
  waits_ = Waits::kReadable;
  if (errno == EAGAIN || errno == EINTR) return {Attempt::Outcome::kWait};
  return {Attempt::Outcome::kBroken};
}

Connection::Attempt Connection::TryWrite(std::string_view bytes) {
  if (tls_) {
    ERR_clear_error();
    const int count =
        SSL_write(tls_.get(), bytes.data(), static_cast<int>(std::min(bytes.size(), std::size_t{1} << 20)));
    if (count > 0) return {Attempt::Outcome::kBytes, static_cast<std::size_t>(count)};
    return FromTls(count);
  }
  const ssize_t count = send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  if (count >= 0) return {Attempt::Outcome::kBytes, static_cast<std::size_t>(count)};
  waits_ = Waits::kWritable;
  if (errno == EAGAIN || errno == EINTR) return {Attempt::Outcome::kWait};
  return {Attempt::Outcome::kBroken};
}

Result<void> Connection::WaitFor(Waits waits, Clock::time_point deadline) const {
  std::array<pollfd, 2> polled{
      {{fd_.get(), waits == Waits::kReadable ? short{POLLIN} : short{POLLOUT}, 0}, {stop_fd_, POLLIN, 0}}};
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) return MakeError(ErrorCode::kDeadlineExceeded, "{} is too slow", peer_.ToString());
    const int count =
        poll(polled.data(), polled.size(), static_cast<int>(std::min<std::int64_t>(left.count(), 60'000)));
    if (count < 0 && errno != EINTR) return Error::FromErrno(errno, "poll");
    if (count <= 0) continue;
    if (polled[1].revents == 0 || polled[0].revents != 0) return Ok();
    if (waits == Waits::kReadable) return MakeError(ErrorCode::kCancelled, "the server stops");
    // A response that is under way may end, if the peer takes it now.
    deadline = std::min(deadline, Clock::now() + kLastWrite);
    polled[1].fd = -1;
  }
}

Result<std::size_t> Connection::ReadSome(std::span<char> bytes, Clock::time_point deadline) {
  if (bytes.empty()) return std::size_t{0};
  if (consumed_ < input_.size()) {
    const std::size_t size = std::min(bytes.size(), input_.size() - consumed_);
    std::memcpy(bytes.data(), input_.data() + consumed_, size);
    consumed_ += size;
    return size;
  }
  while (true) {
    const Attempt attempt = TryRead(bytes);
    switch (attempt.outcome) {
      case Attempt::Outcome::kBytes:
        return attempt.size;
      case Attempt::Outcome::kWait:
        GPUMIG_TRY(WaitFor(waits_, deadline));
        break;
      case Attempt::Outcome::kEnd:
      case Attempt::Outcome::kBroken:
        return MakeError(ErrorCode::kUnavailable, "{} left in the middle of a request", peer_.ToString());
    }
    if (Clock::now() >= deadline) return MakeError(ErrorCode::kDeadlineExceeded, "{} is too slow", peer_.ToString());
  }
}

Result<void> Connection::ReadExactly(std::span<std::byte> bytes, Clock::time_point deadline) {
  auto rest = std::span(reinterpret_cast<char*>(bytes.data()), bytes.size());
  while (!rest.empty()) {
    rest = rest.subspan(GPUMIG_TRY(ReadSome(rest, deadline)));
    if (Clock::now() >= deadline) return MakeError(ErrorCode::kDeadlineExceeded, "{} is too slow", peer_.ToString());
  }
  return Ok();
}

Result<void> Connection::WriteAll(std::string_view bytes, Clock::time_point deadline) {
  while (!bytes.empty()) {
    const Attempt attempt = TryWrite(bytes);
    switch (attempt.outcome) {
      case Attempt::Outcome::kBytes:
        bytes.remove_prefix(attempt.size);
        break;
      case Attempt::Outcome::kWait:
        GPUMIG_TRY(WaitFor(waits_, deadline));
        break;
      case Attempt::Outcome::kEnd:
      case Attempt::Outcome::kBroken:
        return MakeError(ErrorCode::kUnavailable, "{} left before the response", peer_.ToString());
    }
    if (Clock::now() >= deadline) return MakeError(ErrorCode::kDeadlineExceeded, "{} is too slow", peer_.ToString());
  }
  return Ok();
}

}  // namespace gpumig
