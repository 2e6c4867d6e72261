// Claims: modules, libraries, functions, launches, occupancy, faults of kernels.
#include <cstring>
#include <vector>

#include "tests/conformance/driver/probe.h"
#include "tests/plugins/softgpu/kernels.h"

namespace conformance {
namespace {

void ModulesHaveFunctionsAndVariables(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  CUmodule module = nullptr;
  NEED_CU(cuda.cuModuleLoadData(&module, softgpu_test::kKernels));
  CUfunction function = nullptr;
  CUfunction again = nullptr;
  EXPECT_CU(cuda.cuModuleGetFunction(&function, module, "count"), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuModuleGetFunction(&again, module, "count"), CUDA_SUCCESS);
  EXPECT_HOLDS(function == again);
  EXPECT_CU(cuda.cuModuleGetFunction(&function, module, "no_such"), CUDA_ERROR_NOT_FOUND);
  CUdeviceptr counter = 0;
  std::size_t bytes = 0;
  EXPECT_CU(cuda.cuModuleGetGlobal_v2(&counter, &bytes, module, "counter"), CUDA_SUCCESS);
  EXPECT_HOLDS(bytes == 8);
  unsigned long long value = 0;
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, counter, 8), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 7);
  EXPECT_CU(cuda.cuModuleGetGlobal_v2(&counter, &bytes, module, "no_such"), CUDA_ERROR_NOT_FOUND);
  EXPECT_CU(cuda.cuModuleGetFunction(nullptr, module, "count"), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuModuleUnload(module), CUDA_SUCCESS);
}

void FunctionsAreEnumerated(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_FUNCTION(cuModuleEnumerateFunctions);
  probe.Begin();
  CUmodule module = nullptr;
  NEED_CU(cuda.cuModuleLoadData(&module, softgpu_test::kKernels));
  unsigned count = 0;
  EXPECT_CU(cuda.cuModuleGetFunctionCount(&count, module), CUDA_SUCCESS);
  EXPECT_HOLDS(count == 5);
  std::vector<CUfunction> functions(count);
  EXPECT_CU(cuda.cuModuleEnumerateFunctions(functions.data(), count, module), CUDA_SUCCESS);
  bool has_fill = false;
  for (const CUfunction function : functions) {
    const char* name = nullptr;
    EXPECT_CU(cuda.cuFuncGetName(&name, function), CUDA_SUCCESS);
    has_fill |= name != nullptr && std::strcmp(name, "fill") == 0;
  }
  EXPECT_HOLDS(has_fill);
}

void WhatIsNotPtxIsRefused(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  CUmodule module = nullptr;
  EXPECT_CU(cuda.cuModuleLoadData(&module, ".version 7.5\n.target sm_80\n.address_size 64\nthis is not PTX"),
            CUDA_ERROR_INVALID_PTX);
  EXPECT_CU(cuda.cuModuleLoadData(nullptr, softgpu_test::kKernels), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuModuleLoad(&module, "/nonexistent.ptx"), CUDA_ERROR_FILE_NOT_FOUND);
  EXPECT_CU(cuda.cuCtxSynchronize(), CUDA_SUCCESS);
}

void FunctionsSayWhatTheyNeed(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  const CUfunction add = probe.Kernel("add");
  int value = 0;
  EXPECT_CU(cuda.cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, add), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 1024);
  EXPECT_CU(cuda.cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, add), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 0);
  EXPECT_CU(cuda.cuFuncSetAttribute(add, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 100 * 1024), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, add), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 100 * 1024);
  EXPECT_CU(cuda.cuFuncSetAttribute(add, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1 << 30),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuFuncGetAttribute(&value, static_cast<CUfunction_attribute>(1000), add), CUDA_ERROR_INVALID_VALUE);
}

void ParametersAreDescribed(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_FUNCTION(cuFuncGetParamInfo);
  probe.Begin();
  const CUfunction add = probe.Kernel("add");
  std::size_t offset = 99;
  std::size_t bytes = 0;
  EXPECT_CU(cuda.cuFuncGetParamInfo(add, 1, &offset, &bytes), CUDA_SUCCESS);
  EXPECT_HOLDS(offset == 8 && bytes == 4);
  EXPECT_CU(cuda.cuFuncGetParamInfo(add, 3, &offset, &bytes), CUDA_ERROR_INVALID_VALUE);
}

