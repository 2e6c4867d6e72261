#include "cli/agent/peer_link.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <thread>

#include "core/image/chunk_codec.h"
#include "core/session/host_memory.h"
#include "core/session/local_target.h"
#include "transport/chunk_client.h"
#include "transport/message_client.h"

namespace gpumig {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostGpus = 1024;

std::chrono::milliseconds Left(const CallLimit& limit) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(limit.until - Clock::now());
  return std::max(left, std::chrono::milliseconds(1));
}

// Indexes of the chunks to send. The target begins to restore as soon as it has all that CRIU reads.
std::vector<std::size_t> CriuFilesFirst(const Manifest& manifest) {
  std::vector<bool> for_criu(manifest.chunks.size());
  for (const ManifestFile& file : manifest.files) {
    if (IsMemoryFile(file)) continue;
    for (const std::uint32_t index : file.chunks) for_criu[index] = true;
  }
  std::vector<std::size_t> indexes;
  for (const bool wanted : {true, false}) {
    for (std::size_t i = 0; i < manifest.chunks.size(); ++i) {
      if (!manifest.chunks[i].zero && for_criu[i] == wanted) indexes.push_back(i);
    }
  }
  return indexes;
}

// Of one batch of memory that is copied ahead; the workload runs meanwhile, so there is time.
constexpr std::chrono::minutes kAheadLimit{10};
constexpr std::chrono::seconds kLacksAheadLimit{5};

ChunkDigest WireDigest(const Digest& digest) {
  ChunkDigest wire;
  std::copy(digest.bytes().begin(), digest.bytes().end(), wire.begin());
  return wire;
}

Error NoTime(const CallLimit& limit) {
  if (limit.stop.stop_requested()) return MakeError(ErrorCode::kCancelled, "send: cancelled");
  return MakeError(ErrorCode::kDeadlineExceeded, "the bandwidth limit leaves no time");
}

unsigned Cores() { return std::max(1u, std::thread::hardware_concurrency()); }

CodecPolicy::Limits PolicyLimits(const std::optional<std::uint64_t>& bandwidth) {
  CodecPolicy::Limits limits;
  limits.cores = Cores();
  if (bandwidth) limits.most_bytes_per_second = static_cast<double>(*bandwidth);
  return limits;
}

// What is sent tells the policy what the link does.
class LinkMeter : public SendWatcher {
 public:
  explicit LinkMeter(CodecPolicy& policy) : policy_(policy) {}

  void SendBegins(std::uint64_t bytes) override { policy_.SendBegins(bytes, Clock::now()); }
  void SendEnds(std::uint64_t bytes, bool arrived, std::chrono::nanoseconds cpu) override {
    policy_.SendEnds(bytes, arrived, Clock::now(), cpu);
  }

 private:
  CodecPolicy& policy_;
};

}  // namespace

Json PreflightQuestionToJson(const PreflightQuestion& question) {
  Json gpus = Json::array();
  for (const GpuFacts& gpu : question.gpus) gpus.push_back(GpuToJson(gpu));
  return {{"image_format", question.image_format},
          {"name", question.name},
          {"uses_gpu", question.uses_gpu},
          {"gpus", gpus},
          {"host_bytes", question.host_bytes}};
}

Result<PreflightQuestion> PreflightQuestionFromJson(const Json& json) {
  PreflightQuestion question;
  question.image_format = GPUMIG_TRY(ImageFormatOf(json));
  question.name = GPUMIG_TRY(StringMember(json, "name"));
  question.uses_gpu = GPUMIG_TRY(BoolMember(json, "uses_gpu"));
  question.host_bytes = GPUMIG_TRY(UnsignedMember(json, "host_bytes"));
  const Json gpus = GPUMIG_TRY(ArrayMember(json, "gpus"));
  if (gpus.size() > kMostGpus) return MakeError(ErrorCode::kInvalidArgument, "{} GPUs are too many", gpus.size());
  for (const Json& gpu : gpus) question.gpus.push_back(GPUMIG_TRY(GpuFromJson(gpu)));
  return question;
}

Result<std::uint64_t> ImageFormatOf(const Json& json) {
  if (!json.contains("image_format")) return std::uint64_t{1};
  return UnsignedMember(json, "image_format");
}

