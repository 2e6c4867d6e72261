#include "core/session/local_target.h"

#include <fcntl.h>

#include <algorithm>
#include <functional>
#include <thread>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/host/process.h"
#include "core/image/chunk_codec.h"
#include "core/image/materialise.h"
#include "core/session/placing_gate.h"

namespace gpumig {
namespace {

constexpr const char* kManifestFile = "manifest";
constexpr const char* kChunksDirectory = "chunks";
constexpr const char* kCopyFile = "copy.json";    // which tree Prepare() made
constexpr const char* kEarlyFile = "early-copy";  // the cgroup of one that is not whole yet

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

Result<std::uint64_t> BytesToStore(const Manifest& manifest, const ChunkStore& store) {
  std::uint64_t sum = 0;
  for (const ManifestChunk& chunk : manifest.chunks) {
    if (!chunk.zero && !GPUMIG_TRY(store.Has(chunk.digest))) sum += chunk.plain_bytes;
  }
  return sum;
}

// Of what this host has in memory, so much is left alone.
constexpr std::uint64_t kSpareMemoryBytes = std::uint64_t{256} << 20;
constexpr std::uint64_t kSpareDiskBytes = std::uint64_t{64} << 20;
// A disk that is asked for durability while a workload stands still must not have gigabytes in its own cache by then.
constexpr std::uint64_t kSyncEveryBytes = std::uint64_t{64} << 20;
// A workload that writes all the time sends much of its memory again; more than this would be no use to anybody.
constexpr std::uint64_t kMostTimesAhead = 8;

ParallelOptions OnAllCores(std::stop_token stop) {
  ParallelOptions parallel;
  parallel.workers = std::max(1u, std::thread::hardware_concurrency());
  parallel.stop = std::move(stop);
  return parallel;
}

// An error that is none of a chunk's own: its sender must not try again.
Error ForGood(Error error) {
  if (error.code() != ErrorCode::kUnavailable && error.code() != ErrorCode::kDeadlineExceeded &&
      error.code() != ErrorCode::kDamaged) {
    return error;
  }
  return MakeError(ErrorCode::kInternal, "{}", error.message()).WithNextStep(error.next_step());
}

// Kept from one chunk to the next by each of the server's threads.
ChunkDecoder& DecoderOfThisThread() {
  thread_local ChunkDecoder decoder;
  return decoder;
}

}  // namespace

struct LocalTarget::EarlyCopy {
  PlacingGate gate;
  std::thread thread;
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;           // guarded by mutex; what follows does not change once it is set
  std::optional<Error> error;  // set, or the others are
  std::optional<GatedWorkload> gated;
  std::optional<MemoryFill> fill;
  std::vector<GpuPair> gpu_map;
  std::vector<TimedPart> parts;
  std::stop_source stop;   // placing what came ahead
  bool kept_done = false;  // guarded by mutex; what came ahead is placed

  // Ok, or why there is no tree.
  Result<void> Await() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return done; });
    if (error) return *error;
    return Ok();
  }
  void AwaitKept() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return kept_done; });
  }
};

LocalTarget::LocalTarget(SessionContext context, std::filesystem::path directory, std::filesystem::path staging,
                         PackChunkStore store, const CacheLimits& cache)
    : context_(std::move(context)),
      directory_(std::move(directory)),
      staging_(std::move(staging)),
      store_(std::move(store)),
      cache_(ChunkCache::DirectoryIn(context_.site.state_directory), cache) {}

// A tree that is not whole yet is left as it is, frozen: whoever opens this again removes it.
LocalTarget::~LocalTarget() {
  if (early_) early_->stop.request_stop();
  if (early_ && early_->thread.joinable()) early_->thread.join();
}

Result<std::unique_ptr<LocalTarget>> LocalTarget::Open(SessionContext context, const std::string& migration,
                                                       const CacheLimits& cache) {
  const std::filesystem::path directory = context.site.state_directory / "incoming" / migration;
  GPUMIG_TRY(MakeDirectories(directory / kChunksDirectory));
  PackChunkStore store = GPUMIG_TRY(PackChunkStore::Open(directory / kChunksDirectory));
  const std::filesystem::path staging = context.site.staging_directory / ("gpumig-in-" + migration);
  {
    const StagingCleaner cleaner(staging);
  }
  auto target =
      std::unique_ptr<LocalTarget>(new LocalTarget(std::move(context), directory, staging, std::move(store), cache));
  GPUMIG_TRY(target->RemovePartialCopy(), "remove what was restored in part");
  if (std::filesystem::exists(directory / kManifestFile)) {
    GPUMIG_TRY(target->Adopt(GPUMIG_TRY(ReadBinaryFile(directory / kManifestFile, kMaxManifestBytes))));
  }
  return target;
}