void LaunchesAreChecked(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  const CUfunction fill = probe.Kernel("fill");
  CUdeviceptr memory = probe.Memory(4096);
  unsigned items = 1000;
  void* parameters[] = {&memory, &items};
  const auto launch = [&](unsigned grid, unsigned block, unsigned shared) {
    return cuda.cuLaunchKernel(fill, grid, 1, 1, block, 1, 1, shared, nullptr, parameters, nullptr);
  };
  EXPECT_CU(launch(0, 128, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(launch(1, 0, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(launch(1, 2048, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(launch(1, 128, 49 * 1024), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuLaunchKernel(fill, 1, 70000, 1, 1, 1, 1, 0, nullptr, parameters, nullptr), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuLaunchKernel(fill, 1, 1, 1, 1, 1, 65, 0, nullptr, parameters, nullptr), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(launch(8, 128, 0), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuCtxSynchronize(), CUDA_SUCCESS);
}

void ParametersComePackedToo(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  struct {
    CUdeviceptr memory;
    unsigned items;
  } packed = {probe.Memory(4000), 1000};
  std::size_t bytes = sizeof(packed);
  void* extra[] = {reinterpret_cast<void*>(kLaunchParamBufferPointer), &packed,
                   reinterpret_cast<void*>(kLaunchParamBufferSize), &bytes, reinterpret_cast<void*>(kLaunchParamEnd)};
  const CUfunction fill = probe.Kernel("fill");
  EXPECT_CU(cuda.cuLaunchKernel(fill, 8, 1, 1, 128, 1, 1, 0, nullptr, nullptr, extra), CUDA_SUCCESS);
  unsigned value = 0;
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, packed.memory + 3996, 4), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 999);
}

void LaunchesWithAttributes(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_FUNCTION(cuLaunchKernelEx);
  probe.Begin();
  CUdeviceptr memory = probe.Memory(4000);
  unsigned items = 1000;
  void* parameters[] = {&memory, &items};
  CUlaunchAttribute attribute{};
  attribute.id = CU_LAUNCH_ATTRIBUTE_PRIORITY;
  attribute.value.priority = 0;
  const CUlaunchConfig config{8, 1, 1, 128, 1, 1, 0, nullptr, &attribute, 1};
  EXPECT_CU(cuda.cuLaunchKernelEx(&config, probe.Kernel("fill"), parameters, nullptr), CUDA_SUCCESS);
  unsigned value = 0;
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, memory + 3996, 4), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 999);
  EXPECT_CU(cuda.cuLaunchKernelEx(nullptr, nullptr, parameters, nullptr), CUDA_ERROR_INVALID_VALUE);
}

void AnIllegalAddressSticks(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  const CUdeviceptr memory = probe.Memory(4096);
  CUstream stream = nullptr;
  CUevent event = nullptr;
  NEED_CU(cuda.cuStreamCreate(&stream, 0));
  NEED_CU(cuda.cuEventCreate(&event, 0));
  EXPECT_CU(probe.Launch(probe.Kernel("wild"), 1, {}), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  CUdeviceptr more = 0;
  unsigned value = 0;
  CUmodule module = nullptr;
  EXPECT_CU(cuda.cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_CU(cuda.cuMemAlloc_v2(&more, 64), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, memory, 4), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_CU(cuda.cuMemFree_v2(memory), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_CU(cuda.cuStreamSynchronize(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_CU(cuda.cuEventRecord(event, stream), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_CU(cuda.cuModuleLoadData(&module, softgpu_test::kKernels), CUDA_ERROR_ILLEGAL_ADDRESS);
}

void AFreedAddressIsIllegal(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  CUfunction fill = probe.Kernel("fill");
  CUdeviceptr memory = probe.Memory(std::size_t{64} << 20);
  unsigned items = 128;
  NEED_CU(probe.Launch(fill, items, {&memory, &items}));
  NEED_CU(cuda.cuMemFree_v2(memory));
  EXPECT_CU(probe.Launch(fill, items, {&memory, &items}), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
}

void LibrariesServeEveryContext(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_FUNCTION(cuLibraryLoadData);
  NEED_CU(cuda.cuInit(0));
  // No context is needed to load one.
  CUlibrary library = nullptr;
  NEED_CU(cuda.cuLibraryLoadData(&library, softgpu_test::kKernels, nullptr, nullptr, 0, nullptr, nullptr, 0));
  CUcontext contexts[2];
  CUkernel kernel = nullptr;
  for (CUcontext& context : contexts) NEED_CU(cuda.cuCtxCreate_v2(&context, 0, 0));
  NEED_CU(cuda.cuLibraryGetKernel(&kernel, library, "fill"));
  for (const CUcontext context : contexts) {
    NEED_CU(cuda.cuCtxSetCurrent(context));
    CUdeviceptr memory = probe.Memory(4000);
    unsigned items = 1000;
    CUfunction function = nullptr;
    EXPECT_CU(cuda.cuKernelGetFunction(&function, kernel), CUDA_SUCCESS);
    EXPECT_CU(probe.Launch(function, items, {&memory, &items}), CUDA_SUCCESS);
    EXPECT_CU(cuda.cuMemsetD8_v2(memory, 0, 4000), CUDA_SUCCESS);
    EXPECT_CU(probe.Launch(reinterpret_cast<CUfunction>(kernel), items, {&memory, &items}), CUDA_SUCCESS);
    unsigned value = 0;
    EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, memory + 3996, 4), CUDA_SUCCESS);
    EXPECT_HOLDS(value == 999);
    CUdeviceptr counter = 0;
    std::size_t bytes = 0;
    EXPECT_CU(cuda.cuLibraryGetGlobal(&counter, &bytes, library, "counter"), CUDA_SUCCESS);
    EXPECT_HOLDS(bytes == 8);
  }
  EXPECT_CU(cuda.cuLibraryGetKernel(&kernel, library, "no_such"), CUDA_ERROR_NOT_FOUND);
  EXPECT_CU(cuda.cuLibraryUnload(library), CUDA_SUCCESS);
}

void KernelsOfALibraryAreEnumerated(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_FUNCTION(cuLibraryEnumerateKernels);
  probe.Begin();
  CUlibrary library = nullptr;
  NEED_CU(cuda.cuLibraryLoadData(&library, softgpu_test::kKernels, nullptr, nullptr, 0, nullptr, nullptr, 0));
  unsigned count = 0;
  EXPECT_CU(cuda.cuLibraryGetKernelCount(&count, library), CUDA_SUCCESS);
  EXPECT_HOLDS(count == 5);
  std::vector<CUkernel> kernels(count);
  EXPECT_CU(cuda.cuLibraryEnumerateKernels(kernels.data(), count, library), CUDA_SUCCESS);
  for (const CUkernel kernel : kernels) {
    const char* name = nullptr;
    EXPECT_CU(cuda.cuKernelGetName(&name, kernel), CUDA_SUCCESS);
    CUkernel same = nullptr;
    EXPECT_CU(cuda.cuLibraryGetKernel(&same, library, name), CUDA_SUCCESS);
    EXPECT_HOLDS(same == kernel);
    CUlibrary owner = nullptr;
    if (cuda.cuKernelGetLibrary != nullptr) {
      EXPECT_CU(cuda.cuKernelGetLibrary(&owner, kernel), CUDA_SUCCESS);
      EXPECT_HOLDS(owner == library);
    }
  }
}

void OccupancyIsBounded(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  const CUfunction add = probe.Kernel("add");
  int blocks = 0;
  int threads = 0;
  NEED_CU(cuda.cuDeviceGetAttribute(&threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 0));
  EXPECT_CU(cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, add, 256, 0), CUDA_SUCCESS);
  EXPECT_HOLDS(blocks > 0 && blocks * 256 <= threads);
  int fewer = 0;
  EXPECT_CU(cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor(&fewer, add, 256, 40 * 1024), CUDA_SUCCESS);
  EXPECT_HOLDS(fewer < blocks);
  EXPECT_CU(cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor(nullptr, add, 256, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, add, 0, 0), CUDA_ERROR_INVALID_VALUE);
  int grid = 0;
  int block = 0;
  EXPECT_CU(cuda.cuOccupancyMaxPotentialBlockSize(&grid, &block, add, nullptr, 0, 0), CUDA_SUCCESS);
  EXPECT_HOLDS(grid > 0 && block > 0 && block % 32 == 0);
  std::size_t bytes = 0;
  EXPECT_CU(cuda.cuOccupancyAvailableDynamicSMemPerBlock(&bytes, add, 2, 256), CUDA_SUCCESS);
  EXPECT_HOLDS(bytes > 16 * 1024);
}

constexpr Claim kClaims[] = {
    {"ModulesHaveFunctionsAndVariables", "functions and variables are found by name; variables have initial values",
     &ModulesHaveFunctionsAndVariables},
    {"FunctionsAreEnumerated", "a module's functions are counted, listed and named", &FunctionsAreEnumerated},
    {"WhatIsNotPtxIsRefused", "bad PTX is INVALID_PTX, a missing file FILE_NOT_FOUND, and the context lives on",
     &WhatIsNotPtxIsRefused},
    {"FunctionsSayWhatTheyNeed", "attributes of functions, and setting the dynamic shared memory",
     &FunctionsSayWhatTheyNeed},
    {"ParametersAreDescribed", "cuFuncGetParamInfo gives offset and size", &ParametersAreDescribed},
    {"LaunchesAreChecked", "grids, blocks and shared memory beyond the limits are INVALID_VALUE", &LaunchesAreChecked},
    {"ParametersComePackedToo", "cuLaunchKernel takes packed parameters", &ParametersComePackedToo},
    {"LaunchesWithAttributes", "cuLaunchKernelEx takes attributes", &LaunchesWithAttributes},
    {"AnIllegalAddressSticks", "after an illegal address every call in the context returns it",
     &AnIllegalAddressSticks},
    {"AFreedAddressIsIllegal", "a kernel that writes to freed memory gets ILLEGAL_ADDRESS", &AFreedAddressIsIllegal},
    {"LibrariesServeEveryContext", "a library loads without a context; its kernels run in all",
     &LibrariesServeEveryContext},
    {"KernelsOfALibraryAreEnumerated", "a library's kernels are counted, listed and named",
     &KernelsOfALibraryAreEnumerated},
    {"OccupancyIsBounded", "occupancy is within the multiprocessor and falls with shared memory", &OccupancyIsBounded},
};

}  // namespace

std::span<const Claim> ModuleClaims() { return kClaims; }

}  // namespace conformance
