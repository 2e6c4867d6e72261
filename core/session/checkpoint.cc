#include "core/session/checkpoint.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <iterator>
#include <memory>
#include <thread>

#include "core/base/file.h"
#include "core/host/process.h"
#include "core/image/image_reader.h"
#include "core/image/image_writer.h"
#include "core/image/materialise.h"
#include "core/session/ahead_file.h"
#include "core/session/blockers.h"
#include "core/session/host_memory.h"
#include "core/session/restore_workload.h"
#include "core/session/staging.h"

namespace gpumig {
namespace {

using Clock = std::chrono::steady_clock;

std::chrono::microseconds Since(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start);
}

std::chrono::microseconds SumOf(const std::vector<TimedPart>& parts) {
  std::chrono::microseconds sum{0};
  for (const TimedPart& part : parts) sum += part.duration;
  return sum;
}

ParallelOptions ParallelWith(const PhaseProgressFn& progress, std::string_view phase) {
  ParallelOptions parallel;
  parallel.workers = std::max(1u, std::thread::hardware_concurrency());
  if (progress) {
    parallel.progress = [progress, phase = std::string(phase)](std::uint64_t done, std::uint64_t total) {
      progress(phase, total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total));
    };
  }
  return parallel;
}

// What can be known to be wrong before anything is stopped.
Result<void> CheckImageDirectory(const std::filesystem::path& image) {
  std::error_code error;
  if (std::filesystem::exists(image, error) && !std::filesystem::is_empty(image, error)) {
    return MakeError(ErrorCode::kAlreadyExists, "image directory {} is not empty", image.string())
        .WithNextStep("name a directory that is empty or does not exist yet");
  }
  const std::filesystem::path parent = std::filesystem::absolute(image).lexically_normal().parent_path();
  if (!std::filesystem::is_directory(parent, error)) {
    return MakeError(ErrorCode::kNotFound, "there is no directory {} for the image", parent.string());
  }
  return Ok();
}

// Memory that was copied while the workload ran, on its way to an image.
struct AheadCopy {
  StagingDirectory directory;
  AheadFile file;
  std::optional<LiveCopy> copy;  // as long as it watches

  static Result<std::unique_ptr<AheadCopy>> Make(const Site& site, std::uint64_t beside_bytes) {
    StagingDirectory directory = GPUMIG_TRY(StagingDirectory::Create(site, StagingDirectory::Use::kDump));
    AheadFile file = GPUMIG_TRY(AheadFile::Make(directory.path(), beside_bytes));
    return std::unique_ptr<AheadCopy>(new AheadCopy(std::move(directory), std::move(file)));
  }

 private:
  AheadCopy(StagingDirectory staging, AheadFile ahead)
      : directory(std::move(staging)), file(std::move(ahead)), copy(std::in_place, file, LiveOptions()) {}
};

bool AreOnOneFilesystem(const std::filesystem::path& a, const std::filesystem::path& b) {
  struct stat of_a{};
  struct stat of_b{};
  return stat(a.c_str(), &of_a) == 0 && stat(b.c_str(), &of_b) == 0 && of_a.st_dev == of_b.st_dev;
}

// What the staging directory must have room for, beside host memory: device memory, and the image if it is there too.
std::uint64_t RoomBesideHostMemory(const SessionContext& context, const CheckpointRequest& request,
                                   const std::vector<pid_t>& processes) {
  const std::uint64_t device_bytes = context.device->HeldBytes(processes).value_or(0);
  const bool image_too = AreOnOneFilesystem(context.site.staging_directory,
                                            std::filesystem::absolute(request.image).lexically_normal().parent_path());
  return device_bytes + (image_too ? device_bytes + MemoryOf(processes).anonymous_bytes : 0);
}

// While memory was copied, the workload may have taken to what cannot be captured.
Result<std::unique_ptr<AheadCopy>> CopyAhead(const SessionContext& context, const CheckpointRequest& request,
                                             WorkloadControl& control) {
  const std::vector<pid_t> processes = GPUMIG_TRY(control.tree().Processes());
  std::unique_ptr<AheadCopy> ahead =
      GPUMIG_TRY(AheadCopy::Make(context.site, RoomBesideHostMemory(context, request, processes)));
  GPUMIG_TRY(ahead->copy->CopyInRounds([&] { return control.tree().Processes(); }, {}),
             "copy memory of {} while it runs", request.workload.name);
  GPUMIG_TRY(RefuseBlockers(FindBlockers(GPUMIG_TRY(control.tree().Processes()))));
  return ahead;
}

LiveReport ReportOf(const AheadCopy& ahead) {
  LiveReport report = ahead.copy->report();
  if (ahead.file.dropped_bytes() > 0) {
    report.left_alone.push_back(fmt::format("{} MiB: there was no room for more in the staging directory {}",
                                            (ahead.file.dropped_bytes() >> 20) + 1,
                                            ahead.directory.path().parent_path().string()));
  }
  return report;
}

