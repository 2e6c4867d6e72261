#include "cli/agent/agent.h"

#include <algorithm>

#include "core/base/byte_rate.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/image/manifest.h"
#include "device_state/serialised_device_port.h"
#include "transport/chunk_service.h"
#include "transport/link_meter.h"
#include "transport/message_client.h"

namespace gpumig {
namespace {

// A request to the agent must be answered within two minutes.
constexpr std::chrono::milliseconds kLongestLinkSpan{60'000};

// Chunks as they come over the wire, into the image that they belong to.
class IncomingChunks : public ChunkSink {
 public:
  explicit IncomingChunks(std::shared_ptr<LocalTarget> image) : image_(std::move(image)) {}

  Result<std::vector<bool>> Lacks(std::span<const ChunkDigest> digests) override {
    std::vector<Digest> wanted;
    wanted.reserve(digests.size());
    for (const ChunkDigest& digest : digests) wanted.push_back(Digest(digest));
    return image_->Lacks(wanted);
  }
  Result<void> Put(const ChunkDigest& digest, std::span<const std::byte> encoded) override {
    return image_->PutChunk(Digest(digest), encoded);
  }

 private:
  std::shared_ptr<LocalTarget> image_;
};

Result<MigrationRequest> ParseMigrationRequest(const Site& site, const Json& json) {
  MigrationRequest request;
  request.workload = GPUMIG_TRY(WorkloadRegistry(site).Resolve(GPUMIG_TRY(StringMember(json, "workload"))));
  request.to = GPUMIG_TRY(StringMember(json, "to"));
  request.max_downtime = std::chrono::milliseconds(GPUMIG_TRY(UnsignedMember(json, "max_downtime_ms")));
  request.capture.limits.gpu_lock = std::chrono::milliseconds(GPUMIG_TRY(UnsignedMember(json, "lock_timeout_ms")));
  request.capture.host_path = GPUMIG_TRY(ParseHostPath(GPUMIG_TRY(StringMember(json, "host_path"))));
  request.live = GPUMIG_TRY(BoolMember(json, "live"));
  if (request.live) GPUMIG_TRY(CheckLivePath(request.capture.host_path));
  if (json.contains("compress"))
    request.sending.compress = GPUMIG_TRY(CompressionChoice::Parse(GPUMIG_TRY(StringMember(json, "compress"))));
  if (json.contains("bandwidth"))
    request.sending.bandwidth = GPUMIG_TRY(ParseByteRate(GPUMIG_TRY(StringMember(json, "bandwidth"))));
  if (request.max_downtime.count() == 0 || request.capture.limits.gpu_lock.count() == 0) {
    return MakeError(ErrorCode::kInvalidArgument, "a limit of 0 ms can never be kept");
  }
  return request;
}

}  // namespace

Result<std::unique_ptr<Agent>> Agent::Start(AgentConfig config) {
  auto agent = std::unique_ptr<Agent>(new Agent(std::move(config)));
  GPUMIG_TRY(agent->Open());
  return agent;
}

Agent::~Agent() {
  // Nobody asks for anything any more, then nothing is under way any more.
  if (local_) local_->Stop();
  if (remote_) remote_->Stop();
  outgoing_.reset();
  incoming_.reset();
}

Result<void> Agent::Open() {
  identity_ = GPUMIG_TRY(LoadNodeIdentity(config_.identity), "load the identity of this node");
  if (identity_.name != config_.node) {
    return MakeError(ErrorCode::kUntrusted, "the identity in {} is {}'s, and this node is configured to be {}",
                     config_.identity.string(), identity_.name, config_.node)
        .WithNextStep("issue one with `gpumig certs issue`, or correct 'node'");
  }
  GPUMIG_TRY(MakeDirectories(config_.site.runtime_directory));
  GPUMIG_TRY(MakeDirectories(config_.site.state_directory));
  composition_ = GPUMIG_TRY(Compose(config_.site, DriverHold::kOffered));
  composition_.device = std::make_unique<SerialisedDevicePort>(std::move(composition_.device));
  composition_.context.device = composition_.device.get();
  incoming_ = std::make_unique<Incoming>(config_, composition_.context);
  outgoing_ = std::make_unique<Outgoing>(config_, identity_, composition_.context);
  GPUMIG_TRY(incoming_->Recover(), "recover migrations that came");
  GPUMIG_TRY(outgoing_->Recover(), "recover migrations that left");
  HttpServerOptions options;
  options.on_refused = [](const std::string& address, const Error& error) {
    spdlog::warn("refused {}: {}", address, error.message());
  };
  remote_ =
      GPUMIG_TRY(HttpServer::ListenTls(config_.listen.host, config_.listen.port, identity_, RemoteRoutes(), options));
  local_ = GPUMIG_TRY(HttpServer::ListenUnix(config_.socket(), 0600, LocalRoutes()));
  return Ok();
}

std::string Agent::Describe() const {
  return fmt::format(
      "{} on {}:{}, CRIU {}, GPUs: {}", config_.node, config_.listen.host, config_.listen.port,
      composition_.context.criu.version,
      composition_.why_no_gpu.empty() ? composition_.device->Describe() : "none (" + composition_.why_no_gpu + ")");
}

Router Agent::RemoteRoutes() {
  Router router;
  AddMessageRoute(router, "/v1/preflight", [this](const Json& question, const HttpRequest& request) -> Result<Json> {
    GPUMIG_TRY(incoming_->Preflight(request.peer.node, GPUMIG_TRY(PreflightQuestionFromJson(question))));
    return Json{{"node", config_.node}, {"image_format", kImageMajor}, {"criu", composition_.context.criu.version}};
  });
  AddMessageRoute(router, "/v1/migrations/{migration}/ahead",
                  [this](const Json& request, const HttpRequest& from) -> Result<Json> {
                    const std::uint64_t host_bytes = GPUMIG_TRY(UnsignedMember(request, "host_bytes"));
                    GPUMIG_TRY(incoming_->BeginAhead(from.peer.node, from.parameters.at("migration"), host_bytes));
                    return Json::object();
                  });
  AddMessageRoute(router, "/v1/migrations/{migration}/ahead/drop",
                  [this](const Json&, const HttpRequest& from) -> Result<Json> {
                    GPUMIG_TRY(incoming_->DropAhead(from.peer.node, from.parameters.at("migration")));
                    return Json::object();
                  });
  router.Add(
      "POST", "/v1/migrations/{migration}/messages",
      [this](const HttpRequest& request) -> Result<HttpResponse> {
        const Message message = GPUMIG_TRY(ParseMessage(request.BodyText()));
        const Message answer = GPUMIG_TRY(incoming_->Handle(request.peer.node, message));
        return HttpResponse{200, "application/json", ToJsonText(answer)};
      },
      kMaxMessageBytes);
  router.Add(
      "PUT", "/v1/migrations/{migration}/manifest",
      [this](const HttpRequest& request) -> Result<HttpResponse> {
        const std::shared_ptr<LocalTarget> image =
            GPUMIG_TRY(incoming_->Image(request.peer.node, request.parameters.at("migration")));
        GPUMIG_TRY(image->PutManifest(request.body));
        return HttpResponse::OfJson(Json::object());
      },
      kMaxManifestBytes);
  AddChunkRoutes(router,
                 [this](const std::string& migration, const HttpPeer& peer) -> Result<std::shared_ptr<ChunkSink>> {
                   std::shared_ptr<LocalTarget> image = GPUMIG_TRY(incoming_->Image(peer.node, migration));
                   return std::shared_ptr<ChunkSink>(std::make_shared<IncomingChunks>(std::move(image)));
                 });
  AddDiscardRoute(router);
  return router;
}

Result<Json> Agent::LinkRateTo(const Json& question, const HttpRequest& request) {
  const std::string node = GPUMIG_TRY(StringMember(question, "to"));
  const std::chrono::milliseconds span(
      std::min<std::uint64_t>(GPUMIG_TRY(UnsignedMember(question, "span_ms")), kLongestLinkSpan.count()));
  const PeerConfig* peer = config_.FindPeer(node);
  if (peer == nullptr) {
    return MakeError(ErrorCode::kNotFound, "node {} is not among the peers of {}", node, config_.node)
        .WithNextStep("add it to [[peers]] in gpumigd's configuration");
  }
  const LinkMeasurement measured =
      GPUMIG_TRY(MeasureLink({peer->name, peer->address.host, peer->address.port}, identity_,
                             {.connection_count = config_.connections, .span = span}, request.stop));
  return Json{{"bytes_per_second", measured.bytes_per_second()},
              {"bytes", measured.bytes},
              {"connections", measured.connection_count}};
}

Router Agent::LocalRoutes() {
  Router router;
  AddMessageRoute(router, "/v1/migrations", [this](const Json& request, const HttpRequest&) -> Result<Json> {
    const MigrationRequest wanted = GPUMIG_TRY(ParseMigrationRequest(config_.site, request));
    // In a statement of its own: g++ 12 leaks what an initialiser list holds when a TRY inside it returns.
    const std::string migration = GPUMIG_TRY(outgoing_->Begin(wanted));
    return Json{{"migration", migration}};
  });
  AddMessageRoute(router, "/v1/link-rate",
                  [this](const Json& question, const HttpRequest& request) { return LinkRateTo(question, request); });
  router.Add("GET", "/v1/migrations", [this](const HttpRequest&) -> Result<HttpResponse> {
    return HttpResponse::OfJson(
        {{"node", config_.node}, {"out", outgoing_->StatusOfAll()}, {"in", incoming_->StatusOfAll()}});
  });
  router.Add("GET", "/v1/migrations/{migration}", [this](const HttpRequest& request) -> Result<HttpResponse> {
    return HttpResponse::OfJson(GPUMIG_TRY(outgoing_->Status(request.parameters.at("migration"))));
  });
  router.Add("POST", "/v1/migrations/{migration}/abort", [this](const HttpRequest& request) -> Result<HttpResponse> {
    GPUMIG_TRY(outgoing_->Abort(request.parameters.at("migration")));
    return HttpResponse::OfJson(Json::object());
  });
  return router;
}

}  // namespace gpumig