Result<void> CheckImageFormat(std::uint64_t theirs, std::string_view their_node, std::string_view our_node) {
  if (theirs == kImageMajor) return Ok();
  return MakeError(ErrorCode::kUnsupported, "node {} speaks image format {}, node {} image format {}", their_node,
                   theirs, our_node, kImageMajor)
      .WithNextStep(fmt::format("install one version of gpumig on both; {} has the older one",
                                theirs < kImageMajor ? their_node : our_node));
}

PeerLink::PeerLink(const AgentConfig& config, const NodeIdentity& identity, const PeerConfig& peer,
                   std::string migration, LocalSource& source, const SendingWishes& wishes)
    : config_(config),
      identity_(identity),
      peer_(peer),
      migration_(std::move(migration)),
      source_(source),
      compress_(wishes.compress.value_or(config.compress)),
      bandwidth_(wishes.bandwidth ? wishes.bandwidth : config.bandwidth),
      policy_(PolicyLimits(bandwidth_)),
      bucket_(bandwidth_.value_or(0)) {}

Json PeerLink::SendingToJson() const {
  Json methods = Json::object();
  const auto counts = policy_.chunks_by_method();
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) methods[std::string(CodecMethodName(static_cast<CodecMethod>(i)))] = counts[i];
  }
  Json json = {{"compress", compress_.ToString()},
               {"bandwidth_bytes_per_second", nullptr},
               {"link_bytes_per_second", nullptr},
               {"chunks_by_method", methods}};
  if (bandwidth_) json["bandwidth_bytes_per_second"] = *bandwidth_;
  if (const std::optional<double> rate = policy_.measured_link_bytes_per_second())
    json["link_bytes_per_second"] = static_cast<std::uint64_t>(*rate);
  return json;
}

Result<HttpClient*> PeerLink::Client() {
  if (!client_) {
    client_.emplace(GPUMIG_TRY(HttpClient::ToNode({peer_.name, peer_.address.host, peer_.address.port}, identity_)));
  }
  return &*client_;
}

Result<void> PeerLink::Preflight(const PreflightQuestion& question) {
  HttpClient* client = GPUMIG_TRY(Client());
  const Json answer = GPUMIG_TRY(CallWithMessage(*client, "/v1/preflight", PreflightQuestionToJson(question)));
  return CheckImageFormat(GPUMIG_TRY(ImageFormatOf(answer)), peer_.name, config_.node);
}

Result<Message> PeerLink::Exchange(const Message& message, const CallLimit& limit) {
  HttpClient* client = GPUMIG_TRY(Client());
  const std::string text = ToJsonText(message);
  const HttpReply reply = GPUMIG_TRY(client->Send("POST", fmt::format("/v1/migrations/{}/messages", migration_),
                                                  "application/json", std::as_bytes(std::span(text)), limit.stop));
  return ParseMessage(reply.body);
}

Result<void> PeerLink::Ship(const ManifestDigest&, const ImageStatus& status, const CallLimit& limit) {
  const HashedSource* image = GPUMIG_TRY(source_.Image());
  if (!status.lacking.empty() && status.lacking.front() == kLacksManifest) GPUMIG_TRY(SendManifest(*image, limit));
  return SendMissingChunks(*image, limit);
}

Result<void> PeerLink::SendManifest(const HashedSource& image, const CallLimit& limit) {
  HttpClient* client = GPUMIG_TRY(Client());
  if (!bucket_.Take(image.manifest_bytes().size(), limit.until, limit.stop)) return NoTime(limit);
  GPUMIG_TRY(client->Send("PUT", fmt::format("/v1/migrations/{}/manifest", migration_), "application/octet-stream",
                          image.manifest_bytes(), limit.stop),
             "send the manifest to {}", peer_.name);
  bytes_sent_ += image.manifest_bytes().size();
  return Ok();
}

ByteBuffer PeerLink::Encode(ByteBuffer room_and_plain) {
  thread_local std::optional<ChunkEncoder> encoder;  // of one of the encoders' threads, which end with their transfer
  if (!encoder) encoder.emplace(compress_, compress_.automatic ? &policy_ : nullptr);
  return encoder->EncodeWithRoom(std::move(room_and_plain));
}

SendOptions PeerLink::Sending(SendWatcher& meter, std::chrono::milliseconds limit) {
  SendOptions options;
  options.connection_count = config_.connections;
  options.encoder_count = Cores();
  options.limit = limit;
  options.bucket = &bucket_;
  options.watcher = &meter;
  return options;
}

