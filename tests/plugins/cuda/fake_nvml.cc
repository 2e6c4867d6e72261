// A management library of two GPUs, for answers that need NVIDIA's hardware: process 17 holds 100 bytes on the first
// and 20 on the second, 18 something that is not told.
#include <cstring>

namespace {

struct Process {
  unsigned pid;
  unsigned long long used_bytes;
  unsigned gpu_instance;
  unsigned compute_instance;
};
constexpr unsigned long long kNotAvailable = ~0ULL;
constexpr int kSuccess = 0;
constexpr int kInsufficientSize = 7;

int devices[2];

}  // namespace

extern "C" {

int nvmlInit_v2() { return kSuccess; }
int nvmlShutdown() { return kSuccess; }
int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = 2;
  return kSuccess;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = &devices[index];
  return kSuccess;
}
int nvmlDeviceGetHandleByUUID(const char*, void** device) {
  *device = &devices[0];
  return kSuccess;
}
int nvmlDeviceGetMemoryInfo(void*, unsigned long long* total_free_used) {
  total_free_used[0] = 1000;
  total_free_used[1] = 880;
  total_free_used[2] = 120;
  return kSuccess;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void* device, unsigned* count, Process* list) {
  constexpr Process kFirst[] = {{17, 100, ~0u, ~0u}, {18, kNotAvailable, ~0u, ~0u}};
  constexpr Process kSecond[] = {{17, 20, ~0u, ~0u}};
  const bool first = device == &devices[0];
  const unsigned wanted = first ? 2 : 1;
  if (*count < wanted) return kInsufficientSize;
  *count = wanted;
  std::memcpy(list, first ? kFirst : kSecond, wanted * sizeof(Process));
  return kSuccess;
}

}  // extern "C"
