#include "core/session/local_target.h"

#include <fcntl.h>

#include <future>
#include <thread>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/host/process.h"
#include "core/image/chunk_codec.h"
#include "core/image/materialise.h"

namespace gpumig {
namespace {

constexpr const char* kManifestFile = "manifest";
constexpr const char* kChunksDirectory = "chunks";
constexpr const char* kCopyFile = "copy.json";  // which tree Prepare() made

// What ImageStatus::lacking says between us and the shipper: one byte.
constexpr std::byte kLacksManifest{1};
constexpr std::byte kLacksChunks{2};

ImageStatus Lacking(std::byte what) { return {false, {what}}; }

// CRIU's files are needed only while CRIU works. Begins with what an agent that was killed left behind.
struct StagingCleaner {
  explicit StagingCleaner(const std::filesystem::path& directory) : path(directory) { Clean(); }
  StagingCleaner(const StagingCleaner&) = delete;
  StagingCleaner& operator=(const StagingCleaner&) = delete;
  ~StagingCleaner() { Clean(); }
  void Clean() const {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  const std::filesystem::path& path;
};

std::uint64_t BytesToStore(const Manifest& manifest) {
  std::uint64_t sum = 0;
  for (const ManifestChunk& chunk : manifest.chunks) {
    if (!chunk.zero) sum += chunk.plain_bytes;
  }
  return sum;
}

}  // namespace

Result<std::unique_ptr<LocalTarget>> LocalTarget::Open(SessionContext context, const std::string& migration) {
  const std::filesystem::path directory = context.site.state_directory / "incoming" / migration;
  GPUMIG_TRY(MakeDirectories(directory / kChunksDirectory));
  DirectoryChunkStore store =
      GPUMIG_TRY(DirectoryChunkStore::Open(directory / kChunksDirectory, StoreDurability::kOnSync));
  const std::filesystem::path staging = context.site.staging_directory / ("gpumig-in-" + migration);
  {
    const StagingCleaner cleaner(staging);
  }
  auto target = std::unique_ptr<LocalTarget>(new LocalTarget(std::move(context), directory, staging, std::move(store)));
  if (std::filesystem::exists(directory / kManifestFile)) {
    GPUMIG_TRY(target->Adopt(GPUMIG_TRY(ReadBinaryFile(directory / kManifestFile, kMaxManifestBytes))));
  }
  return target;
}

std::shared_ptr<const LocalTarget::Incoming> LocalTarget::incoming() const {
  const std::lock_guard lock(mutex_);
  return incoming_;
}

Result<void> LocalTarget::Adopt(std::span<const std::byte> manifest_bytes) {
  auto incoming = std::make_shared<Incoming>();
  incoming->manifest = GPUMIG_TRY(Manifest::Parse(manifest_bytes));
  incoming->digest = Digest::Of(manifest_bytes);
  for (const ManifestChunk& chunk : incoming->manifest.chunks) {
    if (!chunk.zero) incoming->plain_bytes.emplace(chunk.digest, chunk.plain_bytes);
  }
  const std::lock_guard lock(mutex_);
  incoming_ = std::move(incoming);
  return Ok();
}

Result<void> LocalTarget::PutManifest(std::span<const std::byte> bytes) {
  const Manifest manifest = GPUMIG_TRY(Manifest::Parse(bytes));
  GPUMIG_TRY(ParseWorkloadFacts(manifest.facts_json));
  // Before the first chunk: a disk that fills up half way costs the workload its downtime for nothing.
  const std::uint64_t needed = BytesToStore(manifest);
  GPUMIG_TRY(CheckRoom(directory_, needed, "the incoming image"));
  GPUMIG_TRY(CheckRoom(context_.site.staging_directory, needed, "the restore"));
  GPUMIG_TRY(WriteFileDurably(directory_ / kManifestFile,
                              std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size())));
  return Adopt(bytes);
}

Result<std::vector<bool>> LocalTarget::Lacks(std::span<const Digest> digests) {
  if (incoming() == nullptr)
    return MakeError(ErrorCode::kFailedPrecondition, "chunks were offered before their manifest");
  std::vector<bool> lacks;
  lacks.reserve(digests.size());
  for (const Digest& digest : digests) lacks.push_back(!GPUMIG_TRY(store_.Has(digest)));
  return lacks;
}

Result<void> LocalTarget::PutChunk(const Digest& digest, std::span<const std::byte> encoded) {
  const std::shared_ptr<const Incoming> image = incoming();
  if (image == nullptr) return MakeError(ErrorCode::kFailedPrecondition, "a chunk came before its manifest");
  const auto known = image->plain_bytes.find(digest);
  if (known == image->plain_bytes.end()) {
    return MakeError(ErrorCode::kInvalidArgument, "the manifest names no chunk {}", digest.ToHex());
  }
  GPUMIG_TRY(DecodeChunk(encoded, digest, known->second), "chunk {}", digest.ToHex());
  return store_.Put(digest, encoded);
}

Result<ImageStatus> LocalTarget::Missing(const ManifestDigest& manifest) {
  const std::shared_ptr<const Incoming> image = incoming();
  if (image == nullptr || image->digest.ToHex() != manifest.ToHex()) return Lacking(kLacksManifest);
  for (const auto& [digest, plain_bytes] : image->plain_bytes) {
    if (!GPUMIG_TRY(store_.Has(digest))) return Lacking(kLacksChunks);
  }
  return ImageStatus{true, {}};
}

Result<GatedWorkload> LocalTarget::RestoreUpToTheGate(const Incoming& image, std::stop_token stop, Timeline& timeline) {
  const WorkloadFacts facts = GPUMIG_TRY(ParseWorkloadFacts(image.manifest.facts_json));
  GPUMIG_TRY(WorkloadRegistry(context_.site).CheckFree(facts.name));
  gpu_map_.clear();
  if (facts.uses_gpu()) gpu_map_ = GPUMIG_TRY(context_.device->SolveMap(facts.gpu.gpus, {}));
  timeline.Begin("materialise");
  const StagingCleaner cleaner{staging_};
  ParallelOptions parallel;
  parallel.workers = std::max(1u, std::thread::hardware_concurrency());
  parallel.stop = std::move(stop);
  GPUMIG_TRY(MaterialiseImage(image.manifest, store_, staging_, parallel));
  timeline.End();
  return GatedWorkload::Restore(staging_, facts, facts.name, gpu_map_, context_.site, context_.criu, *context_.device,
                                timeline);
}

Result<TargetReport> LocalTarget::Prepare(const ManifestDigest& manifest, std::stop_token stop) {
  if (!GPUMIG_TRY(Missing(manifest)).complete)
    return MakeError(ErrorCode::kFailedPrecondition, "the image is not complete yet");
  const std::shared_ptr<const Incoming> image = incoming();
  GPUMIG_TRY(FindAgain());
  if (gated_) {
    GPUMIG_TRY(gated_->Discard());
    gated_.reset();
  }
  // The image is made durable while it is restored from; both must have happened before we say we are prepared.
  std::future<Result<void>> synced = std::async(std::launch::async, [this] { return store_.Sync(); });
  Timeline timeline;
  Result<GatedWorkload> gated = RestoreUpToTheGate(*image, std::move(stop), timeline);
  Result<void> durable = synced.get();
  if (!gated) return gated.error();
  gated_.emplace(std::move(*gated));
  Result<void> kept = durable ? Remember(*gated_) : durable;
  if (!kept) {
    [[maybe_unused]] const Result<void> discarded = gated_->Discard();
    gated_.reset();
    return kept.error();
  }
  return TargetReport{timeline.parts(), ""};
}

Result<void> LocalTarget::Remember(const GatedWorkload& gated) const {
  Json json = {{"workload", ToJson(gated.workload())}, {"gpu_processes", gated.gpu_processes()}};
  return WriteFileDurably(directory_ / kCopyFile, ToText(json));
}

Result<void> LocalTarget::FindAgain() {
  if (gated_ || !std::filesystem::exists(directory_ / kCopyFile)) return Ok();
  const Json json = GPUMIG_TRY(ParseJson(GPUMIG_TRY(ReadTextFile(directory_ / kCopyFile))));
  const Workload workload = GPUMIG_TRY(WorkloadFromJson(GPUMIG_TRY(ObjectMember(json, "workload"))));
  std::vector<pid_t> gpu_processes;
  for (const Json& pid : GPUMIG_TRY(ArrayMember(json, "gpu_processes"))) gpu_processes.push_back(pid.get<pid_t>());
  const Result<ProcessStat> stat = ReadProcessStat(workload.root);
  if (!stat || stat->start_ticks != workload.start_ticks) return Ok();  // A reboot, or somebody's kill: it is gone.
  gated_.emplace(GPUMIG_TRY(GatedWorkload::FindAgain(workload, gpu_processes, context_.site, *context_.device)));
  return Ok();
}

Result<TargetReport> LocalTarget::Start() {
  GPUMIG_TRY(FindAgain());
  if (!gated_) return MakeError(ErrorCode::kNotFound, "there is no restored copy to start");
  Timeline timeline;
  timeline.Begin("thaw");
  GPUMIG_TRY(gated_->Open());
  timeline.End();
  const Workload& workload = gated_->workload();
  const ProcessStat stat = GPUMIG_TRY(ReadProcessStat(workload.root));
  if (stat.start_ticks != workload.start_ticks || stat.state == 'Z') {
    return MakeError(ErrorCode::kNotFound, "the restored copy ended as soon as it ran");
  }
  Json map = Json::array();
  for (const GpuPair& pair : gpu_map_) map.push_back({{"old", pair.old_uuid}, {"new", pair.new_uuid}});
  return TargetReport{timeline.parts(), ToText({{"name", workload.name}, {"pid", workload.root}, {"gpu_map", map}})};
}

Result<void> LocalTarget::Discard() {
  GPUMIG_TRY(FindAgain());
  if (gated_) GPUMIG_TRY(gated_->Discard());
  gated_.reset();
  std::error_code error;
  std::filesystem::remove_all(directory_, error);
  if (error) return Error::FromErrno(error.value(), fmt::format("remove {}", directory_.string()));
  const std::lock_guard lock(mutex_);
  incoming_.reset();
  return Ok();
}

Result<CopyState> LocalTarget::Look() {
  GPUMIG_TRY(FindAgain());
  if (!gated_) return CopyState::kGone;
  return gated_->Look();
}

}  // namespace gpumig
