#include "plugins/cuda/cuda_error.h"

#include "core/base/check.h"

namespace gpumig {
namespace {

struct Meaning {
  ErrorCode code;
  std::string_view text;
  std::string_view next_step;
};

// Sources: the driver API's pages of these calls (12.8, 13.0), and cuda-checkpoint's issues by number.
Meaning MeaningOf(cuda_abi::CUresult result) {
  switch (result) {
    case cuda_abi::CUDA_ERROR_INVALID_VALUE:
      return {ErrorCode::kInvalidArgument,
              "the driver refuses the arguments; the GPU map must list every GPU that the process saw (issues 35, 46)",
              "map every GPU the job saw, also those it did not use"};
    case cuda_abi::CUDA_ERROR_OUT_OF_MEMORY:
      return {
          ErrorCode::kResourceExhausted,
          "out of GPU memory, or of host memory for the copy (with MIG the driver says so whatever is free, issue 42)",
          "free memory, or map to another GPU"};
    case cuda_abi::CUDA_ERROR_NOT_INITIALIZED:
      return {ErrorCode::kFailedPrecondition, "the process uses no GPU", ""};
    case cuda_abi::CUDA_ERROR_NO_DEVICE:
    case cuda_abi::CUDA_ERROR_DEVICE_UNAVAILABLE:
      return {ErrorCode::kUnavailable, "no GPU can be had now", "see that no other process holds it exclusively"};
    case cuda_abi::CUDA_ERROR_OPERATING_SYSTEM:
      return {ErrorCode::kIo, "the operating system refused the driver something, or the process ended meanwhile",
              "run as root, with the GPU's persistence mode on (nvidia-smi -pm 1, issue 25)"};
    case cuda_abi::CUDA_ERROR_ILLEGAL_STATE:
      return {ErrorCode::kFailedPrecondition,
              "its GPU state is not one that this can be done in; somebody else may act on it",
              "see that no other checkpoint program is at work"};
    case cuda_abi::CUDA_ERROR_NOT_READY:
      return {ErrorCode::kDeadlineExceeded,
              "its GPU work did not come to rest in time; a kernel that does not end never does",
              "it runs on, unlocked; try again with a longer limit"};
    case cuda_abi::CUDA_ERROR_NOT_PERMITTED:
      return {ErrorCode::kPermissionDenied, "we may not trace the process", "run as root, or with CAP_SYS_PTRACE"};
    case cuda_abi::CUDA_ERROR_NOT_SUPPORTED:
      return {ErrorCode::kUnsupported,
              "it holds a GPU object that the driver cannot carry (managed memory, memory shared with other processes, "
              "or a "
              "handle of another graphics API)",
              ""};
    default:
      return {ErrorCode::kInternal, "unexpected answer of the driver", ""};
  }
}

}  // namespace

std::string CudaResultName(const CudaFunctions& functions, cuda_abi::CUresult result) {
  const char* name = nullptr;
  if (functions.get_error_name != nullptr) functions.get_error_name(result, &name);
  return fmt::format("{} ({})", name != nullptr ? name : "unknown error", static_cast<unsigned>(result));
}

Error CudaCheckpointError(const CudaFunctions& functions, cuda_abi::CUresult result, std::string_view call) {
  GPUMIG_CHECK(result != cuda_abi::CUDA_SUCCESS);
  const Meaning meaning = MeaningOf(result);
  Error error = MakeError(meaning.code, "{}: {}: {}", call, meaning.text, CudaResultName(functions, result));
  if (!meaning.next_step.empty()) error.WithNextStep(std::string(meaning.next_step));
  return error;
}

}  // namespace gpumig
