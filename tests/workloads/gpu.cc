#include "tests/workloads/gpu.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

Gpu::Gpu(const char* ptx, int ordinal) {
  LoadFunctions();
  cuda_abi::CUdevice device = 0;
  Check(init_(0), "cuInit");
  Check(device_get_(&device, ordinal), "cuDeviceGet");
  Check(retain_(&context_, device), "cuDevicePrimaryCtxRetain");
  Check(set_current_(context_), "cuCtxSetCurrent");
  Check(load_data_(&module_, ptx), "cuModuleLoadData");
  Check(create_stream_(&stream_, cuda_abi::CU_STREAM_NON_BLOCKING), "cuStreamCreate");
}

void Gpu::Select() { Check(set_current_(context_), "cuCtxSetCurrent"); }

void Gpu::LoadFunctions() {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW);
  if (library == nullptr) {
    std::fprintf(stderr, "error: %s\n", dlerror());
    std::exit(1);
  }
  get_proc_address_ = reinterpret_cast<cuda_abi::fn::cuGetProcAddress_v2*>(dlsym(library, "cuGetProcAddress_v2"));
  if (get_proc_address_ == nullptr) {
    std::fprintf(stderr, "error: libcuda.so.1 has no cuGetProcAddress_v2: the driver is older than CUDA 12\n");
    std::exit(1);
  }
  namespace fn = cuda_abi::fn;
  LoadFunction(fn::kName_cuGetErrorName, fn::kSince_cuGetErrorName, &error_name_);
  LoadFunction(fn::kName_cuInit, fn::kSince_cuInit, &init_);
  LoadFunction(fn::kName_cuDeviceGet, fn::kSince_cuDeviceGet, &device_get_);
  LoadFunction(fn::kName_cuDevicePrimaryCtxRetain, fn::kSince_cuDevicePrimaryCtxRetain, &retain_);
  LoadFunction(fn::kName_cuCtxSetCurrent, fn::kSince_cuCtxSetCurrent, &set_current_);
  LoadFunction(fn::kName_cuModuleLoadData, fn::kSince_cuModuleLoadData, &load_data_);
  LoadFunction(fn::kName_cuModuleGetFunction, fn::kSince_cuModuleGetFunction, &get_function_);
  LoadFunction(fn::kName_cuMemAlloc_v2, fn::kSince_cuMemAlloc_v2, &alloc_);
  LoadFunction(fn::kName_cuMemcpyHtoDAsync_v2, fn::kSince_cuMemcpyHtoDAsync_v2, &write_);
  LoadFunction(fn::kName_cuMemcpyDtoHAsync_v2, fn::kSince_cuMemcpyDtoHAsync_v2, &read_);
  LoadFunction(fn::kName_cuMemsetD32Async, fn::kSince_cuMemsetD32Async, &set_);
  LoadFunction(fn::kName_cuStreamCreate, fn::kSince_cuStreamCreate, &create_stream_);
  LoadFunction(fn::kName_cuStreamSynchronize, fn::kSince_cuStreamSynchronize, &synchronize_);
  LoadFunction(fn::kName_cuLaunchKernel, fn::kSince_cuLaunchKernel, &launch_);
}

template <class Function>
void Gpu::LoadFunction(const char* name, int since, Function** function) {
  void* address = nullptr;
  cuda_abi::CUdriverProcAddressQueryResult found = cuda_abi::CU_GET_PROC_ADDRESS_SUCCESS;
  const cuda_abi::CUresult result = get_proc_address_(name, &address, since, cuda_abi::kGetProcAddressDefault, &found);
  if (result != cuda_abi::CUDA_SUCCESS || address == nullptr) {
    std::fprintf(stderr, "error: cuGetProcAddress_v2(\"%s\", %d): code %d\n", name, since, static_cast<int>(result));
    std::exit(1);
  }
  *function = reinterpret_cast<Function*>(address);
}

void Gpu::Check(cuda_abi::CUresult result, const char* call) const {
  if (result == cuda_abi::CUDA_SUCCESS) return;
  const char* name = nullptr;
  error_name_(result, &name);
  std::fprintf(stderr, "error: %s: %s (code %d)\n", call, name == nullptr ? "unknown" : name, static_cast<int>(result));
  std::exit(1);
}

Gpu::Pointer Gpu::Allocate(std::size_t bytes) {
  Pointer pointer = 0;
  Check(alloc_(&pointer, bytes), "cuMemAlloc");
  return pointer;
}

void Gpu::Write(Pointer to, const void* from, std::size_t bytes) {
  Check(write_(to, from, bytes, stream_), "cuMemcpyHtoDAsync");
}

void Gpu::Read(void* to, Pointer from, std::size_t bytes) {
  Check(read_(to, from, bytes, stream_), "cuMemcpyDtoHAsync");
  Wait();
}

void Gpu::Zero(Pointer to, std::size_t bytes) { Check(set_(to, 0, bytes / 4, stream_), "cuMemsetD32Async"); }

void Gpu::Wait() { Check(synchronize_(stream_), "cuStreamSynchronize"); }

cuda_abi::CUfunction Gpu::Find(const char* kernel) {
  for (const Named& known : functions_) {
    if (std::strcmp(known.name, kernel) == 0) return known.function;
  }
  Named named{kernel, nullptr};
  Check(get_function_(&named.function, module_, kernel), "cuModuleGetFunction");
  functions_.push_back(named);
  return named.function;
}

void Gpu::LaunchPointers(const char* kernel, std::uint64_t threads, unsigned max_blocks, void** arguments) {
  const std::uint64_t blocks = std::min<std::uint64_t>((threads + kBlockThreads - 1) / kBlockThreads, max_blocks);
  Check(launch_(Find(kernel), static_cast<unsigned>(blocks), 1, 1, kBlockThreads, 1, 1, 0, stream_, arguments, nullptr),
        "cuLaunchKernel");
}
