// How fast SendChunks() moves chunks between two agents of one host, and how far that is from the bound: OpenSSL
// doing nothing but SSL_write() and SSL_read() of the same bytes over as many connections.
#include <benchmark/benchmark.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "core/base/check.h"
#include "core/base/file.h"
#include "transport/certificate_authority.h"
#include "transport/certificates.h"
#include "transport/chunk_client.h"
#include "transport/chunk_service.h"
#include "transport/http_server.h"

namespace gpumig {
namespace {

constexpr std::size_t kChunkBytes = 4 << 20;
constexpr std::size_t kChunkCount = 32;

class TwoNodes {
 public:
  TwoNodes() : directory_(*TemporaryDirectory::Create("/tmp", "tls-bench")) {
    GPUMIG_CHECK(InitAuthority(directory_.path() / "ca").has_value());
  }
  NodeIdentity Node(const std::string& name) {
    IssueOptions options;
    options.node_name = name;
    GPUMIG_CHECK(IssueIdentity(directory_.path() / "ca", directory_.path() / name, options).has_value());
    return *LoadNodeIdentity(directory_.path() / name);
  }

 private:
  TemporaryDirectory directory_;
};

// Lacks everything, keeps nothing.
class ForgetfulSink : public ChunkSink {
 public:
  Result<std::vector<bool>> Lacks(std::span<const ChunkDigest> digests) override {
    return std::vector<bool>(digests.size(), bytes_.load() < wanted_.load());
  }
  Result<void> Put(const ChunkDigest& /*digest*/, std::span<const std::byte> encoded) override {
    bytes_ += encoded.size();
    return Ok();
  }
  void Want(std::uint64_t more) { wanted_ = bytes_ + more; }

 private:
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> wanted_{0};
};

std::vector<std::byte> RandomChunk() {
  std::mt19937_64 random(1);
  std::vector<std::byte> bytes(kChunkBytes);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

void BM_SendChunks(benchmark::State& state) {
  TwoNodes nodes;
  const NodeIdentity a = nodes.Node("node-a");
  const NodeIdentity b = nodes.Node("node-b");
  const auto sink = std::make_shared<ForgetfulSink>();
  Router router;
  AddChunkRoutes(router,
                 [&](const std::string&, const HttpPeer&) -> Result<std::shared_ptr<ChunkSink>> { return sink; });
  const std::unique_ptr<HttpServer> server = *HttpServer::ListenTls("127.0.0.1", 0, b, std::move(router));
  const std::vector<std::byte> bytes = RandomChunk();
  const ByteBuffer chunk(bytes.begin(), bytes.end());
  std::vector<ChunkDigest> digests(kChunkCount);
  for (std::size_t i = 0; i < kChunkCount; ++i) digests[i][0] = static_cast<std::byte>(i);
  SendOptions options;
  options.connection_count = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    sink->Want(kChunkCount * kChunkBytes);
    const auto report = SendChunks(
        {"node-b", "127.0.0.1", server->port()}, a, "bench", digests,
        [&](std::size_t) -> Result<ByteBuffer> { return chunk; }, options);
    GPUMIG_CHECK(report.has_value() && report->chunks_sent == kChunkCount);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kChunkCount * kChunkBytes));
}
BENCHMARK(BM_SendChunks)->Arg(1)->Arg(2)->Arg(3)->UseRealTime()->Unit(benchmark::kMillisecond);

// A TCP connection over loopback: the end that connected, and the one that accepted.
std::array<int, 2> ConnectedSockets() {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* any = reinterpret_cast<sockaddr*>(&address);
  GPUMIG_CHECK(bind(listener, any, size) == 0 && listen(listener, 1) == 0 && getsockname(listener, any, &size) == 0);
  std::array<int, 2> sockets{socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), -1};
  GPUMIG_CHECK(connect(sockets[0], any, size) == 0);
  sockets[1] = accept(listener, nullptr, nullptr);
  GPUMIG_CHECK(sockets[1] >= 0);
  close(listener);
  return sockets;
}

// One connection that does nothing but SSL_write() and SSL_read(), each end in a thread. The receiver reads into one
// buffer; nobody parses, encodes or checks.
class PlainConnection {
 public:
  explicit PlainConnection(const NodeIdentity& server_identity)
      : sockets_(ConnectedSockets()),
        server_context_(*MakeServerContext(server_identity)),
        client_context_(SSL_CTX_new(TLS_client_method())),
        client_(SSL_new(client_context_.get())) {
    SSL_CTX_set_verify(server_context_.get(), SSL_VERIFY_NONE, nullptr);
    SSL_set_fd(client_.get(), sockets_[0]);
    receiver_ = std::thread([this] { Receive(); });
    GPUMIG_CHECK(SSL_connect(client_.get()) == 1);
  }
  PlainConnection(const PlainConnection&) = delete;
  PlainConnection& operator=(const PlainConnection&) = delete;
  ~PlainConnection() {
    SSL_shutdown(client_.get());
    shutdown(sockets_[0], SHUT_WR);
    receiver_.join();
    close(sockets_[0]);
    close(sockets_[1]);
  }

  // `count` times `chunk`, and the word that all of it came.
  void Send(std::span<const std::byte> chunk, std::size_t count) {
    expected_ = count * chunk.size();
    for (std::size_t i = 0; i < count; ++i) {
      GPUMIG_CHECK(SSL_write(client_.get(), chunk.data(), static_cast<int>(chunk.size())) ==
                   static_cast<int>(chunk.size()));
    }
    char answer = 0;
    GPUMIG_CHECK(SSL_read(client_.get(), &answer, 1) == 1);
  }

 private:
  void Receive() {
    const TlsHandle tls(SSL_new(server_context_.get()));
    SSL_set_fd(tls.get(), sockets_[1]);
    GPUMIG_CHECK(SSL_accept(tls.get()) == 1);
    std::vector<char> buffer(1 << 20);
    std::uint64_t since_answer = 0;
    while (true) {
      const int count = SSL_read(tls.get(), buffer.data(), static_cast<int>(buffer.size()));
      if (count <= 0) return;
      since_answer += static_cast<std::uint64_t>(count);
      if (since_answer < expected_) continue;
      since_answer = 0;
      SSL_write(tls.get(), "k", 1);
    }
  }

  std::array<int, 2> sockets_;
  TlsContextHandle server_context_;
  TlsContextHandle client_context_;
  TlsHandle client_;
  std::atomic<std::uint64_t> expected_{0};
  std::thread receiver_;
};

// The bound: as many bytes over as many connections.
void BM_PlainTls(benchmark::State& state) {
  TwoNodes nodes;
  const NodeIdentity b = nodes.Node("node-b");
  const auto connection_count = static_cast<std::size_t>(state.range(0));
  std::vector<std::unique_ptr<PlainConnection>> connections;
  for (std::size_t i = 0; i < connection_count; ++i) connections.push_back(std::make_unique<PlainConnection>(b));
  const std::vector<std::byte> chunk = RandomChunk();
  for (auto _ : state) {
    std::vector<std::jthread> senders;
    for (std::size_t i = 0; i < connection_count; ++i) {
      const std::size_t count = kChunkCount * (i + 1) / connection_count - kChunkCount * i / connection_count;
      senders.emplace_back([&chunk, count, connection = connections[i].get()] { connection->Send(chunk, count); });
    }
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kChunkCount * kChunkBytes));
}
BENCHMARK(BM_PlainTls)->Arg(1)->Arg(2)->Arg(3)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace gpumig
