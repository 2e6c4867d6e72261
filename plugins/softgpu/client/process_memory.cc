// softgpuProcessMemory: how much device memory another process holds. Not of the driver interface, which has no such
// call.
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "plugins/cuda_abi/cuda_abi.h"

namespace softgpu {
namespace {

// As the daemon names the memory of a session (daemon/arena.cc), of which the session's process holds the descriptors.
constexpr char kMemoryName[] = "/memfd:softgpu-memory";
constexpr unsigned long long kBlockBytes = 512;

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};

}  // namespace
}  // namespace softgpu

// What was allocated and never touched has no pages, and does not count.
// NOT_PERMITTED: its /proc/<pid>/fd may not be read. OPERATING_SYSTEM: it is not there.
extern "C" __attribute__((visibility("default"))) cuda_abi::CUresult softgpuProcessMemory(int pid,
                                                                                          unsigned long long* bytes);

cuda_abi::CUresult softgpuProcessMemory(int pid, unsigned long long* bytes) {
  if (pid <= 0 || bytes == nullptr) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/%d/fd", pid);
  const std::unique_ptr<DIR, softgpu::CloseDirectory> directory(opendir(path));
  if (directory == nullptr) {
    return errno == EACCES ? cuda_abi::CUDA_ERROR_NOT_PERMITTED : cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  }
  *bytes = 0;
  while (const dirent* entry = readdir(directory.get())) {
    char target[64] = {};
    const ssize_t length = readlinkat(dirfd(directory.get()), entry->d_name, target, sizeof(target) - 1);
    if (length <= 0 || std::strncmp(target, softgpu::kMemoryName, std::strlen(softgpu::kMemoryName)) != 0) continue;
    struct stat status = {};
    if (fstatat(dirfd(directory.get()), entry->d_name, &status, 0) != 0) continue;
    *bytes += static_cast<unsigned long long>(status.st_blocks) * softgpu::kBlockBytes;
  }
  return cuda_abi::CUDA_SUCCESS;
}