// Everything from the first copy to the image, with the workload left stopped on success, or running where it is to be
// left running.
Result<CheckpointReport> CaptureInto(const SessionContext& context, const CheckpointRequest& request,
                                     WorkloadControl& control, const PhaseProgressFn& progress, Timeline& timeline) {
  std::unique_ptr<AheadCopy> ahead;
  if (request.live) {
    if (progress) progress("copying memory while it runs", 0);
    ahead = GPUMIG_TRY(CopyAhead(context, request, control));
  }
  GPUMIG_TRY(control.Stop(request.capture.limits, timeline));
  const WorkloadFacts facts = GPUMIG_TRY(control.Facts());
  const StagingDirectory staging = GPUMIG_TRY(StagingDirectory::Create(context.site, StagingDirectory::Use::kDump));
  WriteOptions options;
  const MemoryMap dumped = GPUMIG_TRY(control.Dump(staging.path(), request.capture.host_path, timeline));
  const std::vector<pid_t> processes = GPUMIG_TRY(control.tree().Processes());
  std::vector<UnwrittenFile>& memory = options.source.unwritten;
  std::vector<UnwrittenFile> copied;
  CheckpointReport report;
  if (ahead) {
    timeline.Begin("layers");
    LiveCopy::Finished finished = GPUMIG_TRY(ahead->copy->Finish(dumped, processes, {}));
    GPUMIG_TRY(WriteMemoryMap(finished.map, staging.path()));
    copied = std::move(finished.ahead);
    memory = std::move(finished.last);
    ahead->file.Serve(copied, finished.map);
    report.live = ReportOf(*ahead);
  } else {
    memory = GPUMIG_TRY(MemoryAsFiles(dumped, processes));
  }
  std::optional<StagingDirectory> copies;
  if (request.leave_running) {
    timeline.Begin("copy_memory");
    copies.emplace(GPUMIG_TRY(StagingDirectory::Create(context.site, StagingDirectory::Use::kDump)));
    GPUMIG_TRY(WriteFiles(memory, copies->path(), ParallelWith(progress, "copying memory")));
    timeline.Begin("thaw");
    GPUMIG_TRY(control.Resume());
    timeline.End();
    if (ahead) ahead->copy.reset();  // it writes without being watched from here on
  } else {
    timeline.Begin("write_image");
  }
  std::ranges::move(copied, std::back_inserter(memory));
  for (const UnwrittenFile& file : memory) report.direct_bytes += file.bytes;
  options.source.facts_json = ToJson(facts);
  options.source.parallel = ParallelWith(progress, "writing the image");
  options.compression = request.compression;
  const ImageSummary summary = GPUMIG_TRY(WriteImage(staging.path(), request.image, options));
  timeline.End();

  report.image_digest = summary.image_digest.ToHex();
  report.device_bytes = facts.gpu.device_bytes;
  report.host_bytes = summary.total.plain_bytes - std::min(summary.total.plain_bytes, report.device_bytes);
  report.stored_bytes = summary.total.stored_bytes;
  report.device_path = facts.device_path();
  return report;
}

// What failed first, and why that could not be undone.
Outcome<CheckpointReport> AfterFailedResume(const std::string& name, Error failed, const Error& resume) {
  const bool lost = resume.code() == ErrorCode::kLost;
  // Where the same loss was met twice, once is enough.
  if (!lost || failed.code() != ErrorCode::kLost) {
    const std::string next_step = lost ? resume.next_step() : std::string();
    failed = Error(lost ? ErrorCode::kLost : failed.code(),
                   fmt::format("{}; and to make {} run again failed too: {}", failed.message(), name, resume.message()))
                 .WithNextStep(next_step);
  }
  if (lost) return {std::move(failed), Aftermath::kLost};
  const std::string first = resume.next_step().empty() ? "" : resume.next_step() + "; then ";
  failed.WithNextStep(fmt::format("{}gpumig resume {}", first, name));
  return {std::move(failed), Aftermath::kFrozen};
}

}  // namespace

Result<void> CheckRoom(const std::filesystem::path& directory, std::uint64_t needed_bytes, std::string_view what) {
  struct statvfs room{};
  if (statvfs(directory.c_str(), &room) != 0)
    return Error::FromErrno(errno, fmt::format("look at {}", directory.string()));
  const std::uint64_t free_bytes = std::uint64_t{room.f_bavail} * room.f_frsize;
  if (free_bytes >= needed_bytes) return Ok();
  return MakeError(ErrorCode::kNoSpace, "{} needs about {} MiB in {}, which has {} MiB free", what, needed_bytes >> 20,
                   directory.string(), free_bytes >> 20)
      .WithNextStep("free space there, or name another directory");
}

Result<void> CheckMemory(std::uint64_t needed_bytes) {
  const std::uint64_t available = GPUMIG_TRY(AvailableMemory());
  if (available >= needed_bytes) return Ok();
  return MakeError(ErrorCode::kResourceExhausted, "the workload has {} MiB of memory, and {} MiB are available here",
                   needed_bytes >> 20, available >> 20)
      .WithNextStep("end something there, or name another node");
}

Result<void> CheckRoomForDump(const SessionContext& context, const std::vector<pid_t>& processes, HostPath path) {
  if (path == HostPath::kDirect) return Ok();
  return CheckRoom(context.site.staging_directory, MemoryOf(processes).anonymous_bytes, "the dump");
}