Result<void> LocalTarget::RemovePartialCopy() {
  if (!std::filesystem::exists(directory_ / kEarlyFile)) return Ok();
  const std::string cgroup = GPUMIG_TRY(ReadTextFile(directory_ / kEarlyFile));
  GPUMIG_TRY(FindAgain());
  // It may have become whole just before the end of the agent that made it.
  if (!gated_ || gated_->workload().cgroup != cgroup) GPUMIG_TRY(RemoveRestored(cgroup));
  return ForgetEarlyCopy();
}

std::shared_ptr<const LocalTarget::Incoming> LocalTarget::incoming() const {
  const std::lock_guard lock(mutex_);
  return incoming_;
}

Result<void> LocalTarget::Adopt(std::span<const std::byte> manifest_bytes) {
  auto image = std::make_shared<Incoming>(GPUMIG_TRY(Manifest::Parse(manifest_bytes)));
  image->digest = Digest::Of(manifest_bytes);
  const Manifest& manifest = image->manifest;
  std::unordered_set<Digest> lacking;
  for (std::uint32_t i = 0; i < manifest.chunks.size(); ++i) {
    const ManifestChunk& chunk = manifest.chunks[i];
    if (chunk.zero) continue;
    Incoming::Chunk& entry = image->chunks[chunk.digest];
    entry.plain_bytes = chunk.plain_bytes;
    entry.indexes.push_back(i);
    const auto needs = [&](const ChunkUses::Use& use) { return !IsMemoryFile(manifest.files[use.file]); };
    if (!std::ranges::any_of(image->uses.of(i), needs) || !image->for_criu.insert(chunk.digest).second) continue;
    if (!GPUMIG_TRY(store_.Has(chunk.digest))) lacking.insert(chunk.digest);
  }
  std::vector<Digest> wanted;
  for (const auto& [digest, chunk] : image->chunks) wanted.push_back(digest);
  image->cached = cache_.Find(wanted);
  {
    const std::lock_guard lock(mutex_);
    if (preparing_) return MakeError(ErrorCode::kFailedPrecondition, "another image is being prepared");
    incoming_ = std::move(image);
    lacking_for_criu_ = std::move(lacking);
    ++dropping_count_;
  }
  // A copy of another image, if there is one.
  Result<void> dropped = DropEarlyCopy();
  const std::lock_guard lock(mutex_);
  --dropping_count_;
  return dropped;
}

// They go onto the disk as all others do, and stay in memory too if there is enough for them and the workload both.
Result<void> LocalTarget::TakeAhead(std::uint64_t host_bytes) {
  if (host_bytes > kMaxFileChunks * kMaxChunkBytes)
    return MakeError(ErrorCode::kInvalidArgument, "{} bytes of memory are more than an image holds", host_bytes);
  cache_.MakeRoom(host_bytes + kSpareDiskBytes);
  GPUMIG_TRY(CheckRoom(directory_, host_bytes + kSpareDiskBytes, "memory that comes while the workload runs"));
  const std::uint64_t available = GPUMIG_TRY(AvailableMemory());
  const std::uint64_t needed = host_bytes + kSpareMemoryBytes;
  // A quarter more than the workload has now: some chunks come twice.
  const std::uint64_t spare = available - std::min(available, needed);
  AheadMemory memory = GPUMIG_TRY(AheadMemory::Make(std::min(spare, host_bytes + host_bytes / 4)));
  const std::lock_guard lock(mutex_);
  if (ahead_) return Ok();
  ahead_ = std::make_shared<AheadMemory>(std::move(memory));
  ahead_host_bytes_ = host_bytes;
  ahead_bytes_left_ = kMostTimesAhead * std::max<std::uint64_t>(host_bytes, kMaxChunkBytes);
  return Ok();
}

