#include "tests/plugins/cuda/fake_driver.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <string_view>

using namespace cuda_abi;  // NOLINT: a file of its functions only

namespace {

gpumig::FakeCudaControl control;

template <typename Arguments>
void NoteReserved(const Arguments& arguments, std::size_t first_reserved) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(&arguments);
  control.reserved_is_zero = control.reserved_is_zero && std::all_of(bytes + first_reserved, bytes + sizeof(arguments),
                                                                     [](unsigned char b) { return b == 0; });
}

CUresult Init(unsigned) { return control.init; }
CUresult DriverGetVersion(int* version) { return *version = control.version, CUDA_SUCCESS; }
CUresult GetErrorName(CUresult result, const char** name) {
  *name = result == CUDA_ERROR_NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : nullptr;
  return *name != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult DeviceGetCount(int* count) { return *count = control.device_count, CUDA_SUCCESS; }
CUresult DeviceGet(CUdevice* device, int ordinal) { return *device = ordinal, CUDA_SUCCESS; }
CUresult DeviceGetName(char* name, int size, CUdevice) {
  std::snprintf(name, static_cast<std::size_t>(size), "Fake Chip");
  return CUDA_SUCCESS;
}
CUresult DeviceGetUuid(CUuuid* uuid, CUdevice device) {
  for (int i = 0; i < 16; ++i) uuid->bytes[i] = static_cast<char>(16 * device + i);
  return CUDA_SUCCESS;
}
CUresult DeviceGetPciBusId(char* id, int size, CUdevice device) {
  std::snprintf(id, static_cast<std::size_t>(size), "0000:%02x:00.0", static_cast<unsigned>(device));
  return CUDA_SUCCESS;
}
CUresult DeviceTotalMem(std::size_t* bytes, CUdevice) { return *bytes = 1000, CUDA_SUCCESS; }
CUresult Retain(CUcontext* context, CUdevice) {
  if (control.retain != CUDA_SUCCESS) return control.retain;
  ++control.contexts;
  return *context = reinterpret_cast<CUcontext>(std::uintptr_t{16}), CUDA_SUCCESS;
}
CUresult Release(CUdevice) { return --control.contexts, CUDA_SUCCESS; }
CUresult Push(CUcontext) { return CUDA_SUCCESS; }
CUresult Pop(CUcontext*) { return CUDA_SUCCESS; }
CUresult MemGetInfo(std::size_t* free, std::size_t* total) { return *free = 700, *total = 1000, CUDA_SUCCESS; }

CUresult Lock(int, CUcheckpointLockArgs* arguments) {
  NoteReserved(*arguments, offsetof(CUcheckpointLockArgs, reserved0));
  control.timeout_ms = arguments->timeoutMs;
  return control.checkpoint_call;
}
CUresult Checkpoint(int, CUcheckpointCheckpointArgs* arguments) {
  NoteReserved(*arguments, 0);
  return control.checkpoint_call;
}
CUresult Restore(int, CUcheckpointRestoreArgs* arguments) {
  NoteReserved(*arguments, offsetof(CUcheckpointRestoreArgs, padding0));
  control.had_pairs = arguments->gpuPairs != nullptr;
  control.pairs.assign(arguments->gpuPairs, arguments->gpuPairs + arguments->gpuPairsCount);
  return control.checkpoint_call;
}
CUresult Unlock(int, CUcheckpointUnlockArgs* arguments) {
  NoteReserved(*arguments, 0);
  return control.checkpoint_call;
}
CUresult GetState(int, CUprocessState* state) {
  *state = static_cast<CUprocessState>(control.state);
  return control.checkpoint_call;
}
CUresult GetRestoreThreadId(int pid, int* tid) { return *tid = pid, control.checkpoint_call; }

template <typename Function>
void* Address(Function function) {
  void* address = nullptr;
  static_assert(sizeof(address) == sizeof(function));
  std::memcpy(&address, &function, sizeof(address));
  return address;
}

}  // namespace

extern "C" gpumig::FakeCudaControl* fake_cuda_control() { return &control; }

extern "C" CUresult cuGetProcAddress_v2(const char* name, void** address, int, std::uint64_t,
                                        CUdriverProcAddressQueryResult*) {
  static const std::map<std::string_view, void*> functions = {
      {"cuInit", Address(Init)},
      {"cuDriverGetVersion", Address(DriverGetVersion)},
      {"cuGetErrorName", Address(GetErrorName)},
      {"cuDeviceGetCount", Address(DeviceGetCount)},
      {"cuDeviceGet", Address(DeviceGet)},
      {"cuDeviceGetName", Address(DeviceGetName)},
      {"cuDeviceGetUuid", Address(DeviceGetUuid)},
      {"cuDeviceGetPCIBusId", Address(DeviceGetPciBusId)},
      {"cuDeviceTotalMem", Address(DeviceTotalMem)},
      {"cuDevicePrimaryCtxRetain", Address(Retain)},
      {"cuDevicePrimaryCtxRelease", Address(Release)},
      {"cuCtxPushCurrent", Address(Push)},
      {"cuCtxPopCurrent", Address(Pop)},
      {"cuMemGetInfo", Address(MemGetInfo)},
      {"cuCheckpointProcessLock", Address(Lock)},
      {"cuCheckpointProcessCheckpoint", Address(Checkpoint)},
      {"cuCheckpointProcessRestore", Address(Restore)},
      {"cuCheckpointProcessUnlock", Address(Unlock)},
      {"cuCheckpointProcessGetState", Address(GetState)},
      {"cuCheckpointProcessGetRestoreThreadId", Address(GetRestoreThreadId)},
  };
  const auto found = functions.find(name);
  *address = found == functions.end() || control.missing == name ? nullptr : found->second;
  return *address != nullptr ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