Result<void> PeerLink::BeginAhead(std::uint64_t host_bytes, std::stop_token) {
  HttpClient* client = GPUMIG_TRY(Client());
  GPUMIG_TRY(
      CallWithMessage(*client, fmt::format("/v1/migrations/{}/ahead", migration_), Json{{"host_bytes", host_bytes}}),
      "begin to copy memory to {}", peer_.name);
  began_ahead_ = true;
  return Ok();
}

Result<void> PeerLink::ShipAhead(std::span<const AheadChunk> chunks, std::stop_token stop) {
  std::vector<ChunkDigest> digests;
  for (const AheadChunk& chunk : chunks) digests.push_back(WireDigest(chunk.digest));
  const auto read = [&](std::size_t index) -> Result<ByteBuffer> {
    return Encode(ByteBuffer(chunks[index].room_and_plain));
  };
  LinkMeter meter(policy_);
  const SendReport report =
      GPUMIG_TRY(SendChunks({peer_.name, peer_.address.host, peer_.address.port}, identity_, migration_, digests, read,
                            Sending(meter, kAheadLimit), std::move(stop)));
  bytes_sent_ += report.bytes_sent;
  return Ok();
}

Result<std::vector<bool>> PeerLink::LacksAhead(std::span<const Digest> digests, std::stop_token stop) {
  // The workload stands still meanwhile.
  HttpClientOptions options;
  options.connect_limit = kLacksAheadLimit;
  options.total_limit = kLacksAheadLimit;
  HttpClient own =
      GPUMIG_TRY(HttpClient::ToNode({peer_.name, peer_.address.host, peer_.address.port}, identity_, options));
  HttpClient* client = &own;
  std::vector<bool> lacks;
  for (std::size_t done = 0; done < digests.size(); done += kMaxDigestsPerRequest) {
    std::vector<ChunkDigest> asked;
    for (const Digest& digest : digests.subspan(done, std::min(kMaxDigestsPerRequest, digests.size() - done)))
      asked.push_back(WireDigest(digest));
    const HttpReply reply = GPUMIG_TRY(client->Send("POST", fmt::format("/v1/migrations/{}/lacking", migration_),
                                                    "application/octet-stream", EncodeDigests(asked), stop));
    const std::vector<bool> answer = GPUMIG_TRY(DecodeBitmap(reply.body, asked.size()));
    lacks.insert(lacks.end(), answer.begin(), answer.end());
  }
  return lacks;
}

void PeerLink::DropAhead() {
  const Result<HttpClient*> client = Client();
  if (!client) return;
  [[maybe_unused]] const auto dropped =
      CallWithMessage(**client, fmt::format("/v1/migrations/{}/ahead/drop", migration_), Json::object());
}

Result<void> PeerLink::SendMissingChunks(const HashedSource& image, const CallLimit& limit) {
  std::vector<std::size_t> indexes;
  std::vector<ChunkDigest> digests;
  for (const std::size_t i : CriuFilesFirst(image.manifest())) {
    indexes.push_back(i);
    digests.push_back(WireDigest(image.manifest().chunks[i].digest));
  }
  if (digests.empty()) return Ok();
  const auto read = [&](std::size_t index) -> Result<ByteBuffer> {
    ByteBuffer chunk(kChunkHeaderBytes + image.manifest().chunks[indexes[index]].plain_bytes);
    GPUMIG_TRY(image.ReadChunk(indexes[index], std::span(chunk).subspan(kChunkHeaderBytes)));
    return Encode(std::move(chunk));
  };
  LinkMeter meter(policy_);
  const SendOptions options = Sending(meter, Left(limit));

  SendProgress progress;
  std::jthread watcher([&](std::stop_token done) {
    while (!done.stop_requested()) {
      const std::uint64_t count = progress.chunk_count;
      if (count > 0) progress_ = static_cast<double>(progress.chunks_there) / static_cast<double>(count);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  });
  const Result<SendReport> report = SendChunks({peer_.name, peer_.address.host, peer_.address.port}, identity_,
                                               migration_, digests, read, options, limit.stop, &progress);
  bytes_sent_ += report ? report->bytes_sent : progress.bytes_sent.load();
  if (!report) return report.error();
  progress_ = 1.0;
  return Ok();
}

}  // namespace gpumig
