// DeviceRegions: the bytes that a process has on its GPUs, read and written region by region on their way out and in,
// past the process's own host memory.
//
// For drivers that lend another process's device memory to the caller (CUDA 13.4: custom storage). Sessions do not use
// it yet: they take the way that every driver has, DeviceBackend::Checkpoint() and Restore().
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/base/result.h"
#include "core/session/device_port.h"

namespace gpumig {

// All that a process has on one of the GPUs that it sees, one byte after the other; what is what, only the driver
// knows. It counts the GPUs as the process does, before and after a restore onto others.
struct DeviceRegion {
  std::size_t index = 0;
  std::uint64_t bytes = 0;  // may be 0: it uses nothing there
};

// One operation of the driver, begun: a capture or a restore.
//
// A driver has no way back from it: destroying this without Complete() leaves the process where no driver call can help
// it, so a destructor completes. After Complete() no other call is allowed.
//
// Ownership: borrows the backend it is from. Thread safety: one thread at a time.
// Errors: kIo, the driver refused a copy, or the process has ended; kUnavailable, its GPU is gone.
class DeviceRegions {
 public:
  virtual ~DeviceRegions() = default;

  // By index, which has no gaps.
  virtual const std::vector<DeviceRegion>& regions() const = 0;

  // As many bytes as the span has, from `offset` on. REQUIRES: they are within the region
  virtual Result<void> Read(std::size_t region, std::uint64_t offset, std::span<std::byte> into) = 0;
  virtual Result<void> Write(std::size_t region, std::uint64_t offset, std::span<const std::byte> from) = 0;

  // Ends the operation; waits for the driver. Of a capture: the process is kCheckpointed, its device memory free, and
  // its bytes are nowhere but where Read() put them. Of a restore: it is kLocked, with what Write() put there.
  virtual Result<void> Complete() = 0;
};

class DeviceRegionBackend {
 public:
  virtual ~DeviceRegionBackend() = default;

  // Device memory that it holds. Empty: the driver does not tell.
  virtual std::optional<std::uint64_t> HeldBytes(pid_t process) = 0;
  // Of a process that is kLocked, and stays so if this fails.
  // Errors: kUnsupported, this driver lends no memory; kFailedPrecondition, wrong state; kPermissionDenied.
  virtual Result<std::unique_ptr<DeviceRegions>> BeginCapture(pid_t process) = 0;
  // Of one that was captured by BeginCapture(), by anybody; it stays kCheckpointed if this fails. Empty `map`: in
  // place. Errors: as above; kInvalidArgument, `map` lacks a GPU that the process saw.
  virtual Result<std::unique_ptr<DeviceRegions>> BeginRestore(pid_t process, std::span<const GpuPair> map) = 0;
};

// Gets each piece of each region once, in order; an error ends the stream.
using TakeRegionFn =
    std::function<Result<void>(const DeviceRegion& region, std::uint64_t offset, std::span<const std::byte> bytes)>;
// Fills `bytes`.
using GiveRegionFn =
    std::function<Result<void>(const DeviceRegion& region, std::uint64_t offset, std::span<std::byte> bytes)>;

// Captures `process` in pieces of at most `buffer_bytes`, which is all the memory it takes. kLocked -> kCheckpointed.
//
// Where `take` fails the process is put back on its GPUs and is kLocked again. The way there leads through a file in
// memory that holds all its regions, since the driver cannot call a capture off: the host needs that much free, and
// where the driver tells how much it is, nothing is begun without (kResourceExhausted).
//
// Errors: those of the above and of `take`; kLost, it could not be put back. Gives the regions.
Result<std::vector<DeviceRegion>> StreamOut(DeviceRegionBackend& backend, pid_t process, std::size_t buffer_bytes,
                                            const TakeRegionFn& take);

// The reverse, into a process that StreamOut() captured. kCheckpointed -> kLocked, if its regions are `expected`.
//
// Where `give` fails the process is kCheckpointed again, with zeros for memory, and this can be tried anew. Errors:
// those of the above and of `give`; kDamaged, the driver's regions are not `expected`: likewise.
Result<void> StreamIn(DeviceRegionBackend& backend, pid_t process, std::span<const GpuPair> map,
                      std::span<const DeviceRegion> expected, std::size_t buffer_bytes, const GiveRegionFn& give);

}  // namespace gpumig
