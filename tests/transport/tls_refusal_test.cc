// Who may talk to whom. Every wrong identity is refused before any handler runs, and the side that is wrong learns why.
#include <thread>

#include "tests/transport/test_site.h"

namespace gpumig {
namespace {

constexpr std::string_view kRequest = "POST /v1/echo HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";

class TlsRefusalTest : public testing::Test {
 protected:
  // As `directory` without LoadNodeIdentity()'s checks.
  Result<std::string> TalkAs(const std::filesystem::path& directory) {
    const RawIdentity identity(directory);
    return RawTlsClient(server_.port(), &identity).Talk(kRequest);
  }
  // An identity that our own client may use although it does not hold.
  static NodeIdentity Unchecked(const std::filesystem::path& directory, const std::string& name) {
    NodeIdentity identity;
    identity.name = name;
    identity.certificate_pem = *ReadTextFile(directory / kNodeCertificateFile);
    identity.key_pem = *ReadTextFile(directory / kNodeKeyFile);
    identity.authority_pem = *ReadTextFile(directory / kAuthorityCertificateFile);
    identity.not_before = CertificateTimeNow() - std::chrono::hours(1);
    identity.not_after = CertificateTimeNow() + std::chrono::hours(1);
    return identity;
  }

  TestSite site_;
  NodeIdentity a_ = site_.Node("node-a");
  NodeIdentity b_ = site_.Node("node-b");
  EchoServer server_{b_};
};

TEST_F(TlsRefusalTest, AGoodIdentityIsServedByTheSameTools) {
  const auto reply = TalkAs(site_.path("node-a"));
  ASSERT_THAT(reply, IsOk());
  EXPECT_NE(reply->find("node-a:hi"), std::string::npos);
  EXPECT_EQ(server_.handled(), 1);
}

TEST_F(TlsRefusalTest, NoClientCertificate) {
  EXPECT_THAT(RawTlsClient(server_.port(), nullptr).Talk(kRequest),
              FailsWith(ErrorCode::kUntrusted, "certificate required"));
  EXPECT_EQ(server_.handled(), 0);
}

TEST_F(TlsRefusalTest, SelfSignedClientCertificate) {
  // An authority's own certificate is the self-signed one at hand.
  TestSite other;
  std::filesystem::create_directory(site_.path("self"));
  std::filesystem::copy_file(other.path("ca") / kAuthorityCertificateFile, site_.path("self") / kNodeCertificateFile);
  std::filesystem::copy_file(other.path("ca") / kAuthorityKeyFile, site_.path("self") / kNodeKeyFile);
  EXPECT_THAT(TalkAs(site_.path("self")), FailsWith(ErrorCode::kUntrusted, "alert"));
  EXPECT_EQ(server_.handled(), 0);
}

TEST_F(TlsRefusalTest, ClientOfAnotherAuthorityLearnsWhy) {
  TestSite other;
  other.Node("node-a");
  EXPECT_THAT(TalkAs(other.path("node-a")), FailsWith(ErrorCode::kUntrusted, "alert"));
  // Our client, which trusts this site but shows the other's certificate.
  NodeIdentity mixed = Unchecked(other.path("node-a"), "node-a");
  mixed.authority_pem = a_.authority_pem;
  const auto refused = Echo(mixed, server_.port());
  EXPECT_THAT(refused, FailsWith(ErrorCode::kUntrusted, "refused the certificate of this node (node-a"));
  EXPECT_NE(refused.error().message().find("another authority"), std::string::npos) << refused.error().message();
  EXPECT_FALSE(refused.error().next_step().empty());
  EXPECT_EQ(server_.handled(), 0);
}

TEST_F(TlsRefusalTest, ACallerThatIsStillSendingLearnsWhyItIsRefused) {
  TestSite other;
  other.Node("node-a");
  NodeIdentity mixed = Unchecked(other.path("node-a"), "node-a");
  mixed.authority_pem = a_.authority_pem;
  const std::string much(kDefaultBodyLimitBytes, 'x');
  for (int i = 0; i < 10; ++i) {
    EXPECT_THAT(Echo(mixed, server_.port(), much), FailsWith(ErrorCode::kUntrusted, "another authority"));
  }
}

TEST_F(TlsRefusalTest, ServerOfAnotherAuthorityIsNotTalkedTo) {
  TestSite other;
  EchoServer impostor(other.Node("node-b"));
  EXPECT_THAT(Echo(a_, impostor.port()), FailsWith(ErrorCode::kUntrusted, "the certificate of node-b at"));
  EXPECT_EQ(impostor.handled(), 0);
}

TEST_F(TlsRefusalTest, ExpiredClientCertificate) {
  IssueOptions options;
  options.node_name = "node-x";
  options.not_before = CertificateTimeNow() - std::chrono::days(2);
  options.validity = std::chrono::days(1);
  const auto directory = site_.Issue(options);
  EXPECT_THAT(TalkAs(directory), FailsWith(ErrorCode::kUntrusted, "certificate expired"));
  // Our own client says so before it connects.
  const auto own = Echo(*LoadNodeIdentity(directory), server_.port());
  EXPECT_THAT(own, FailsWith(ErrorCode::kUntrusted, "the certificate of this node (node-x"));
  EXPECT_THAT(own, FailsWith(ErrorCode::kUntrusted, "expired at"));
  // And where only the server's clock says so, the server's word arrives.
  EXPECT_THAT(Echo(Unchecked(directory, "node-x"), server_.port()),
              FailsWith(ErrorCode::kUntrusted, "by the server's clock"));
  EXPECT_EQ(server_.handled(), 0);
}

TEST_F(TlsRefusalTest, ClientCertificateOfTheFuture) {
  IssueOptions options;
  options.node_name = "node-x";
  options.not_before = CertificateTimeNow() + std::chrono::days(1);
  const auto directory = site_.Issue(options);
  EXPECT_THAT(TalkAs(directory), FailsWith(ErrorCode::kUntrusted, "alert"));
  EXPECT_THAT(Echo(*LoadNodeIdentity(directory), server_.port()),
              FailsWith(ErrorCode::kUntrusted, "not yet valid before"));
  EXPECT_THAT(Echo(Unchecked(directory, "node-x"), server_.port()),
              FailsWith(ErrorCode::kUntrusted, "by the server's clock"));
  EXPECT_EQ(server_.handled(), 0);
}

TEST_F(TlsRefusalTest, ClientCertificateThatMayOnlyServe) {
  IssueOptions options;
  options.node_name = "node-x";
  options.may_call = false;
  EXPECT_THAT(TalkAs(site_.Issue(options)), FailsWith(ErrorCode::kUntrusted, "unsupported certificate"));
  EXPECT_EQ(server_.handled(), 0);
}

TEST_F(TlsRefusalTest, AnAuthoritysOwnCertificateNamesNoNode) {
  std::filesystem::create_directory(site_.path("self"));
  std::filesystem::copy_file(site_.path("ca") / kAuthorityCertificateFile, site_.path("self") / kNodeCertificateFile);
  std::filesystem::copy_file(site_.path("ca") / kAuthorityKeyFile, site_.path("self") / kNodeKeyFile);
  EXPECT_THAT(TalkAs(site_.path("self")), FailsWith(ErrorCode::kUntrusted, "alert"));
  EXPECT_EQ(server_.handled(), 0);
}

TEST_F(TlsRefusalTest, ServerThatIsAnotherNodeIsNamed) {
  const auto wrong = Echo(a_, server_.port(), "secret", "node-c");
  EXPECT_THAT(wrong, FailsWith(ErrorCode::kUntrusted, " is node-b, not node-c"));
  EXPECT_EQ(server_.handled(), 0);
}

// A server of one connection that shows any certificate, and tells whether a byte of a request arrived.
class RawTlsServer {
 public:
  explicit RawTlsServer(const std::filesystem::path& directory)
      : identity_(directory), listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), size), 0);
    EXPECT_EQ(getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    EXPECT_EQ(listen(listener_.get(), 1), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Serve(); });
  }
  ~RawTlsServer() { thread_.join(); }

  std::uint16_t port() const { return port_; }
  bool Received() {
    thread_.join();
    thread_ = std::thread([] {});
    return received_;
  }

 private:
  void Serve() {
    const UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const TlsContextHandle context(SSL_CTX_new(TLS_server_method()));
    SSL_CTX_use_certificate(context.get(), identity_.certificate.get());
    SSL_CTX_use_PrivateKey(context.get(), identity_.key.get());
    const TlsHandle tls(SSL_new(context.get()));
    SSL_set_fd(tls.get(), fd.get());
    std::array<char, 16> buffer;
    received_ = SSL_accept(tls.get()) == 1 && SSL_read(tls.get(), buffer.data(), buffer.size()) > 0;
  }

  RawIdentity identity_;
  UniqueFd listener_;
  std::uint16_t port_ = 0;
  bool received_ = false;
  std::thread thread_;
};

