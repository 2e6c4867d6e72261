#include "plugins/cuda/nvml.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace gpumig {
namespace {

constexpr int kNvmlSuccess = 0;
constexpr unsigned kMostDevices = 256;
constexpr std::size_t kMostProcesses = 4096;  // on one GPU
// Source: nvml.h 12, NVML_VALUE_NOT_AVAILABLE.
constexpr unsigned long long kNotAvailable = ~0ULL;

template <typename Function>
bool Find(void* handle, const char* name, Function*& function) {
  void* address = dlsym(handle, name);
  std::memcpy(&function, &address, sizeof(function));
  return address != nullptr;
}

}  // namespace

std::unique_ptr<NvmlMemory> NvmlMemory::Open(const char* library) {
  std::unique_ptr<NvmlMemory> nvml(new NvmlMemory());
  nvml->handle_ = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (nvml->handle_ == nullptr) return nullptr;
  const bool complete = Find(nvml->handle_, "nvmlInit_v2", nvml->init_) &&
                        Find(nvml->handle_, "nvmlShutdown", nvml->shutdown_) &&
                        Find(nvml->handle_, "nvmlDeviceGetHandleByUUID", nvml->device_by_uuid_) &&
                        Find(nvml->handle_, "nvmlDeviceGetMemoryInfo", nvml->memory_info_);
  nvml->up_ = complete && nvml->init_() == kNvmlSuccess;
  if (!nvml->up_) return nullptr;
  const bool lists_processes = Find(nvml->handle_, "nvmlDeviceGetCount_v2", nvml->device_count_) &&
                               Find(nvml->handle_, "nvmlDeviceGetHandleByIndex_v2", nvml->device_by_index_) &&
                               Find(nvml->handle_, "nvmlDeviceGetComputeRunningProcesses_v3", nvml->processes_);
  if (!lists_processes) nvml->processes_ = nullptr;
  return nvml;
}

NvmlMemory::~NvmlMemory() {
  if (up_) shutdown_();
  if (handle_ != nullptr) dlclose(handle_);
}

std::optional<std::uint64_t> NvmlMemory::FreeBytes(const std::string& uuid) {
  Device device = nullptr;
  Memory memory{};
  if (device_by_uuid_(uuid.c_str(), &device) != kNvmlSuccess) return std::nullopt;
  if (memory_info_(device, &memory) != kNvmlSuccess) return std::nullopt;
  return memory.free;
}

std::optional<std::uint64_t> NvmlMemory::HeldBytes(pid_t process) {
  unsigned devices = 0;
  if (processes_ == nullptr || device_count_(&devices) != kNvmlSuccess) return std::nullopt;
  std::optional<std::uint64_t> held;
  for (unsigned i = 0; i < std::min(devices, kMostDevices); ++i) {
    Device device = nullptr;
    std::vector<Process> list(kMostProcesses);
    auto count = static_cast<unsigned>(list.size());
    if (device_by_index_(i, &device) != kNvmlSuccess || processes_(device, &count, list.data()) != kNvmlSuccess)
      return std::nullopt;
    list.resize(std::min<std::size_t>(count, list.size()));
    for (const Process& one : list) {
      if (one.pid != static_cast<unsigned>(process)) continue;
      if (one.used_bytes == kNotAvailable) return std::nullopt;
      held = held.value_or(0) + one.used_bytes;
    }
  }
  return held;
}

}  // namespace gpumig