Outcome<CheckpointReport> CheckpointWorkload(const SessionContext& context, const CheckpointRequest& request,
                                             const PhaseProgressFn& progress) {
  const auto start = Clock::now();
  const auto prepare = [&]() -> Result<WorkloadControl> {
    GPUMIG_TRY(CheckImageDirectory(request.image));
    const std::vector<pid_t> processes = GPUMIG_TRY(ProcessTree(request.workload.root));
    GPUMIG_TRY(RefuseBlockers(FindBlockers(processes)));
    GPUMIG_TRY(
        CheckRoomForDump(context, processes, request.leave_running ? HostPath::kCriu : request.capture.host_path));
    return WorkloadControl::Attach(request.workload, context.site, context.criu, *context.device);
  };
  Result<WorkloadControl> control = prepare();
  if (!control) return {control.error(), Aftermath::kUntouched};

  Timeline timeline(request.on_part);
  Result<CheckpointReport> report = CaptureInto(context, request, *control, progress, timeline);
  if (!report) {
    Result<void> resumed = control->Resume();
    if (!resumed) return AfterFailedResume(request.workload.name, std::move(report).error(), resumed.error());
    if (control->HasEnded()) return {report.error(), Aftermath::kEnded};
    return {report.error(), control->Vanished().empty() ? Aftermath::kRunsOn : Aftermath::kRestRunsOn};
  }
  report->downtime_parts = timeline.parts();
  report->downtime = SumOf(timeline.parts());
  if (!request.leave_running) {
    Result<void> destroyed = control->Destroy();
    if (!destroyed) return {destroyed.error(), Aftermath::kFrozen};
  }
  report->total = Since(start);
  return {std::move(report), Aftermath::kUntouched};
}

Outcome<RestoreReport> RestoreImage(const SessionContext& context, const RestoreRequest& request,
                                    const PhaseProgressFn& progress) {
  const auto start = Clock::now();
  const auto restore = [&]() -> Result<RestoreReport> {
    OpenedImage image = GPUMIG_TRY(OpenImage(request.image));
    const WorkloadFacts facts = GPUMIG_TRY(ParseWorkloadFacts(image.manifest.facts_json), "{}", request.image.string());
    const std::string name = request.name.empty() ? facts.name : request.name;
    GPUMIG_TRY(WorkloadRegistry(context.site).CheckFree(name));
    RestoreReport report;
    if (facts.uses_gpu()) report.gpu_map = GPUMIG_TRY(context.device->SolveMap(facts.gpu.gpus, request.asked_map));

    Timeline timeline;
    timeline.Begin("read_image");
    const ImageSummary summary = GPUMIG_TRY(Summarise(image.manifest, image.image_digest, *image.store));
    GPUMIG_TRY(CheckRoom(context.site.staging_directory, BytesWithCriu(image.manifest), "the restore"));
    const StagingDirectory staging =
        GPUMIG_TRY(StagingDirectory::Create(context.site, StagingDirectory::Use::kRestore));
    const ParallelOptions parallel = ParallelWith(progress, "reading the image");
    GPUMIG_TRY(MaterialiseImage(image.manifest, *image.store, staging.path(), parallel, std::not_fn(IsMemoryFile)));
    timeline.End();
    GatedWorkload gated = GPUMIG_TRY(
        GatedWorkload::Restore({.images = staging.path(), .name = name, .cgroup = context.site.NewCgroup(name)}, facts,
                               context.site, context.criu, *context.device, timeline),
        "restore {}", name);
    const auto finish = [&]() -> Result<void> {
      timeline.Begin("memory");
      const MemoryFill fill = GPUMIG_TRY(
          MemoryFill::Make(GPUMIG_TRY(ReadMemoryMap(staging.path())), image.manifest, GPUMIG_TRY(gated.Processes())));
      const PlaceFn place = [&](const ManifestFile& file, std::uint64_t offset, std::span<const std::byte> plain) {
        return fill.Place(file, offset, plain);
      };
      GPUMIG_TRY(PlaceChunks(image.manifest, *image.store, IsMemoryFile, place, parallel));
      timeline.End();
      return gated.RestoreDevices(report.gpu_map, timeline);
    };
    if (Result<void> finished = finish(); !finished) {
      GPUMIG_TRY(gated.Discard());
      return finished.error().AddContext(fmt::format("restore {}", name));
    }
    timeline.Begin("thaw");
    Result<void> opened = gated.Open();
    timeline.End();
    if (!opened) {
      GPUMIG_TRY(gated.Discard());
      return opened.error();
    }
    report.workload = gated.workload();
    report.image_digest = image.image_digest.ToHex();
    report.device_bytes = facts.gpu.device_bytes;
    report.host_bytes = summary.total.plain_bytes - std::min(summary.total.plain_bytes, report.device_bytes);
    report.stored_bytes = summary.total.stored_bytes;
    report.device_path = facts.device_path();
    report.parts = timeline.parts();
    report.total = Since(start);
    return report;
  };
  return {restore(), Aftermath::kUntouched};
}

}  // namespace gpumig
