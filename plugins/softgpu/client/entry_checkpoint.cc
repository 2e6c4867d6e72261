// Driver entry points: checkpoint and restore of other processes.
#include <cstring>

#include "plugins/softgpu/client/controller.h"
#include "plugins/softgpu/client/custom_storage.h"
#include "plugins/softgpu/client/driver_facts.h"
#include "plugins/softgpu/client/entry_points.h"

using namespace cuda_abi;  // Signatures are the interface's own.
using softgpu::Command;
using softgpu::CommandKind;
using softgpu::Controller;

namespace softgpu {
namespace {

template <typename T>
bool IsZero(const T& bytes) {
  T zero{};
  return std::memcmp(&bytes, &zero, sizeof(T)) == 0;
}

CUresult Send(int pid, Command& command) {
  if (pid <= 0) return CUDA_ERROR_INVALID_VALUE;
  Controller controller;
  const CUresult opened = Controller::Open(pid, controller);
  return opened == CUDA_SUCCESS ? controller.Do(command) : opened;
}

bool HasCustomStorage() {
  const Client* client = Client::Get();
  return (client != nullptr ? client->driver_version() : AskDriverFacts().version) >= kCustomStorageVersion;
}

}  // namespace
}  // namespace softgpu

extern "C" {

CUresult cuCheckpointProcessGetState(int pid, CUprocessState* state) {
  if (pid <= 0 || state == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Controller controller;
  const CUresult opened = Controller::Open(pid, controller);
  if (opened == CUDA_SUCCESS) *state = controller.state();
  return opened;
}

CUresult cuCheckpointProcessGetRestoreThreadId(int pid, int* tid) {
  if (pid <= 0 || tid == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Controller controller;
  const CUresult opened = Controller::Open(pid, controller);
  return opened == CUDA_SUCCESS ? controller.RestoreThreadId(*tid) : opened;
}

CUresult cuCheckpointProcessLock(int pid, CUcheckpointLockArgs* args) {
  Command command;
  command.kind = CommandKind::kLock;
  if (args != nullptr) {
    if (args->reserved0 != 0 || !softgpu::IsZero(args->reserved1)) return CUDA_ERROR_INVALID_VALUE;
    command.timeout_ms = args->timeoutMs;
  }
  return softgpu::Send(pid, command);
}

CUresult cuCheckpointProcessCheckpoint(int pid, CUcheckpointCheckpointArgs* args) {
  if (args != nullptr && !softgpu::IsZero(args->reserved)) return CUDA_ERROR_INVALID_VALUE;
  Command command;
  command.kind = CommandKind::kCheckpoint;
  if (args != nullptr && args->customStorageInfo_out != nullptr) {
    if (!softgpu::HasCustomStorage()) return CUDA_ERROR_INVALID_VALUE;  // Reserved bytes, to an older driver.
    command.kind = CommandKind::kCheckpointCustom;
    return softgpu::BeginCustomStorage(pid, command, args->customStorageInfo_out);
  }
  return softgpu::Send(pid, command);
}

CUresult cuCheckpointProcessRestore(int pid, CUcheckpointRestoreArgs* args) {
  Command command;
  command.kind = CommandKind::kRestore;
  if (args != nullptr) {
    if (!softgpu::IsZero(args->reserved) || args->padding0 != 0) return CUDA_ERROR_INVALID_VALUE;
    if (args->gpuPairsCount > softgpu::kMaxPairs || (args->gpuPairsCount > 0 && args->gpuPairs == nullptr)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    command.pair_count = args->gpuPairsCount;
    for (unsigned i = 0; i < args->gpuPairsCount; ++i) command.pairs[i] = args->gpuPairs[i];
    if (args->customStorageInfo_out != nullptr) {
      if (!softgpu::HasCustomStorage()) return CUDA_ERROR_INVALID_VALUE;
      command.kind = CommandKind::kRestoreCustom;
      return softgpu::BeginCustomStorage(pid, command, args->customStorageInfo_out);
    }
  }
  return softgpu::Send(pid, command);
}

CUresult cuCheckpointProcessUnlock(int pid, CUcheckpointUnlockArgs* args) {
  if (args != nullptr && !softgpu::IsZero(args->reserved)) return CUDA_ERROR_INVALID_VALUE;
  Command command;
  command.kind = CommandKind::kUnlock;
  return softgpu::Send(pid, command);
}

CUresult cuCheckpointOperationComplete(CUcheckpointOperationHandle handle) {
  if (!softgpu::HasCustomStorage()) return CUDA_ERROR_NOT_SUPPORTED;
  return softgpu::CompleteCustomStorage(handle);
}

}  // extern "C"