Result<void> LocalTarget::PutAhead(const Digest& digest, std::span<const std::byte> encoded) {
  const ChunkHeader header = GPUMIG_TRY(ParseChunkHeader(encoded), "chunk {}", digest.ToHex());
  const std::span<const std::byte> plain =
      GPUMIG_TRY(DecoderOfThisThread().View(encoded, digest, header.plain_bytes), "chunk {}", digest.ToHex());
  std::shared_ptr<AheadMemory> memory;
  std::uint64_t host_bytes = 0;
  {
    const std::lock_guard lock(mutex_);
    if (plain.size() > ahead_bytes_left_) {
      return MakeError(ErrorCode::kResourceExhausted,
                       "more memory came ahead of its manifest than a workload of that size has use for");
    }
    ahead_bytes_left_ -= plain.size();
    memory = ahead_;
    host_bytes = ahead_host_bytes_;
  }
  // Rounds come on top of what was asked for, and journals live on this disk too.
  GPUMIG_TRY(CheckRoom(directory_, kSpareDiskBytes, "memory that comes while the workload runs"));
  GPUMIG_TRY(store_.Put(digest, encoded));
  if (IsTimeToSync(encoded.size())) GPUMIG_TRY(store_.Sync());
  // Others may have taken what there was when this began.
  const Result<std::uint64_t> available = AvailableMemory();
  if (memory && available && *available > host_bytes + kSpareMemoryBytes) memory->Keep(digest, plain);
  return Ok();
}

bool LocalTarget::IsTimeToSync(std::uint64_t bytes_more) {
  const std::lock_guard lock(mutex_);
  ahead_unsynced_bytes_ += bytes_more;
  if (ahead_unsynced_bytes_ < kSyncEveryBytes) return false;
  ahead_unsynced_bytes_ = 0;
  return true;
}

Result<void> LocalTarget::PutManifest(std::span<const std::byte> bytes) {
  // Sent again, since the answer got lost.
  if (const auto known = incoming(); known != nullptr && known->digest == Digest::Of(bytes)) return Ok();
  {
    const std::lock_guard lock(mutex_);
    if (preparing_) return MakeError(ErrorCode::kFailedPrecondition, "another image is being prepared");
  }
  const Manifest manifest = GPUMIG_TRY(Manifest::Parse(bytes));
  GPUMIG_TRY(ParseWorkloadFacts(manifest.facts_json));
  // Before the first chunk: a disk that fills up half way costs the workload its downtime for nothing.
  const std::uint64_t bytes_to_store = GPUMIG_TRY(BytesToStore(manifest, store_));
  cache_.MakeRoom(bytes_to_store);
  GPUMIG_TRY(CheckRoom(directory_, bytes_to_store, "the incoming image"));
  GPUMIG_TRY(store_.Reserve(bytes_to_store), "the incoming image");
  GPUMIG_TRY(CheckRoom(context_.site.staging_directory, BytesWithCriu(manifest), "the restore"));
  GPUMIG_TRY(WriteFileDurably(directory_ / kManifestFile,
                              std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size())));
  return Adopt(bytes);
}

Result<std::vector<bool>> LocalTarget::Lacks(std::span<const Digest> digests) {
  std::shared_ptr<const Incoming> image;
  {
    const std::lock_guard lock(mutex_);
    image = incoming_;
    if (image == nullptr && ahead_ == nullptr)
      return MakeError(ErrorCode::kFailedPrecondition, "chunks were offered before their manifest");
  }
  std::vector<bool> lacks;
  lacks.reserve(digests.size());
  for (const Digest& digest : digests) lacks.push_back(!GPUMIG_TRY(store_.Has(digest)));
  if (image == nullptr) return lacks;
  image->cached->Take(digests, lacks, [&](const Digest& digest, std::span<const std::byte> encoded) -> Result<void> {
    GPUMIG_TRY(PutChunk(digest, encoded));
    known_bytes_ += image->chunks.at(digest).plain_bytes;
    return Ok();
  });
  return lacks;
}

