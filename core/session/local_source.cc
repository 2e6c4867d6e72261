#include "core/session/local_source.h"

#include <algorithm>
#include <thread>

#include "core/host/process.h"
#include "core/session/blockers.h"

namespace gpumig {
namespace {

constexpr const char* kImagesName = "images";
constexpr const char* kFactsName = "facts.json";

}  // namespace

LocalSource::LocalSource(SessionContext context, Workload workload, CaptureOptions options,
                         const std::string& migration)
    : context_(std::move(context)),
      workload_(std::move(workload)),
      options_(options),
      staging_(context_.site.staging_directory / ("gpumig-out-" + migration)) {}

// What was sealed stays in staging: a successor of this agent may still need it.
LocalSource::~LocalSource() = default;

Result<WorkloadControl*> LocalSource::Control() {
  if (!control_) {
    control_.emplace(GPUMIG_TRY(WorkloadControl::Attach(workload_, context_.site, context_.criu, *context_.device)));
  }
  return &*control_;
}

Result<SealedCapture> LocalSource::Capture(std::uint32_t, const CallLimit& limit) {
  DropStaging();
  const std::vector<pid_t> processes = GPUMIG_TRY(ProcessTree(workload_.root));
  GPUMIG_TRY(RefuseBlockers(FindBlockers(processes)));
  GPUMIG_TRY(CheckRoomForDump(context_, processes, options_.host_path));
  WorkloadControl* control = GPUMIG_TRY(Control());
  GPUMIG_TRY(MakeDirectories(staging_ / kImagesName));

  live_report_.reset();
  stopped_at_.reset();
  std::optional<LiveCopy> live;
  if (shipper_ != nullptr) {
    live.emplace(*shipper_, live_options_);
    GPUMIG_TRY(live->CopyInRounds([&] { return control->tree().Processes(); }, limit.stop),
               "copy memory of {} while it runs", workload_.name);
    // Meanwhile it may have taken to what cannot be captured.
    GPUMIG_TRY(RefuseBlockers(FindBlockers(GPUMIG_TRY(control->tree().Processes()))));
  }

  stopped_at_ = std::chrono::steady_clock::now();
  Timeline timeline;
  GPUMIG_TRY(control->Stop(options_.limits, timeline));
  facts_ = GPUMIG_TRY(control->Facts());
  const MemoryMap dumped = GPUMIG_TRY(control->Dump(staging_ / kImagesName, options_.host_path, timeline));
  timeline.Begin("hash");
  std::vector<UnwrittenFile> memory = live ? GPUMIG_TRY(Finish(*live, dumped, limit.stop))
                                           : GPUMIG_TRY(MemoryAsFiles(dumped, GPUMIG_TRY(control->tree().Processes())));
  GPUMIG_TRY(WriteFileDurably(staging_ / kFactsName, ToJson(facts_)));
  GPUMIG_TRY(ReadImage(std::move(memory), limit.stop));
  timeline.End();

  SealedCapture sealed;
  sealed.manifest = GPUMIG_TRY(ManifestDigest::FromHex(image_->image_digest().ToHex()));
  sealed.copy = GPUMIG_TRY(Look());
  sealed.parts = timeline.parts();
  return sealed;
}

Result<std::vector<UnwrittenFile>> LocalSource::Finish(LiveCopy& live, const MemoryMap& dumped, std::stop_token stop) {
  const std::vector<pid_t> processes = GPUMIG_TRY((*GPUMIG_TRY(Control())).tree().Processes());
  LiveCopy::Finished finished = GPUMIG_TRY(live.Finish(dumped, processes, std::move(stop)));
  live_report_ = live.report();
  GPUMIG_TRY(WriteMemoryMap(finished.map, staging_ / kImagesName));
  std::vector<UnwrittenFile> files = std::move(finished.ahead);
  std::ranges::move(finished.last, std::back_inserter(files));
  return files;
}

Result<void> LocalSource::ReadImage(std::vector<UnwrittenFile> memory, std::stop_token stop) {
  SourceOptions options;
  options.unwritten = std::move(memory);
  options.facts_json = GPUMIG_TRY(ReadTextFile(staging_ / kFactsName));
  options.parallel.workers = std::max(1u, std::thread::hardware_concurrency());
  options.parallel.stop = std::move(stop);
  facts_ = GPUMIG_TRY(ParseWorkloadFacts(options.facts_json));
  image_.emplace(GPUMIG_TRY(BuildManifest(staging_ / kImagesName, options)));
  image_bytes_ = 0;
  direct_bytes_ = 0;
  for (const ManifestFile& file : image_->manifest().files) {
    image_bytes_ += file.bytes;
    if (IsMemoryFile(file)) direct_bytes_ += file.bytes;
  }
  return Ok();
}

Result<const HashedSource*> LocalSource::Image() {
  if (image_) return &*image_;
  const auto read_again = [&]() -> Result<void> {
    WorkloadControl* control = GPUMIG_TRY(Control());
    return ReadImage(GPUMIG_TRY(control->DumpedMemory(staging_ / kImagesName)), {});
  };
  GPUMIG_TRY(read_again(), "read the sealed image of {} again", workload_.name);
  return &*image_;
}

Result<void> LocalSource::Resume() {
  const Result<ProcessStat> stat = ReadProcessStat(workload_.root);
  const bool gone = !stat || stat->start_ticks != workload_.start_ticks || stat->state == 'Z';
  // What is left of a workload whose root was killed is let go, too.
  if (control_ || !gone) {
    WorkloadControl* control = GPUMIG_TRY(Control());
    GPUMIG_TRY(control->Resume());
  }
  control_.reset();
  DropStaging();
  return Ok();
}

Result<void> LocalSource::Destroy() {
  DropStaging();
  return WorkloadControl::Destroy(workload_, context_.site);
}

Result<CopyState> LocalSource::Look() {
  const Result<ProcessStat> stat = ReadProcessStat(workload_.root);
  if (!stat || stat->start_ticks != workload_.start_ticks || stat->state == 'Z') return CopyState::kGone;
  WorkloadControl* control = GPUMIG_TRY(Control());
  return GPUMIG_TRY(control->tree().cgroup().IsFrozen()) ? CopyState::kStopped : CopyState::kLive;
}

void LocalSource::DropStaging() {
  image_.reset();
  std::error_code ignored;
  std::filesystem::remove_all(staging_, ignored);
}

}  // namespace gpumig
