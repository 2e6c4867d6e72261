// NvmlMemory: how much memory of a GPU is free, and how much a process holds, told by the management library, which
// needs no context on the GPU.
#pragma once

#include <sys/types.h>

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
  static std::unique_ptr<NvmlMemory> Open(const char* library = "libnvidia-ml.so.1");
  ~NvmlMemory();
  NvmlMemory(const NvmlMemory&) = delete;
  NvmlMemory& operator=(const NvmlMemory&) = delete;

  std::optional<std::uint64_t> FreeBytes(const std::string& uuid);
  // On all GPUs. Empty: none lists the process, or one that does is not told how much it holds (as with MIG, or where
  // the driver numbers processes of another pid namespace).
  std::optional<std::uint64_t> HeldBytes(pid_t process);

 private:
  // Declared by hand: nvml.h comes with no toolkit package. Source: NVML API reference, nvmlMemory_t.
  struct Memory {
    unsigned long long total;
    unsigned long long free;
    unsigned long long used;
  };
  // Source: nvml.h 12, nvmlProcessInfo_t of nvmlDeviceGetComputeRunningProcesses_v3.
  struct Process {
    unsigned pid;
    unsigned long long used_bytes;
    unsigned gpu_instance;
    unsigned compute_instance;
  };
  using Device = struct NvmlDevice*;
  NvmlMemory() = default;

  void* handle_ = nullptr;
  int (*init_)() = nullptr;
  int (*shutdown_)() = nullptr;
  int (*device_by_uuid_)(const char*, Device*) = nullptr;
  int (*memory_info_)(Device, Memory*) = nullptr;
  // Optional, all three or none.
  int (*device_count_)(unsigned*) = nullptr;
  int (*device_by_index_)(unsigned, Device*) = nullptr;
  int (*processes_)(Device, unsigned*, Process*) = nullptr;
  bool up_ = false;
};

}  // namespace gpumig