Result<void> LocalTarget::PutChunk(const Digest& digest, std::span<const std::byte> encoded) {
  const std::shared_ptr<const Incoming> image = incoming();
  if (image == nullptr) {
    {
      const std::lock_guard lock(mutex_);
      if (ahead_ == nullptr) return MakeError(ErrorCode::kFailedPrecondition, "a chunk came before its manifest");
    }
    return PutAhead(digest, encoded);
  }
  const auto known = image->chunks.find(digest);
  if (known == image->chunks.end()) {
    return MakeError(ErrorCode::kInvalidArgument, "the manifest names no chunk {}", digest.ToHex());
  }
  const std::span<const std::byte> plain =
      GPUMIG_TRY(DecoderOfThisThread().View(encoded, digest, known->second.plain_bytes), "chunk {}", digest.ToHex());
  if (const std::shared_ptr<EarlyCopy> copy = EarlyCopyFor(image)) {
    GPUMIG_TRY(copy->Await());
    const auto place = [&] { return PlaceMemory(*image, known->second, *copy->fill, plain); };
    GPUMIG_TRY(copy->gate.PlaceOnce(digest, place), "chunk {}", digest.ToHex());
  }
  GPUMIG_TRY(store_.Put(digest, encoded));
  if (!image->for_criu.contains(digest)) return Ok();
  {
    const std::lock_guard lock(mutex_);
    if (incoming_ == image) lacking_for_criu_.erase(digest);
  }
  EarlyCopyFor(image);
  return Ok();
}

Result<void> LocalTarget::PlaceMemory(const Incoming& image, const Incoming::Chunk& chunk, const MemoryFill& fill,
                                      std::span<const std::byte> plain) {
  for (const std::uint32_t index : chunk.indexes) {
    for (const ChunkUses::Use& use : image.uses.of(index)) {
      const ManifestFile& file = image.manifest.files[use.file];
      if (IsMemoryFile(file)) GPUMIG_TRY(fill.Place(file, use.offset, plain));
    }
  }
  return Ok();
}

std::shared_ptr<LocalTarget::EarlyCopy> LocalTarget::EarlyCopyFor(const std::shared_ptr<const Incoming>& image) {
  const std::lock_guard lock(mutex_);
  if (incoming_ != image || !lacking_for_criu_.empty() || dropping_count_ > 0) return nullptr;
  if (early_) return early_;
  early_ = std::make_shared<EarlyCopy>();
  early_->thread = std::thread([this, image, copy = early_.get()] {
    RestoreEarly(image, *copy);
    PlaceKept(*image, *copy);
    const std::lock_guard placed(copy->mutex);
    copy->kept_done = true;
    copy->changed.notify_all();
  });
  return early_;
}

void LocalTarget::RestoreEarly(const std::shared_ptr<const Incoming>& image, EarlyCopy& copy) const {
  std::optional<GatedWorkload> gated;
  std::optional<MemoryFill> fill;
  std::vector<GpuPair> gpu_map;
  Timeline timeline;
  const auto restore = [&]() -> Result<void> {
    const WorkloadFacts facts = GPUMIG_TRY(ParseWorkloadFacts(image->manifest.facts_json));
    GPUMIG_TRY(WorkloadRegistry(context_.site).CheckFree(facts.name));
    if (facts.uses_gpu()) gpu_map = GPUMIG_TRY(context_.device->SolveMap(facts.gpu.gpus, {}));
    timeline.Begin("materialise");
    const StagingCleaner cleaner{staging_};
    GPUMIG_TRY(MaterialiseImage(image->manifest, store_, staging_, OnAllCores({}), std::not_fn(IsMemoryFile)));
    timeline.End();
    const std::string cgroup = context_.site.NewCgroup(facts.name);
    GPUMIG_TRY(WriteFileDurably(directory_ / kEarlyFile, cgroup));
    gated.emplace(GPUMIG_TRY(GatedWorkload::Restore({.images = staging_, .name = facts.name, .cgroup = cgroup}, facts,
                                                    context_.site, context_.criu, *context_.device, timeline)));
    fill.emplace(GPUMIG_TRY(
        MemoryFill::Make(GPUMIG_TRY(ReadMemoryMap(staging_)), image->manifest, GPUMIG_TRY(gated->Processes()))));
    return Ok();
  };
  Result<void> restored = restore();
  if (!restored && gated) {
    [[maybe_unused]] const Result<void> discarded = gated->Discard();
    gated.reset();
  }
  const std::lock_guard lock(copy.mutex);
  copy.parts = timeline.parts();
  copy.gpu_map = std::move(gpu_map);
  copy.gated = std::move(gated);
  copy.fill = std::move(fill);
  // To send a chunk again would not help.
  if (!restored) copy.error = ForGood(std::move(restored).error());
  copy.done = true;
  copy.changed.notify_all();
}

