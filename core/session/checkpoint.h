// Checkpoint and restore by hand: a workload into an image on disk, and back.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/host/criu.h"
#include "core/host/workload_tree.h"
#include "core/image/chunk_codec.h"
#include "core/session/device_port.h"
#include "core/session/live_copy.h"
#include "core/session/registry.h"
#include "core/session/site.h"
#include "core/session/timeline.h"
#include "core/session/workload_control.h"

namespace gpumig {

// How things stand after a session that failed.
enum class Aftermath {
  kUntouched,   // nothing was begun
  kRunsOn,      // it was stopped, and runs on as before
  kRestRunsOn,  // likewise, save for processes of it that somebody killed meanwhile
  kEnded,       // it ended by itself meanwhile
  kFrozen,      // it stands frozen and whole; the error's next step settles it
  kLost,
};

template <typename T>
struct Outcome {
  Result<T> result;
  Aftermath aftermath = Aftermath::kUntouched;
};

// What sessions on this node work with. Borrows `device`.
struct SessionContext {
  Site site;
  Criu criu;
  DevicePort* device = nullptr;
};

struct CaptureOptions {
  StopLimits limits;
  HostPath host_path = HostPath::kDirect;  // images of both are restored
};

// What is being done, and how much of it: 0 to 1.
using PhaseProgressFn = std::function<void(std::string_view phase, double done)>;

struct CheckpointRequest {
  Workload workload;
  std::filesystem::path image;  // empty or missing
  bool leave_running = false;
  // Copy memory while it runs (LiveCopy), and while it stands still only what it has written since. REQUIRES:
  // leave_running and HostPath::kDirect
  bool live = false;
  CaptureOptions capture;
  CompressionChoice compression;
  PartFn on_part;  // of the downtime; may be empty
};

struct CheckpointReport {
  std::string image_digest;
  std::uint64_t host_bytes = 0;  // of CRIU's files, without those that came from GPUs
  std::uint64_t device_bytes = 0;
  std::uint64_t direct_bytes = 0;  // of host_bytes and device_bytes: past CRIU
  std::uint64_t stored_bytes = 0;
  std::string device_path;
  std::optional<LiveReport> live;
  std::vector<TimedPart> downtime_parts;
  std::chrono::microseconds downtime{0};
  std::chrono::microseconds total{0};
};

// Without `leave_running` the workload is gone when this returns, and it is killed only after the image is whole and
// safe on disk; until then every failure makes it run on.
Outcome<CheckpointReport> CheckpointWorkload(const SessionContext& context, const CheckpointRequest& request,
                                             const PhaseProgressFn& progress);

struct RestoreRequest {
  std::filesystem::path image;
  std::string name;                // empty: as it was called
  std::vector<GpuPair> asked_map;  // empty: chosen by SolveMap()
};

struct RestoreReport {
  Workload workload;
  std::vector<GpuPair> gpu_map;
  std::string image_digest;
  std::uint64_t host_bytes = 0;
  std::uint64_t device_bytes = 0;
  std::uint64_t stored_bytes = 0;
  std::string device_path;
  std::vector<TimedPart> parts;
  std::chrono::microseconds total{0};
};

// A new instance of what was captured, whatever became of the original. Every byte is checked on its way.
Outcome<RestoreReport> RestoreImage(const SessionContext& context, const RestoreRequest& request,
                                    const PhaseProgressFn& progress);

// Whether `directory` has room. Errors: kNoSpace, naming `what`.
Result<void> CheckRoom(const std::filesystem::path& directory, std::uint64_t needed_bytes, std::string_view what);

// Whether this host has as much memory for a workload that is to come. Errors: kResourceExhausted.
Result<void> CheckMemory(std::uint64_t needed_bytes);

// Whether the staging directory has room for what a capture of `processes` puts there: by HostPath::kDirect that is
// little, and CRIU itself tells if it is too much.
Result<void> CheckRoomForDump(const SessionContext& context, const std::vector<pid_t>& processes, HostPath path);

}  // namespace gpumig