TEST_F(TlsRefusalTest, ServerCertificateExpired) {
  IssueOptions options;
  options.node_name = "node-x";
  options.not_before = CertificateTimeNow() - std::chrono::days(2);
  options.validity = std::chrono::days(1);
  RawTlsServer server(site_.Issue(options));
  EXPECT_THAT(Echo(a_, server.port(), "secret", "node-x"), FailsWith(ErrorCode::kUntrusted, "certificate has expired"));
  EXPECT_FALSE(server.Received());
}

TEST_F(TlsRefusalTest, ServerCertificateOfTheFuture) {
  IssueOptions options;
  options.node_name = "node-x";
  options.not_before = CertificateTimeNow() + std::chrono::days(1);
  RawTlsServer server(site_.Issue(options));
  EXPECT_THAT(Echo(a_, server.port(), "secret", "node-x"), FailsWith(ErrorCode::kUntrusted, "not yet valid"));
  EXPECT_FALSE(server.Received());
}

TEST_F(TlsRefusalTest, ServerCertificateThatMayOnlyCall) {
  IssueOptions options;
  options.node_name = "node-x";
  options.may_serve = false;
  RawTlsServer server(site_.Issue(options));
  EXPECT_THAT(Echo(a_, server.port(), "secret", "node-x"), FailsWith(ErrorCode::kUntrusted, "does not hold"));
  EXPECT_FALSE(server.Received());
}

