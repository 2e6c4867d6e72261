// CudaRegions: DeviceRegions by the custom storage of CUDA 13.4, where the driver maps another process's device memory
// into our GPUs until the operation is complete.
#pragma once

#include <memory>
#include <vector>

#include "device_state/device_regions.h"
#include "plugins/cuda/cuda_library.h"

namespace gpumig {

// Our primary contexts on all GPUs, which the driver wants active as long as an operation is under way.
// Source: ai-dynamo/snapshot, cuda_checkpoint: a context that is released before loses the views.
//
// Ownership: move-only; releases them. Borrows the functions of a library that must outlive it.
class HeldContexts {
 public:
  static Result<HeldContexts> Retain(const CudaFunctions& cuda);
  HeldContexts(HeldContexts&& other) noexcept : cuda_(other.cuda_), held_(std::exchange(other.held_, {})) {}
  HeldContexts& operator=(HeldContexts&&) = delete;
  ~HeldContexts();

  cuda_abi::CUcontext first() const { return held_.front().context; }

 private:
  struct Held {
    cuda_abi::CUdevice device;
    cuda_abi::CUcontext context;
  };
  explicit HeldContexts(const CudaFunctions& cuda) : cuda_(&cuda) {}

  const CudaFunctions* cuda_;
  std::vector<Held> held_;
};

class CudaRegions : public DeviceRegions {
 public:
  // `info`, of an operation that was begun, is the driver's until Complete().
  CudaRegions(const CudaFunctions& cuda, HeldContexts contexts, const cuda_abi::CUcheckpointCustomStorageInfo& info);
  ~CudaRegions() override;

  const std::vector<DeviceRegion>& regions() const override { return regions_; }
  Result<void> Read(std::size_t region, std::uint64_t offset, std::span<std::byte> into) override;
  Result<void> Write(std::size_t region, std::uint64_t offset, std::span<const std::byte> from) override;
  Result<void> Complete() override;

 private:
  struct Range {
    cuda_abi::CUdeviceptr base;
    cuda_abi::CUstream stream;
  };
  // `copy` queues into the region's stream, which is then waited for, in a context of ours.
  template <typename Copy>
  Result<void> Move(std::size_t region, std::uint64_t offset, std::size_t bytes, const char* call, Copy copy);

  const CudaFunctions& cuda_;
  HeldContexts contexts_;
  cuda_abi::CUcheckpointOperationHandle operation_;  // null: complete
  std::vector<DeviceRegion> regions_;
  std::vector<Range> ranges_;
};

}  // namespace gpumig
