#include "transport/http_exchange.h"

#include <httplib.h>

#include <algorithm>
#include <charconv>
#include <exception>
#include <optional>

#include "core/base/check.h"

namespace gpumig {
namespace {

// What httplib reads from and writes to. The head has been read and checked before, so these reads never wait.
class ConnectionStream : public httplib::Stream {
 public:
  ConnectionStream(Connection& connection, ExchangeLimits limits)
      : connection_(connection), limits_(limits), read_deadline_(Connection::Clock::now() + limits.stall) {}

  using httplib::Stream::write;

  bool is_readable() const override { return true; }
  bool is_writable() const override { return true; }
  ssize_t read(char* bytes, size_t size) override {
    const Result<std::size_t> count = connection_.ReadSome(std::span(bytes, size), read_deadline_);
    return count ? static_cast<ssize_t>(*count) : -1;
  }
  ssize_t write(const char* bytes, size_t size) override {
    const auto at_slowest = std::chrono::milliseconds(1000 * size / limits_.slowest_bytes_per_second);
    const auto deadline = Connection::Clock::now() + limits_.stall + at_slowest;
    if (connection_.WriteAll(std::string_view(bytes, size), deadline)) return static_cast<ssize_t>(size);
    write_failed_ = true;
    return -1;
  }
  void get_remote_ip_and_port(std::string& address, int& port) const override { ClearAddress(address, port); }
  void get_local_ip_and_port(std::string& address, int& port) const override { ClearAddress(address, port); }
  // httplib refuses descriptors that select() cannot hold; here it has none to wait for.
  int socket() const override { return -1; }

  bool write_failed() const { return write_failed_; }

 private:
  static void ClearAddress(std::string& address, int& port) {
    address.clear();
    port = 0;
  }

  Connection& connection_;
  const ExchangeLimits limits_;
  const Connection::Clock::time_point read_deadline_;
  bool write_failed_ = false;
};

// Bodies come with a length, as they are. What else HTTP offers is a way to fill our memory.
Result<std::size_t> BodySize(const httplib::Request& request, std::size_t limit_bytes) {
  for (const char* header : {"Transfer-Encoding", "Content-Encoding", "Range", "Upgrade"}) {
    if (request.has_header(header)) return MakeError(ErrorCode::kInvalidArgument, "header {} is not taken", header);
  }
  const std::size_t count = request.get_header_value_count("Content-Length");
  if (count == 0) return std::size_t{0};
  const std::string text = request.get_header_value("Content-Length");
  std::uint64_t size = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
  if (count > 1 || error != std::errc() || end != text.data() + text.size()) {
    return MakeError(ErrorCode::kInvalidArgument, "Content-Length is not one number");
  }
  if (size > limit_bytes) {
    return MakeError(ErrorCode::kInvalidArgument, "the body has {} bytes; at most {} are taken here", size,
                     limit_bytes);
  }
  return static_cast<std::size_t>(size);
}

}  // namespace

class HttpExchange::Engine : public httplib::Server {
 public:
  Engine(const Router& router, ExchangeLimits limits, std::stop_token stop)
      : router_(router), limits_(limits), stop_(std::move(stop)) {
    set_keep_alive_timeout(std::chrono::floor<std::chrono::seconds>(limits.keep_alive).count());
    set_keep_alive_max_count(kMaxRequestsPerConnection);
    set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      Serve(request, response);
      return HandlerResponse::Handled;
    });
  }

  Outcome Run(Connection& connection, bool last_on_connection) {
    connection_ = &connection;
    body_left_unread_ = true;  // what httplib refuses by itself does not reach Answer()
    ConnectionStream stream(connection, limits_);
    bool asked_to_close = false;
    const bool good = Process(*this, stream, last_on_connection, asked_to_close);
    connection_ = nullptr;
    const bool keep = good && !last_on_connection && !asked_to_close && !body_left_unread_ && !stream.write_failed();
    return keep ? Outcome::kKeepConnection : Outcome::kCloseConnection;
  }

 private:
  // process_request() took four more arguments in 0.15. A template, so that only the one that exists is compiled.
  template <typename Self>
  static bool Process(Self& self, httplib::Stream& stream, bool close, bool& asked_to_close) {
    const std::string no_address;
    if constexpr (requires {
                    self.process_request(stream, no_address, 0, no_address, 0, close, asked_to_close, nullptr);
                  }) {
      return self.process_request(stream, no_address, 0, no_address, 0, close, asked_to_close, nullptr);
    } else {
      return self.process_request(stream, close, asked_to_close, nullptr);
    }
  }

  void Serve(const httplib::Request& request, httplib::Response& response) {
    GPUMIG_CHECK(connection_ != nullptr);
    Result<HttpResponse> answer = Answer(request);
    HttpResponse out = answer ? std::move(*answer) : ToHttpResponse(answer.error());
    response.status = out.status;
    // An error may have left a body unread, and what is unread would be taken for the next request.
    if (body_left_unread_) response.set_header("Connection", "close");
    response.body = std::move(out.body);
    response.set_header("Content-Type", out.content_type);
  }

  Result<HttpResponse> Answer(const httplib::Request& request) {
    body_left_unread_ = request.has_header("Content-Length") || request.has_header("Transfer-Encoding");
    if (connection_->refusal()) return *connection_->refusal();
    if (request.path.find('\0') != std::string::npos) {
      return MakeError(ErrorCode::kInvalidArgument, "the path holds a zero byte");
    }
    Router::Match match = GPUMIG_TRY(router_.Find(request.method, request.path));
    const std::size_t body_bytes = GPUMIG_TRY(BodySize(request, match.route->body_limit_bytes));
    HttpRequest ours;
    ours.body.resize(body_bytes);
    const auto at_slowest = std::chrono::milliseconds(1000 * body_bytes / limits_.slowest_bytes_per_second);
    GPUMIG_TRY(connection_->ReadExactly(ours.body, Connection::Clock::now() + limits_.stall + at_slowest),
               "read a body of {} bytes", body_bytes);
    body_left_unread_ = false;
    ours.method = request.method;
    ours.path = request.path;
    ours.parameters = std::move(match.parameters);
    ours.query = {request.params.begin(), request.params.end()};
    ours.peer = connection_->peer();
    ours.stop = stop_;
    return Call(match.route->handler, ours);
  }

  // A handler that throws is a bug of ours, and must not cost the other requests their server.
  static Result<HttpResponse> Call(const HttpHandler& handler, const HttpRequest& request) {
    try {
      return handler(request);
    } catch (const std::exception& error) {
      return MakeError(ErrorCode::kInternal, "{} {} failed: {}", request.method, request.path, error.what());
    }
  }

  const Router& router_;
  const ExchangeLimits limits_;
  const std::stop_token stop_;
  Connection* connection_ = nullptr;  // while Run() runs
  bool body_left_unread_ = false;
};

HttpExchange::HttpExchange(const Router& router, ExchangeLimits limits, std::stop_token stop)
    : engine_(std::make_unique<Engine>(router, limits, std::move(stop))) {}

HttpExchange::~HttpExchange() = default;

HttpExchange::Outcome HttpExchange::Run(Connection& connection, bool last_on_connection) {
  GPUMIG_CHECK(connection.state() == Connection::State::kHeadComplete);
  return engine_->Run(connection, last_on_connection);
}

}  // namespace gpumig
