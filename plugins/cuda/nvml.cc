#include "plugins/cuda/nvml.h"

#include <dlfcn.h>

#include <cstring>

namespace gpumig {
namespace {

constexpr int kNvmlSuccess = 0;

template <typename Function>
bool Find(void* handle, const char* name, Function*& function) {
  void* address = dlsym(handle, name);
  std::memcpy(&function, &address, sizeof(function));
  return address != nullptr;
}

}  // namespace

std::unique_ptr<NvmlMemory> NvmlMemory::Open() {
  std::unique_ptr<NvmlMemory> nvml(new NvmlMemory());
  nvml->handle_ = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (nvml->handle_ == nullptr) return nullptr;
  const bool complete = Find(nvml->handle_, "nvmlInit_v2", nvml->init_) &&
                        Find(nvml->handle_, "nvmlShutdown", nvml->shutdown_) &&
                        Find(nvml->handle_, "nvmlDeviceGetHandleByUUID", nvml->device_by_uuid_) &&
                        Find(nvml->handle_, "nvmlDeviceGetMemoryInfo", nvml->memory_info_);
  nvml->up_ = complete && nvml->init_() == kNvmlSuccess;
  if (!nvml->up_) return nullptr;
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

}  // namespace gpumig
