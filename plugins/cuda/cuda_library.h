// CudaLibrary: a CUDA driver library, opened at run time, with the functions that gpumig calls.
#pragma once

#include <memory>
#include <string>

#include "core/base/result.h"
#include "plugins/cuda_abi/cuda_abi.h"

namespace gpumig {

// Functions are looked up by cuGetProcAddress_v2 at the version whose prototype is declared here: plain dlsym() gives
// the oldest ABI of a name.
struct CudaFunctions {
  using CUresult = cuda_abi::CUresult;

  CUresult (*init)(unsigned flags) = nullptr;
  CUresult (*driver_get_version)(int*) = nullptr;
  CUresult (*get_error_name)(CUresult, const char**) = nullptr;
  CUresult (*device_get_count)(int*) = nullptr;
  CUresult (*device_get)(cuda_abi::CUdevice*, int) = nullptr;
  CUresult (*device_get_name)(char*, int, cuda_abi::CUdevice) = nullptr;
  CUresult (*device_get_uuid)(cuda_abi::CUuuid*, cuda_abi::CUdevice) = nullptr;
  CUresult (*device_get_pci_bus_id)(char*, int, cuda_abi::CUdevice) = nullptr;
  CUresult (*device_get_attribute)(int*, cuda_abi::CUdevice_attribute, cuda_abi::CUdevice) = nullptr;  // may be null
  CUresult (*device_total_mem)(std::size_t*, cuda_abi::CUdevice) = nullptr;
  CUresult (*primary_context_retain)(cuda_abi::CUcontext*, cuda_abi::CUdevice) = nullptr;
  CUresult (*primary_context_release)(cuda_abi::CUdevice) = nullptr;
  CUresult (*context_push)(cuda_abi::CUcontext) = nullptr;
  CUresult (*context_pop)(cuda_abi::CUcontext*) = nullptr;
  CUresult (*mem_get_info)(std::size_t* free, std::size_t* total) = nullptr;
  CUresult (*checkpoint_lock)(int pid, cuda_abi::CUcheckpointLockArgs*) = nullptr;
  CUresult (*checkpoint_checkpoint)(int pid, cuda_abi::CUcheckpointCheckpointArgs*) = nullptr;
  CUresult (*checkpoint_restore)(int pid, cuda_abi::CUcheckpointRestoreArgs*) = nullptr;
  CUresult (*checkpoint_unlock)(int pid, cuda_abi::CUcheckpointUnlockArgs*) = nullptr;
  CUresult (*checkpoint_get_state)(int pid, cuda_abi::CUprocessState*) = nullptr;
  CUresult (*checkpoint_get_restore_thread_id)(int pid, int* tid) = nullptr;
  // Of drivers that lend device memory of other processes (CUDA 13.4), else null.
  CUresult (*checkpoint_operation_complete)(cuda_abi::CUcheckpointOperationHandle) = nullptr;
  CUresult (*copy_to_host)(void* to, cuda_abi::CUdeviceptr from, std::size_t bytes, cuda_abi::CUstream) = nullptr;
  CUresult (*copy_to_device)(cuda_abi::CUdeviceptr to, const void* from, std::size_t, cuda_abi::CUstream) = nullptr;
  CUresult (*stream_synchronize)(cuda_abi::CUstream) = nullptr;
  // Of the software GPU only, else null: the driver interface has no such question.
  CUresult (*process_memory)(int pid, unsigned long long* bytes) = nullptr;
};

// A library that has come up: cuInit() done, at least one GPU, all functions there.
//
// Ownership: move-only; closes the library when it goes.
class CudaLibrary {
 public:
  // `name` is a path, or a name that the dynamic linker looks up.
  // Errors: kUnavailable, it cannot be opened, or it has no GPU; kUnsupported, it is too old to capture processes.
  static Result<CudaLibrary> Open(const std::string& name);

  const CudaFunctions& functions() const { return functions_; }
  // 1000 * major + 10 * minor of the newest CUDA that the driver speaks; 13000 for driver 580.
  int version() const { return version_; }
  // The file that was mapped, where the linker tells.
  const std::string& path() const { return path_; }

 private:
  struct Closer {
    void operator()(void* handle) const;
  };
  CudaLibrary() = default;
  Result<void> LookUp();
  Result<void> ComeUp();

  std::unique_ptr<void, Closer> handle_;
  std::string path_;
  CudaFunctions functions_;
  int version_ = 0;
};

}  // namespace gpumig
