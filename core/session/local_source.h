// LocalSource: the SourceWorkload of this host. What CRIU writes goes into memory-backed files; bulk memory stays in
// the frozen workload and is read from there. The image never touches the disk.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "core/base/file.h"
#include "core/image/hashed_source.h"
#include "core/session/checkpoint.h"
#include "core/session/live_copy.h"
#include "core/session/ports.h"
#include "core/session/workload_control.h"

namespace gpumig {

// Ownership: borrows context.device. Thread safety: as SourceWorkload; image() from any thread between Capture() and
// Resume() or Destroy().
class LocalSource : public SourceWorkload {
 public:
  // `migration` names the staging directory, so that one that was left behind is found again.
  LocalSource(SessionContext context, Workload workload, CaptureOptions options, const std::string& migration);
  ~LocalSource() override;

  // Captures from now on begin with rounds of copying while the workload runs. `shipper` must outlive this.
  // REQUIRES: CheckLivePath() has nothing against the path of `options`
  void CopyAheadThrough(AheadShipper& shipper, const LiveOptions& options) {
    shipper_ = &shipper;
    live_options_ = options;
  }
  // Of the last capture. Nothing: it was not copied ahead.
  const std::optional<LiveReport>& live_report() const { return live_report_; }

  Result<SealedCapture> Capture(std::uint32_t attempt, const CallLimit& limit) override;
  std::optional<std::chrono::steady_clock::time_point> StoppedAt() const override { return stopped_at_; }
  Result<void> Resume() override;
  Result<void> Destroy() override;
  Result<CopyState> Look() override;

  // The sealed image; after a restart of the agent it is read again from what was left in staging.
  // Errors: kNotFound, nothing was sealed here.
  Result<const HashedSource*> Image();
  // Of the captured workload. REQUIRES: Image() gave one
  const WorkloadFacts& facts() const { return facts_; }
  // Of all files of the image, and of those that CRIU had nothing to do with; 0 before one was sealed. Stay after the
  // image has gone.
  std::uint64_t image_bytes() const { return image_bytes_; }
  std::uint64_t direct_bytes() const { return direct_bytes_; }

 private:
  Result<WorkloadControl*> Control();
  Result<std::vector<UnwrittenFile>> Finish(LiveCopy& live, const MemoryMap& dumped, std::stop_token stop);
  Result<void> ReadImage(std::vector<UnwrittenFile> memory, std::stop_token stop);
  void DropStaging();

  SessionContext context_;
  Workload workload_;
  CaptureOptions options_;
  std::filesystem::path staging_;
  std::optional<WorkloadControl> control_;
  AheadShipper* shipper_ = nullptr;
  LiveOptions live_options_;
  std::optional<LiveReport> live_report_;
  std::optional<std::chrono::steady_clock::time_point> stopped_at_;
  std::optional<HashedSource> image_;
  WorkloadFacts facts_;
  std::uint64_t image_bytes_ = 0;
  std::uint64_t direct_bytes_ = 0;
};

}  // namespace gpumig
