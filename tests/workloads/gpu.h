// The CUDA driver, for the workloads: nothing is linked, and whatever fails ends the program with a message and code 1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "plugins/cuda_abi/cuda_functions.h"

// Ownership: its context, module, stream and memory live until the process ends. Thread safety: the thread that made
// it.
class Gpu {
 public:
  using Pointer = cuda_abi::CUdeviceptr;

  // Device `ordinal`, with the kernels of `ptx`.
  explicit Gpu(const char* ptx, int ordinal = 0);
  // Makes it the calling thread's; the one that was made last is already.
  void Select();

  Pointer Allocate(std::size_t bytes);
  void Write(Pointer to, const void* from, std::size_t bytes);
  void Read(void* to, Pointer from, std::size_t bytes);
  void Zero(Pointer to, std::size_t bytes);  // A multiple of 4 bytes.

  // Queues `kernel` with at least `threads` threads, but no more than `max_blocks` blocks, and these arguments.
  template <class... T>
  void Launch(const char* kernel, std::uint64_t threads, unsigned max_blocks, T... arguments) {
    void* pointers[] = {&arguments...};
    LaunchPointers(kernel, threads, max_blocks, pointers);
  }
  // Until all that was queued is done.
  void Wait();

  static constexpr unsigned kBlockThreads = 256;

 private:
  struct Named {
    const char* name;
    cuda_abi::CUfunction function;
  };

  void LoadFunctions();
  template <class Function>
  void LoadFunction(const char* name, int since, Function** function);
  void Check(cuda_abi::CUresult result, const char* call) const;
  void LaunchPointers(const char* kernel, std::uint64_t threads, unsigned max_blocks, void** arguments);
  cuda_abi::CUfunction Find(const char* kernel);

  cuda_abi::fn::cuGetProcAddress_v2* get_proc_address_ = nullptr;
  cuda_abi::fn::cuGetErrorName* error_name_ = nullptr;
  cuda_abi::fn::cuInit* init_ = nullptr;
  cuda_abi::fn::cuDeviceGet* device_get_ = nullptr;
  cuda_abi::fn::cuDevicePrimaryCtxRetain* retain_ = nullptr;
  cuda_abi::fn::cuCtxSetCurrent* set_current_ = nullptr;
  cuda_abi::fn::cuModuleLoadData* load_data_ = nullptr;
  cuda_abi::fn::cuModuleGetFunction* get_function_ = nullptr;
  cuda_abi::fn::cuMemAlloc_v2* alloc_ = nullptr;
  cuda_abi::fn::cuMemcpyHtoDAsync_v2* write_ = nullptr;
  cuda_abi::fn::cuMemcpyDtoHAsync_v2* read_ = nullptr;
  cuda_abi::fn::cuMemsetD32Async* set_ = nullptr;
  cuda_abi::fn::cuStreamCreate* create_stream_ = nullptr;
  cuda_abi::fn::cuStreamSynchronize* synchronize_ = nullptr;
  cuda_abi::fn::cuLaunchKernel* launch_ = nullptr;
  cuda_abi::CUcontext context_ = nullptr;
  cuda_abi::CUmodule module_ = nullptr;
  cuda_abi::CUstream stream_ = nullptr;
  std::vector<Named> functions_;
};
