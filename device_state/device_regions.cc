#include "device_state/device_regions.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "core/base/check.h"
#include "core/base/file.h"
#include "core/base/unique_fd.h"
#include "core/host/process.h"

namespace gpumig {
namespace {

// Beyond what is to be held, so that the host does not come to its very end.
constexpr std::uint64_t kMemoryToSpare = std::uint64_t{64} << 20;

std::uint64_t BytesOf(std::span<const DeviceRegion> regions) {
  std::uint64_t sum = 0;
  for (const DeviceRegion& region : regions) sum += region.bytes;
  return sum;
}

// Calls `piece` with each piece of each region, of at most buffer_bytes.
Result<void> ForEachPiece(
    std::span<const DeviceRegion> regions, std::span<std::byte> buffer,
    const std::function<Result<void>(const DeviceRegion&, std::uint64_t, std::span<std::byte>)>& piece) {
  for (const DeviceRegion& region : regions) {
    for (std::uint64_t offset = 0; offset < region.bytes; offset += buffer.size()) {
      const std::size_t bytes = std::min<std::uint64_t>(buffer.size(), region.bytes - offset);
      GPUMIG_TRY(piece(region, offset, buffer.first(bytes)), "region {} from byte {}", region.index, offset);
    }
  }
  return Ok();
}

Result<void> ReadAll(DeviceRegions& from, std::span<std::byte> buffer, const TakeRegionFn& take) {
  return ForEachPiece(
      from.regions(), buffer,
      [&](const DeviceRegion& region, std::uint64_t offset, std::span<std::byte> bytes) -> Result<void> {
        GPUMIG_TRY(from.Read(region.index, offset, bytes));
        return take(region, offset, bytes);
      });
}

Result<void> WriteAllRegions(DeviceRegions& into, std::span<std::byte> buffer, const GiveRegionFn& give) {
  return ForEachPiece(
      into.regions(), buffer,
      [&](const DeviceRegion& region, std::uint64_t offset, std::span<std::byte> bytes) -> Result<void> {
        GPUMIG_TRY(give(region, offset, bytes));
        return into.Write(region.index, offset, bytes);
      });
}

// Where regions lie one behind the other in the file.
std::size_t PlaceOf(std::span<const DeviceRegion> regions, const DeviceRegion& region, std::uint64_t offset) {
  return static_cast<std::size_t>(BytesOf(regions.first(region.index)) + offset);
}

Result<void> CheckRoomToPutBack(DeviceRegionBackend& backend, pid_t process) {
  const std::optional<std::uint64_t> held = backend.HeldBytes(process);
  if (!held) return Ok();
  const std::uint64_t available = GPUMIG_TRY(AvailableMemory());
  if (available >= *held + kMemoryToSpare) return Ok();
  return MakeError(ErrorCode::kResourceExhausted,
                   "process {} has {} MiB on its GPUs, and {} MiB of host memory are free, should a capture have to be "
                   "taken back",
                   process, *held >> 20, available >> 20)
      .WithNextStep("nothing was begun; free memory on this host");
}

// Ends the capture and makes the process kLocked again, with all that it had.
Result<void> PutBack(DeviceRegionBackend& backend, pid_t process, std::unique_ptr<DeviceRegions> capture,
                     std::span<std::byte> buffer) {
  const std::vector<DeviceRegion> regions = capture->regions();
  const UniqueFd held(memfd_create("gpumig-regions", MFD_CLOEXEC));
  if (!held.valid()) return Error::FromErrno(errno, "make a file in memory");
  GPUMIG_TRY(ReadAll(*capture, buffer,
                     [&](const DeviceRegion& region, std::uint64_t offset, std::span<const std::byte> bytes) {
                       return WriteAllAt(held.get(), bytes, PlaceOf(regions, region, offset));
                     }));
  GPUMIG_TRY(capture->Complete());
  capture.reset();
  return StreamIn(backend, process, {}, regions, buffer.size(),
                  [&](const DeviceRegion& region, std::uint64_t offset, std::span<std::byte> bytes) {
                    return ReadExactlyAt(held.get(), bytes, PlaceOf(regions, region, offset));
                  });
}

}  // namespace

Result<std::vector<DeviceRegion>> StreamOut(DeviceRegionBackend& backend, pid_t process, std::size_t buffer_bytes,
                                            const TakeRegionFn& take) {
  GPUMIG_CHECK(buffer_bytes > 0);
  std::vector<std::byte> buffer(buffer_bytes);
  GPUMIG_TRY(CheckRoomToPutBack(backend, process));
  std::unique_ptr<DeviceRegions> capture =
      GPUMIG_TRY(backend.BeginCapture(process), "capture the device memory of process {}", process);
  const std::vector<DeviceRegion> regions = capture->regions();
  Result<void> ran = ReadAll(*capture, buffer, take);
  if (ran) {
    GPUMIG_TRY(capture->Complete(), "complete the capture of process {}", process);
    return regions;
  }
  ran.error().AddContext(fmt::format("capture the device memory of process {}", process));
  const Result<void> back = PutBack(backend, process, std::move(capture), buffer);
  if (back) return ran.error();
  return MakeError(ErrorCode::kLost, "{}; and it could not be put back on its GPUs: {}", ran.error().message(),
                   back.error().message())
      .WithNextStep("only an earlier image can bring the job back");
}

Result<void> StreamIn(DeviceRegionBackend& backend, pid_t process, std::span<const GpuPair> map,
                      std::span<const DeviceRegion> expected, std::size_t buffer_bytes, const GiveRegionFn& give) {
  GPUMIG_CHECK(buffer_bytes > 0);
  std::vector<std::byte> buffer(buffer_bytes);
  std::unique_ptr<DeviceRegions> restore =
      GPUMIG_TRY(backend.BeginRestore(process, map), "restore the device memory of process {}", process);
  const auto run = [&]() -> Result<void> {
    const bool same = std::ranges::equal(restore->regions(), expected, {}, &DeviceRegion::bytes, &DeviceRegion::bytes);
    if (!same) {
      return MakeError(ErrorCode::kDamaged, "the driver wants {} regions of {} bytes, and was to get {} of {}",
                       restore->regions().size(), BytesOf(restore->regions()), expected.size(), BytesOf(expected));
    }
    return WriteAllRegions(*restore, buffer, give);
  };
  Result<void> ran = run();
  if (!ran) {
    // All of it is written in any case: what a driver takes for in use must stay what it was.
    [[maybe_unused]] const Result<void> blanked = WriteAllRegions(
        *restore, buffer, [](const DeviceRegion&, std::uint64_t, std::span<std::byte> bytes) -> Result<void> {
          std::ranges::fill(bytes, std::byte{0});
          return Ok();
        });
  }
  const Result<void> completed = restore->Complete();
  if (ran && completed) return Ok();
  if (!ran && completed) {
    // It would run with what is there by chance: it is captured once more, so that nobody unlocks it.
    restore.reset();
    std::unique_ptr<DeviceRegions> again = GPUMIG_TRY(backend.BeginCapture(process), "take process {} back", process);
    GPUMIG_TRY(again->Complete(), "take process {} back", process);
  }
  Error error = ran ? completed.error() : ran.error();
  return error.AddContext(fmt::format("restore the device memory of process {}", process));
}

}  // namespace gpumig
