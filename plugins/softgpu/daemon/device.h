// One emulated GPU: what it calls itself, and how much of its memory is taken.
//
// Thread safety: any number of threads at once.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "plugins/softgpu/wire/protocol.h"

namespace softgpu {

class Device {
 public:
  explicit Device(const DeviceDescription& description) : description_(description) {}

  DeviceDescription Describe() const;

  // False if less is free.
  bool Take(std::uint64_t bytes);
  void GiveBack(std::uint64_t bytes);
  void AddSession(int count);
  // When a copy of so many bytes, begun now, is over: copies of all programs share the device's bandwidth.
  std::chrono::steady_clock::time_point WhenMoved(std::uint64_t bytes);

  const Uuid& uuid() const { return description_.uuid; }
  std::uint64_t memory_bytes() const { return description_.memory_bytes; }

 private:
  mutable std::mutex mutex_;
  std::chrono::steady_clock::time_point busy_until_{};  // Guarded by mutex_.
  DeviceDescription description_;                       // used_bytes and session_count: guarded by mutex_.
};

// Reads "memory=2GiB,chip=SoftGPU,uuid=GPU-…,pci=0000:0a:00.0,numa=1,copy=4GiB,mig=2"; all parts are optional, the UUID
// is random and the PCI address follows `index` where not given. One device; with mig, its partitions in its place:
// each an equal share of the memory, with a UUID of its own that follows from the parent's. The string is what is
// wrong.
std::variant<std::vector<DeviceDescription>, std::string> ParseDevice(std::string_view spec, std::size_t index);

// "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", as NVIDIA's tools print and take it.
std::string ToString(const Uuid& uuid);
std::optional<Uuid> ParseUuid(std::string_view text);

}  // namespace softgpu