void LocalTarget::PlaceKept(const Incoming& image, EarlyCopy& copy) const {
  std::shared_ptr<AheadMemory> memory;
  {
    const std::lock_guard lock(mutex_);
    memory = ahead_;
  }
  if (memory == nullptr || !copy.Await()) return;
  std::vector<const std::pair<const Digest, Incoming::Chunk>*> chunks;
  for (const auto& chunk : image.chunks) chunks.push_back(&chunk);
  const auto make_worker = [&]() -> PieceWork {
    return [&](std::size_t i) -> Result<std::uint64_t> {
      const auto& [digest, chunk] = *chunks[i];
      const auto place = [&](std::span<const std::byte> plain) {
        return copy.gate.PlaceOnce(digest, [&] { return PlaceMemory(image, chunk, *copy.fill, plain); });
      };
      GPUMIG_TRY(memory->Take(digest, place));
      return 0;
    };
  };
  [[maybe_unused]] const Result<void> placed =
      ParallelFor(chunks.size(), 0, OnAllCores(copy.stop.get_token()), make_worker);
}

Result<void> LocalTarget::DropEarlyCopy() {
  std::shared_ptr<EarlyCopy> copy;
  {
    const std::lock_guard lock(mutex_);
    copy = std::exchange(early_, nullptr);
    ++dropping_count_;
  }
  Result<void> dropped = Drop(copy.get());
  const std::lock_guard lock(mutex_);
  --dropping_count_;
  return dropped;
}

Result<void> LocalTarget::Drop(EarlyCopy* copy) const {
  if (copy == nullptr) return Ok();
  copy->stop.request_stop();
  if (copy->thread.joinable()) copy->thread.join();
  copy->gate.Close();
  if (copy->gated) GPUMIG_TRY(copy->gated->Discard());
  return ForgetEarlyCopy();
}

Result<void> LocalTarget::ForgetEarlyCopy() const {
  std::error_code error;
  std::filesystem::remove(directory_ / kEarlyFile, error);
  if (error) return Error::FromErrno(error.value(), "remove the note of a copy in the making");
  return Ok();
}

Result<ImageStatus> LocalTarget::Missing(const ManifestDigest& manifest) {
  const std::shared_ptr<const Incoming> image = incoming();
  if (image == nullptr || image->digest.ToHex() != manifest.ToHex()) return Lacking(kLacksManifest);
  for (const auto& [digest, chunk] : image->chunks) {
    if (!GPUMIG_TRY(store_.Has(digest))) return Lacking(kLacksChunks);
  }
  return ImageStatus{true, {}};
}

Result<TargetReport> LocalTarget::Prepare(const ManifestDigest& manifest, std::stop_token stop) {
  const auto set_preparing = [this](bool preparing) {
    const std::lock_guard lock(mutex_);
    preparing_ = preparing;
  };
  set_preparing(true);
  Result<TargetReport> prepared = PrepareImage(manifest, std::move(stop));
  set_preparing(false);
  return prepared;
}

Result<TargetReport> LocalTarget::PrepareImage(const ManifestDigest& manifest, std::stop_token stop) {
  if (!GPUMIG_TRY(Missing(manifest)).complete)
    return MakeError(ErrorCode::kFailedPrecondition, "the image is not complete yet");
  const std::shared_ptr<const Incoming> image = incoming();
  GPUMIG_TRY(RemovePrepared());
  const std::shared_ptr<EarlyCopy> copy = EarlyCopyFor(image);
  if (!copy) return MakeError(ErrorCode::kFailedPrecondition, "another image came in");
  // The image is made durable while the copy is completed; both must have happened before we say we are prepared.
  std::future<Result<void>> synced = std::async(std::launch::async, [this] { return store_.Sync(); });
  Result<TargetReport> finished = Finish(*image, *copy, std::move(stop));
  Result<void> durable = synced.get();
  if (finished && !durable) finished = durable.error();
  if (finished) {
    if (Result<void> kept = Remember(*copy->gated); !kept) finished = kept.error();
  }
  if (!finished) {
    // An error here must not hide why.
    [[maybe_unused]] const Result<void> dropped = DropEarlyCopy();
    return finished;
  }
  gated_ = std::move(copy->gated);
  gpu_map_ = copy->gpu_map;
  {
    const std::lock_guard lock(mutex_);
    early_ = nullptr;
    ahead_ = nullptr;
  }
  copy->thread.join();
  GPUMIG_TRY(ForgetEarlyCopy());
  return finished;
}

