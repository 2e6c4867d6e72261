// NvmlMemory: how much memory of a GPU is free, told by the management library, which needs no context on the GPU.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

namespace gpumig {

// Optional: a host without libnvidia-ml.so.1, as every one with the software GPU, gets answers from the driver instead.
//
// Thread safety: one thread at a time.
class NvmlMemory {
 public:
  // Null where the library is not there or does not come up.
  static std::unique_ptr<NvmlMemory> Open();
  ~NvmlMemory();
  NvmlMemory(const NvmlMemory&) = delete;
  NvmlMemory& operator=(const NvmlMemory&) = delete;

  std::optional<std::uint64_t> FreeBytes(const std::string& uuid);

 private:
  // Declared by hand: nvml.h comes with no toolkit package. Source: NVML API reference, nvmlMemory_t.
  struct Memory {
    unsigned long long total;
    unsigned long long free;
    unsigned long long used;
  };
  using Device = struct NvmlDevice*;
  NvmlMemory() = default;

  void* handle_ = nullptr;
  int (*init_)() = nullptr;
  int (*shutdown_)() = nullptr;
  int (*device_by_uuid_)(const char*, Device*) = nullptr;
  int (*memory_info_)(Device, Memory*) = nullptr;
  bool up_ = false;
};

}  // namespace gpumig
