// How fast SendChunks() moves chunks between two agents of one host, and how far that is from the bound: one OpenSSL
// connection (a socket pair) that does nothing but SSL_write() and SSL_read() of the same bytes.
#include <benchmark/benchmark.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <random>
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

// The bound. The receiver reads into one buffer; nobody parses, encodes or checks.
void BM_PlainTls(benchmark::State& state) {
  TwoNodes nodes;
  const NodeIdentity b = nodes.Node("node-b");
  std::array<int, 2> sockets{};
  GPUMIG_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets.data()) == 0);
  const TlsContextHandle server_context = *MakeServerContext(b);
  SSL_CTX_set_verify(server_context.get(), SSL_VERIFY_NONE, nullptr);
  const TlsContextHandle client_context(SSL_CTX_new(TLS_client_method()));
  const TlsHandle client(SSL_new(client_context.get()));
  SSL_set_fd(client.get(), sockets[0]);
  std::thread receiver([&] {
    const TlsHandle tls(SSL_new(server_context.get()));
    SSL_set_fd(tls.get(), sockets[1]);
    GPUMIG_CHECK(SSL_accept(tls.get()) == 1);
    std::vector<char> buffer(1 << 20);
    std::uint64_t since_answer = 0;
    while (true) {
      const int count = SSL_read(tls.get(), buffer.data(), static_cast<int>(buffer.size()));
      if (count <= 0) return;
      since_answer += static_cast<std::uint64_t>(count);
      if (since_answer < kChunkCount * kChunkBytes) continue;
      since_answer = 0;
      SSL_write(tls.get(), "k", 1);
    }
  });
  GPUMIG_CHECK(SSL_connect(client.get()) == 1);
  const std::vector<std::byte> chunk = RandomChunk();
  for (auto _ : state) {
    for (std::size_t i = 0; i < kChunkCount; ++i) {
      GPUMIG_CHECK(SSL_write(client.get(), chunk.data(), static_cast<int>(chunk.size())) ==
                   static_cast<int>(kChunkBytes));
    }
    char answer = 0;
    GPUMIG_CHECK(SSL_read(client.get(), &answer, 1) == 1);
  }
  SSL_shutdown(client.get());
  shutdown(sockets[0], SHUT_WR);
  receiver.join();
  close(sockets[0]);
  close(sockets[1]);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kChunkCount * kChunkBytes));
}
BENCHMARK(BM_PlainTls)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace gpumig