Result<TargetReport> LocalTarget::Finish(const Incoming& image, EarlyCopy& copy, std::stop_token stop) {
  GPUMIG_TRY(copy.Await());
  Timeline timeline;
  timeline.Begin("memory");
  copy.AwaitKept();
  copy.gate.Close();
  GPUMIG_TRY(PlaceRest(image, copy, stop));
  timeline.End();
  if (stop.stop_requested()) return MakeError(ErrorCode::kCancelled, "the migration was called off");
  GPUMIG_TRY(copy.gated->RestoreDevices(copy.gpu_map, timeline));
  TargetReport report{copy.parts, ""};
  report.parts.insert(report.parts.end(), timeline.parts().begin(), timeline.parts().end());
  return report;
}

// What came before there was a tree to place it in.
Result<void> LocalTarget::PlaceRest(const Incoming& image, EarlyCopy& copy, std::stop_token stop) const {
  const auto wanted = [&](const ManifestChunk& chunk) { return !copy.gate.IsPlaced(chunk.digest); };
  const PlaceFn place = [&](const ManifestFile& file, std::uint64_t offset, std::span<const std::byte> plain) {
    return copy.fill->Place(file, offset, plain);
  };
  return PlaceChunks(image.manifest, store_, IsMemoryFile, place, OnAllCores(std::move(stop)), wanted);
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

// What an earlier Prepare() made.
Result<void> LocalTarget::RemovePrepared() {
  GPUMIG_TRY(FindAgain());
  if (gated_) GPUMIG_TRY(gated_->Discard());
  gated_.reset();
  std::error_code error;
  std::filesystem::remove(directory_ / kCopyFile, error);
  if (error) return Error::FromErrno(error.value(), "remove the note of an earlier copy");
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
  return TargetReport{
      timeline.parts(),
      ToText(
          {{"name", workload.name}, {"pid", workload.root}, {"gpu_map", map}, {"known_bytes", known_bytes_.load()}})};
}

Result<void> LocalTarget::Discard() {
  GPUMIG_TRY(DropEarlyCopy());
  GPUMIG_TRY(RemovePrepared());
  known_bytes_ = 0;
  return RemoveImage();
}

// The store stays open as long as this lives, so its files are emptied: unlinking them would free nothing. And a later
// attempt may come.
Result<void> LocalTarget::RemoveImage() {
  {
    const std::lock_guard lock(mutex_);
    incoming_.reset();
    ahead_.reset();
  }
  std::error_code error;
  std::filesystem::remove(directory_ / kManifestFile, error);
  if (error) return Error::FromErrno(error.value(), "remove the manifest of an image");
  return store_.Clear();
}

Result<void> LocalTarget::Remove() {
  GPUMIG_TRY(Discard());
  std::error_code error;
  std::filesystem::remove_all(directory_, error);
  if (error) return Error::FromErrno(error.value(), fmt::format("remove {}", directory_.string()));
  return Ok();
}

Result<void> LocalTarget::KeepImage() {
  if (const std::shared_ptr<const Incoming> image = incoming()) {
    const WorkloadFacts facts = GPUMIG_TRY(ParseWorkloadFacts(image->manifest.facts_json));
    // Of what came ahead, much was written again before the stop.
    for (const Digest& digest : GPUMIG_TRY(store_.List())) {
      if (!image->chunks.contains(digest)) GPUMIG_TRY(store_.Remove(digest));
    }
    GPUMIG_TRY(cache_.Keep(store_, facts.name));
  }
  return Ok();
}

void LocalTarget::DropImage() {
  cleaner_ = std::async(std::launch::async, [this] {
    if (const Result<void> kept = KeepImage(); !kept)
      spdlog::warn("cache: an image was not kept: {}", kept.error().message());
    // What cannot be removed now is looked at again when the agent starts anew.
    [[maybe_unused]] const Result<void> removed = RemoveImage();
  });
}

Result<CopyState> LocalTarget::Look() {
  GPUMIG_TRY(FindAgain());
  if (!gated_) return CopyState::kGone;
  return gated_->Look();
}

}  // namespace gpumig
