// PeerLink: the other node's agent, as a migration sees it: messages there and back, and chunks there.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>

#include "cli/agent/config.h"
#include "core/base/json.h"
#include "core/image/codec_policy.h"
#include "core/image/manifest.h"
#include "core/session/local_source.h"
#include "core/session/ports.h"
#include "transport/chunk_client.h"
#include "transport/http_client.h"
#include "transport/identity.h"
#include "transport/token_bucket.h"

namespace gpumig {

// What a source asks of a target before anything is touched, and gets "no, because" or nothing for an answer.
struct PreflightQuestion {
  std::uint64_t image_format = kImageMajor;  // what the source writes
  std::string name;
  bool uses_gpu = false;
  std::vector<GpuFacts> gpus;    // all that the source has
  std::uint64_t host_bytes = 0;  // resident now
};
Json PreflightQuestionToJson(const PreflightQuestion& question);
Result<PreflightQuestion> PreflightQuestionFromJson(const Json& json);

// The `image_format` of a preflight question or answer. Nodes that do not say theirs are of before there was a second
// one.
Result<std::uint64_t> ImageFormatOf(const Json& json);
// A node of another image format can neither use what this one sends nor send what this one can use. Errors:
// kUnsupported.
Result<void> CheckImageFormat(std::uint64_t theirs, std::string_view their_node, std::string_view our_node);

// How a migration's bytes travel, where not as configured.
struct SendingWishes {
  std::optional<CompressionChoice> compress;
  std::optional<std::uint64_t> bandwidth;  // bytes per second, of all connections together
};

// Ownership: borrows all it is given.
// Thread safety: from one thread at a time, and ShipAhead() from another beside it; progress() and SendingToJson() from
// any.
class PeerLink : public Peer, public ImageShipper, public AheadShipper {
 public:
  PeerLink(const AgentConfig& config, const NodeIdentity& identity, const PeerConfig& peer, std::string migration,
           LocalSource& source, const SendingWishes& wishes);

  // Errors: kUnavailable, kUntrusted; those that the target gives for saying no.
  Result<void> Preflight(const PreflightQuestion& question);

  Result<Message> Exchange(const Message& message, const CallLimit& limit) override;
  Result<void> Ship(const ManifestDigest& manifest, const ImageStatus& status, const CallLimit& limit) override;

  Result<void> BeginAhead(std::uint64_t host_bytes, std::stop_token stop) override;
  Result<void> ShipAhead(std::span<const AheadChunk> chunks, std::stop_token stop) override;
  Result<std::vector<bool>> LacksAhead(std::span<const Digest> digests, std::stop_token stop) override;
  // What came ahead, from here or from an earlier agent's link, is no more use there. Best effort: where it is not
  // heard, the target finds out by itself.
  void DropAhead();
  bool began_ahead() const { return began_ahead_; }

  std::uint64_t bytes_sent() const { return bytes_sent_; }
  // 0 to 1, of the sending.
  double progress() const { return progress_; }
  // {"compress", "bandwidth_bytes_per_second" (null: no limit), "link_bytes_per_second" (as measured; null: too little
  // was sent), "chunks_by_method"}
  Json SendingToJson() const;

 private:
  Result<HttpClient*> Client();
  Result<void> SendManifest(const HashedSource& image, const CallLimit& limit);
  Result<void> SendMissingChunks(const HashedSource& image, const CallLimit& limit);
  // Called from the encoders' threads of a transfer.
  ByteBuffer Encode(ByteBuffer room_and_plain);
  SendOptions Sending(SendWatcher& meter, std::chrono::milliseconds limit);

  const AgentConfig& config_;
  const NodeIdentity& identity_;
  const PeerConfig& peer_;
  std::string migration_;
  LocalSource& source_;
  const CompressionChoice compress_;
  const std::optional<std::uint64_t> bandwidth_;
  CodecPolicy policy_;
  TokenBucket bucket_;
  std::optional<HttpClient> client_;
  bool began_ahead_ = false;
  std::atomic<std::uint64_t> bytes_sent_ = 0;
  std::atomic<double> progress_ = 0;
};

}  // namespace gpumig
