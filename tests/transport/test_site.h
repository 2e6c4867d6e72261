// A site for tests: an authority and node identities in a temporary directory, a server with an echo, raw TLS peers.
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "core/base/file.h"
#include "tests/support/matchers.h"
#include "transport/certificate_authority.h"
#include "transport/certificates.h"
#include "transport/http_client.h"
#include "transport/http_server.h"

namespace gpumig {

inline std::span<const std::byte> BytesOf(std::string_view text) { return std::as_bytes(std::span(text)); }

// An authority, and as many nodes as are asked for.
class TestSite {
 public:
  TestSite() {
    auto directory = TemporaryDirectory::Create(testing::TempDir(), "site");
    EXPECT_THAT(directory, IsOk());
    directory_.emplace(std::move(*directory));
    EXPECT_THAT(InitAuthority(path("ca")), IsOk());
  }

  std::filesystem::path path(const std::string& name) const { return directory_->path() / name; }

  // Issues to directory `options.node_name`, or to `directory` where given.
  std::filesystem::path Issue(const IssueOptions& options, std::string directory = {}) {
    if (directory.empty()) directory = options.node_name;
    EXPECT_THAT(IssueIdentity(path("ca"), path(directory), options), IsOk());
    return path(directory);
  }

  NodeIdentity Node(const std::string& name) {
    IssueOptions options;
    options.node_name = name;
    auto identity = LoadNodeIdentity(Issue(options));
    EXPECT_THAT(identity, IsOk());
    return *identity;
  }

 private:
  std::optional<TemporaryDirectory> directory_;
};

// An identity read without LoadNodeIdentity()'s checks: what a wrong or hostile node would use.
struct RawIdentity {
  explicit RawIdentity(const std::filesystem::path& directory)
      : certificate(*ParseCertificate(*ReadTextFile(directory / kNodeCertificateFile))),
        key(*ParseKey(*ReadTextFile(directory / kNodeKeyFile))) {}
  CertificateHandle certificate;
  KeyHandle key;
};

// A blocking TCP connection to a port of this host, with a limit on every wait.
class RawConnection {
 public:
  explicit RawConnection(std::uint16_t port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval limit{20, 0};
    setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    EXPECT_EQ(connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }

  int fd() const { return fd_.get(); }
  void Send(std::string_view bytes) { send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL); }

  // Until the peer closes or resets. Empty: it did not within `limit`.
  std::optional<std::string> ReadToEnd(std::chrono::milliseconds limit = std::chrono::seconds(20)) {
    std::string all;
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (true) {
      pollfd polled{fd_.get(), POLLIN, 0};
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      if (left.count() <= 0 || poll(&polled, 1, static_cast<int>(left.count())) <= 0) return std::nullopt;
      std::array<char, 4096> buffer;
      const ssize_t count = recv(fd_.get(), buffer.data(), buffer.size(), 0);
      if (count <= 0) return all;
      all.append(buffer.data(), static_cast<std::size_t>(count));
    }
  }

 private:
  UniqueFd fd_;
};

// A TLS client that does what it is told, with any certificate or none. It does not verify the server.
class RawTlsClient {
 public:
  RawTlsClient(std::uint16_t port, const RawIdentity* identity, int highest_version = TLS1_3_VERSION)
      : connection_(port), context_(SSL_CTX_new(TLS_client_method())) {
    SSL_CTX_set_max_proto_version(context_.get(), highest_version);
    if (identity != nullptr) {
      EXPECT_EQ(SSL_CTX_use_certificate(context_.get(), identity->certificate.get()), 1);
      EXPECT_EQ(SSL_CTX_use_PrivateKey(context_.get(), identity->key.get()), 1);
    }
    tls_.reset(SSL_new(context_.get()));
    SSL_set_fd(tls_.get(), connection_.fd());
  }

  // Shakes hands, sends `bytes`, and reads to the end. What came, or how TLS failed: in TLS 1.3 a client learns only
  // from its first read whether the server took its certificate.
  Result<std::string> Talk(std::string_view bytes) {
    ERR_clear_error();
    if (SSL_connect(tls_.get()) != 1) return MakeError(ErrorCode::kUntrusted, "{}", TakeOpensslError());
    if (SSL_write(tls_.get(), bytes.data(), static_cast<int>(bytes.size())) <= 0) {
      return MakeError(ErrorCode::kUntrusted, "{}", TakeOpensslError());
    }
    std::string all;
    std::array<char, 4096> buffer;
    while (true) {
      const int count = SSL_read(tls_.get(), buffer.data(), buffer.size());
      if (count > 0) {
        all.append(buffer.data(), static_cast<std::size_t>(count));
      } else if (SSL_get_error(tls_.get(), count) == SSL_ERROR_ZERO_RETURN) {
        return all;
      } else {
        return MakeError(ErrorCode::kUntrusted, "{}", TakeOpensslError());
      }
    }
  }

  RawConnection& connection() { return connection_; }
  SSL* tls() { return tls_.get(); }

 private:
  RawConnection connection_;
  TlsContextHandle context_;
  TlsHandle tls_;
};

// A server of node-b whose one handler counts its calls and echoes.
class EchoServer {
 public:
  explicit EchoServer(const NodeIdentity& identity, HttpServerOptions options = {}) {
    Router router;
    const HttpHandler echo = [this](const HttpRequest& request) -> Result<HttpResponse> {
      ++handled_;
      return HttpResponse{200, "text/plain", request.peer.node + ":" + std::string(request.BodyText())};
    };
    router.Add("POST", "/v1/echo", echo);
    router.Add("GET", "/v1/echo", echo);
    auto server = HttpServer::ListenTls("127.0.0.1", 0, identity, std::move(router), options);
    EXPECT_THAT(server, IsOk());
    server_ = std::move(*server);
  }

  std::uint16_t port() const { return server_->port(); }
  int handled() const { return handled_; }
  HttpServer& server() { return *server_; }

 private:
  std::atomic<int> handled_{0};
  std::unique_ptr<HttpServer> server_;  // last: its handlers use the counter
};

inline Result<HttpReply> Echo(const NodeIdentity& from, std::uint16_t port, std::string_view text = "hello",
                              const std::string& wanted = "node-b") {
  HttpClient client = GPUMIG_TRY(HttpClient::ToNode({wanted, "127.0.0.1", port}, from));
  return client.Send("POST", "/v1/echo", "text/plain", BytesOf(text));
}

}  // namespace gpumig
