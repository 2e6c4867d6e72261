// CudaBackend: the DeviceBackend over the CUDA driver API, one for NVIDIA's driver and for the software GPU.
#pragma once

#include <memory>

#include "device_state/device_backend.h"
#include "device_state/device_regions.h"
#include "plugins/cuda/cuda_library.h"
#include "plugins/cuda/nvml.h"

namespace gpumig {

class CudaBackend : public DeviceBackend, public DeviceRegionBackend {
 public:
  // `nvml` may be null; then free memory is asked of the driver, in a context that lives for the question only.
  CudaBackend(CudaLibrary library, std::unique_ptr<NvmlMemory> nvml);

  std::string Describe() override;
  Result<std::vector<GpuFacts>> Devices() override;
  Result<GpuState> State(pid_t process) override;
  // From the management library; the software GPU's driver tells by itself.
  std::optional<std::uint64_t> HeldBytes(pid_t process) override;
  Result<void> Lock(pid_t process, std::chrono::milliseconds limit) override;
  Result<void> Checkpoint(pid_t process) override;
  // A driver before CUDA 13.0 (580) takes no map: kUnsupported, save where each GPU maps to itself.
  Result<void> Restore(pid_t process, std::span<const GpuPair> map) override;
  Result<void> Unlock(pid_t process) override;
  Result<pid_t> RestoreThread(pid_t process) override;

  // Regions by custom storage: CUDA 13.4. Our own contexts on all GPUs are held meanwhile.
  Result<std::unique_ptr<DeviceRegions>> BeginCapture(pid_t process) override;
  Result<std::unique_ptr<DeviceRegions>> BeginRestore(pid_t process, std::span<const GpuPair> map) override;

 private:
  Result<GpuFacts> Facts(int ordinal);
  Result<std::uint64_t> FreeBytes(const std::string& uuid, cuda_abi::CUdevice device);
  static Result<std::vector<cuda_abi::CUcheckpointGpuPair>> Pairs(std::span<const GpuPair> map);
  Result<void> CheckLends() const;
  Result<void> Checked(cuda_abi::CUresult result, std::string_view call) const;

  const CudaLibrary library_;
  const CudaFunctions& cuda_;
  const std::unique_ptr<NvmlMemory> nvml_;
};

}  // namespace gpumig