TEST_F(TlsRefusalTest, AServerDoesNotStartWithAnExpiredIdentity) {
  IssueOptions options;
  options.node_name = "node-x";
  options.not_before = CertificateTimeNow() - std::chrono::days(2);
  options.validity = std::chrono::days(1);
  EXPECT_THAT(HttpServer::ListenTls("127.0.0.1", 0, *LoadNodeIdentity(site_.Issue(options)), Router()),
              FailsWith(ErrorCode::kUntrusted, "expired at"));
}

TEST_F(TlsRefusalTest, Tls12IsRefusedByTheServer) {
  const RawIdentity identity(site_.path("node-a"));
  EXPECT_THAT(RawTlsClient(server_.port(), &identity, TLS1_2_VERSION).Talk(kRequest),
              FailsWith(ErrorCode::kUntrusted, "protocol version"));
  EXPECT_EQ(server_.handled(), 0);
}

TEST_F(TlsRefusalTest, PlainHttpIsToldToSpeakTls) {
  RawConnection plain(server_.port());
  plain.Send("GET /v1/echo HTTP/1.1\r\n\r\n");
  const auto answer = plain.ReadToEnd();
  ASSERT_TRUE(answer);
  EXPECT_NE(answer->find("this port speaks TLS 1.3 only"), std::string::npos) << *answer;
  EXPECT_EQ(server_.handled(), 0);
}

TEST_F(TlsRefusalTest, ATlsClientAtAPlainPortGetsATypedError) {
  const UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), size), 0);
  ASSERT_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  std::thread plain([&] {
    const UniqueFd fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    send(fd.get(), "SSH-2.0-OpenSSH_9.2\r\n", 21, MSG_NOSIGNAL);
    std::array<char, 4096> buffer;
    while (recv(fd.get(), buffer.data(), buffer.size(), 0) > 0) continue;
  });
  EXPECT_THAT(Echo(a_, ntohs(address.sin_port)), FailsWith(ErrorCode::kUntrusted, "TLS handshake with node-b"));
  plain.join();
}

TEST_F(TlsRefusalTest, ANodeThatIsNotAdmittedGetsTheReasonAndNoHandler) {
  HttpServerOptions options;
  options.admit = [](const HttpPeer& peer) -> Result<void> {
    if (peer.node != "node-a") return Ok();
    return MakeError(ErrorCode::kUntrusted, "{} was removed from the site", peer.node);
  };
  EchoServer strict(b_, options);
  EXPECT_THAT(Echo(a_, strict.port()), FailsWith(ErrorCode::kUntrusted, "node-a was removed from the site"));
  EXPECT_EQ(strict.handled(), 0);
  EXPECT_THAT(Echo(site_.Node("node-c"), strict.port()), IsOk());
}

}  // namespace
}  // namespace gpumig
