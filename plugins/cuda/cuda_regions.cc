#include "plugins/cuda/cuda_regions.h"

#include "core/base/check.h"
#include "plugins/cuda/cuda_error.h"

namespace gpumig {

using cuda_abi::CUDA_SUCCESS;
using cuda_abi::CUresult;

Result<HeldContexts> HeldContexts::Retain(const CudaFunctions& cuda) {
  HeldContexts contexts(cuda);
  int count = 0;
  if (const CUresult result = cuda.device_get_count(&count); result != CUDA_SUCCESS)
    return CudaCheckpointError(cuda, result, "cuDeviceGetCount");
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    Held held{};
    CUresult result = cuda.device_get(&held.device, ordinal);
    if (result == CUDA_SUCCESS) result = cuda.primary_context_retain(&held.context, held.device);
    if (result != CUDA_SUCCESS) return CudaCheckpointError(cuda, result, "cuDevicePrimaryCtxRetain");
    contexts.held_.push_back(held);
  }
  if (contexts.held_.empty()) return MakeError(ErrorCode::kUnavailable, "the driver has no GPU");
  return contexts;
}

HeldContexts::~HeldContexts() {
  for (const Held& held : held_) cuda_->primary_context_release(held.device);
}

CudaRegions::CudaRegions(const CudaFunctions& cuda, HeldContexts contexts,
                         const cuda_abi::CUcheckpointCustomStorageInfo& info)
    : cuda_(cuda), contexts_(std::move(contexts)), operation_(info.handle) {
  for (unsigned i = 0; i < info.deviceCount; ++i) {
    const cuda_abi::CUcheckpointCustomStoragePerDeviceData& device = info.perDeviceData[i];
    regions_.push_back({i, device.size});
    ranges_.push_back({device.devPtr, device.stream});
  }
}

CudaRegions::~CudaRegions() { [[maybe_unused]] const Result<void> completed = Complete(); }

template <typename Copy>
Result<void> CudaRegions::Move(std::size_t region, std::uint64_t offset, std::size_t bytes, const char* call,
                               Copy copy) {
  GPUMIG_CHECK(operation_ != nullptr && region < regions_.size());
  GPUMIG_CHECK(offset <= regions_[region].bytes && bytes <= regions_[region].bytes - offset);
  if (bytes == 0) return Ok();
  CUresult result = cuda_.context_push(contexts_.first());
  if (result != CUDA_SUCCESS) return CudaCheckpointError(cuda_, result, "cuCtxPushCurrent");
  const Range& range = ranges_[region];
  result = copy(range.base + offset, range.stream);
  // Also where it failed: nothing of it may still be under way when the caller takes its buffer away.
  const CUresult waited = cuda_.stream_synchronize(range.stream);
  cuda_abi::CUcontext popped = nullptr;
  cuda_.context_pop(&popped);
  if (result != CUDA_SUCCESS) return CudaCheckpointError(cuda_, result, call);
  if (waited != CUDA_SUCCESS) return CudaCheckpointError(cuda_, waited, "cuStreamSynchronize");
  return Ok();
}

Result<void> CudaRegions::Read(std::size_t region, std::uint64_t offset, std::span<std::byte> into) {
  return Move(region, offset, into.size(), "cuMemcpyDtoHAsync",
              [&](cuda_abi::CUdeviceptr at, cuda_abi::CUstream stream) {
                return cuda_.copy_to_host(into.data(), at, into.size(), stream);
              });
}

Result<void> CudaRegions::Write(std::size_t region, std::uint64_t offset, std::span<const std::byte> from) {
  return Move(region, offset, from.size(), "cuMemcpyHtoDAsync",
              [&](cuda_abi::CUdeviceptr at, cuda_abi::CUstream stream) {
                return cuda_.copy_to_device(at, from.data(), from.size(), stream);
              });
}

Result<void> CudaRegions::Complete() {
  if (operation_ == nullptr) return Ok();
  const CUresult result = cuda_.checkpoint_operation_complete(std::exchange(operation_, nullptr));
  if (result != CUDA_SUCCESS) return CudaCheckpointError(cuda_, result, "cuCheckpointOperationComplete");
  return Ok();
}

}  // namespace gpumig
