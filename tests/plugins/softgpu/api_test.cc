// What a driver-API program sees: devices, contexts, memory, streams, events, modules, launches.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "tests/plugins/softgpu/gpu_process.h"
#include "tests/plugins/softgpu/kernels.h"
#include "tests/plugins/softgpu/soft_node.h"

namespace softgpu_test {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

// cuInit and the primary context of device 0, current.
CUcontext Begin(Driver& cuda) {
  CUcontext context = nullptr;
  CHECK_OK(cuda.cuInit(0));
  CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
  CHECK_OK(cuda.cuCtxSetCurrent(context));
  return context;
}

CUfunction Load(Driver& cuda, const char* name, CUmodule* module_out = nullptr) {
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  CHECK_OK(cuda.cuModuleLoadData(&module, kKernels));
  CHECK_OK(cuda.cuModuleGetFunction(&function, module, name));
  if (module_out != nullptr) *module_out = module;
  return function;
}

CUresult Launch(Driver& cuda, CUfunction function, CUstream stream, std::vector<void*> parameters, unsigned threads) {
  return cuda.cuLaunchKernel(function, (threads + 127) / 128, 1, 1, 128, 1, 1, 0, stream, parameters.data(), nullptr);
}

class SoftGpuApiTest : public testing::Test {
 protected:
  int Run(GpuProcess::Body body, const std::string& visible = "") {
    GpuProcess process(node_.socket(), std::move(body), visible);
    return process.Wait();
  }

  SoftNode node_{{"memory=256MiB,chip=Soft A,uuid=" + TestUuid(1) + ",pci=0000:0a:00",
                  "memory=128MiB,chip=Soft B,uuid=" + TestUuid(2)}};
};

TEST_F(SoftGpuApiTest, DescribesItsDevices) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              int count = 0;
              CHECK_RESULT(cuda.cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
              CHECK_RESULT(cuda.cuInit(1), CUDA_ERROR_INVALID_VALUE);
              CHECK_OK(cuda.cuInit(0));
              CHECK_OK(cuda.cuInit(0));
              CHECK_OK(cuda.cuDeviceGetCount(&count));
              CHECK_THAT(count == 2);
              char name[64];
              CHECK_OK(cuda.cuDeviceGetName(name, sizeof(name), 0));
              CHECK_THAT(std::strcmp(name, "Soft A") == 0);
              CUuuid uuid;
              CHECK_OK(cuda.cuDeviceGetUuid_v2(&uuid, 1));
              CHECK_THAT(uuid.bytes[15] == 2);
              std::size_t bytes = 0;
              CHECK_OK(cuda.cuDeviceTotalMem_v2(&bytes, 1));
              CHECK_THAT(bytes == 128 * kMiB);
              char pci[32];
              CHECK_OK(cuda.cuDeviceGetPCIBusId(pci, sizeof(pci), 0));
              CHECK_THAT(std::strcmp(pci, "0000:0a:00.0") == 0);
              CUdevice device = -1;
              CHECK_OK(cuda.cuDeviceGetByPCIBusId(&device, "0000:0A:00.0"));
              CHECK_THAT(device == 0);
              CHECK_RESULT(cuda.cuDeviceGetByPCIBusId(&device, "0000:7f:00.0"), CUDA_ERROR_INVALID_DEVICE);
              CHECK_RESULT(cuda.cuDeviceGet(&device, 2), CUDA_ERROR_INVALID_DEVICE);
              CHECK_RESULT(cuda.cuDeviceGet(&device, -1), CUDA_ERROR_INVALID_DEVICE);
              int warp = 0;
              CHECK_OK(cuda.cuDeviceGetAttribute(&warp, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0));
              CHECK_THAT(warp == 32);
            }),
            0);
}

TEST_F(SoftGpuApiTest, VisibleDevicesChooseAndReorder) {
  const auto first_uuid_is = [](char last, int expected_count) {
    return [=](Driver& cuda, Link&) {
      int count = 0;
      CHECK_OK(cuda.cuInit(0));
      CHECK_OK(cuda.cuDeviceGetCount(&count));
      CHECK_THAT(count == expected_count);
      CUuuid uuid;
      CHECK_OK(cuda.cuDeviceGetUuid_v2(&uuid, 0));
      CHECK_THAT(uuid.bytes[15] == last);
    };
  };
  EXPECT_EQ(Run(first_uuid_is(2, 1), "1"), 0);
  EXPECT_EQ(Run(first_uuid_is(2, 2), "1,0"), 0);
  EXPECT_EQ(Run(first_uuid_is(2, 1), TestUuid(2)), 0);
  EXPECT_EQ(Run(first_uuid_is(1, 1), "0,7,1"), 0);  // The list ends at the first that is none.
  EXPECT_EQ(Run([](Driver& cuda, Link&) { CHECK_RESULT(cuda.cuInit(0), CUDA_ERROR_NO_DEVICE); }, "-1"), 0);
}

TEST_F(SoftGpuApiTest, WithoutDaemonThereIsNoDevice) {
  GpuProcess process("/nonexistent/socket",
                     [](Driver& cuda, Link&) { CHECK_RESULT(cuda.cuInit(0), CUDA_ERROR_NO_DEVICE); });
  EXPECT_EQ(process.Wait(), 0);
}

TEST_F(SoftGpuApiTest, LookupFollowsTheVersionAsked) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              void* found = nullptr;
              CUdriverProcAddressQueryResult status{};
              CHECK_OK(cuda.cuGetProcAddress_v2("cuMemAlloc", &found, 3020, 0, &status));
              CHECK_THAT(status == CU_GET_PROC_ADDRESS_SUCCESS);
              CHECK_THAT(found == reinterpret_cast<void*>(cuda.cuMemAlloc_v2));
              CHECK_OK(cuda.cuGetProcAddress_v2("cuMemAlloc", &found, 2000, 0, &status));
              CHECK_THAT(status == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT && found == nullptr);
              CHECK_OK(cuda.cuGetProcAddress_v2("cuNoSuchFunction", &found, 13000, 0, &status));
              CHECK_THAT(status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
              CHECK_RESULT(cuda.cuGetProcAddress("cuNoSuchFunction", &found, 13000, 0), CUDA_ERROR_NOT_FOUND);
              // A real driver has it; here it can be called, and says no.
              CHECK_OK(cuda.cuGetProcAddress("cuGraphCreate", &found, 13000, 0));
              CHECK_RESULT(reinterpret_cast<CUresult (*)(void**, unsigned)>(found)(nullptr, 0),
                           CUDA_ERROR_NOT_SUPPORTED);
              CHECK_THAT(found == dlsym(cuda.library, "cuGraphCreate"));
              CHECK_OK(cuda.cuGetProcAddress("cuCheckpointProcessLock", &found, 12080, 0));
              CHECK_THAT(found == reinterpret_cast<void*>(cuda.cuCheckpointProcessLock));
              // One name, three functions with different parameters.
              CHECK_OK(cuda.cuGetProcAddress("cuCtxCreate", &found, 11030, 0));
              CHECK_THAT(found == reinterpret_cast<void*>(cuda.cuCtxCreate_v2));
              CHECK_OK(cuda.cuGetProcAddress("cuCtxCreate", &found, 12000, 0));
              CHECK_THAT(found == reinterpret_cast<void*>(cuda.cuCtxCreate_v3));
              CHECK_OK(cuda.cuGetProcAddress("cuCtxCreate", &found, 13000, 0));
              CHECK_THAT(found == reinterpret_cast<void*>(cuda.cuCtxCreate_v4));
              // Of one age, the flavour that the flags ask for; both are one function here.
              CHECK_OK(cuda.cuGetProcAddress("cuMemcpyHtoD", &found, 13000, kGetProcAddressPerThreadDefaultStream));
              CHECK_THAT(found == reinterpret_cast<void*>(cuda.cuMemcpyHtoD_v2));
              // An older name that takes the same parameters is as good; of 32-bit device pointers there are none.
              CHECK_OK(cuda.cuGetProcAddress("cuCtxDestroy", &found, 3000, 0));
              CHECK_THAT(found == reinterpret_cast<void*>(cuda.cuCtxDestroy_v2));
              CHECK_THAT(dlsym(cuda.library, "cuMemAlloc") != nullptr);
              const CUuuid id{};
              const void* table = nullptr;
              CHECK_RESULT(cuda.cuGetExportTable(&table, &id), CUDA_ERROR_NOT_FOUND);
              const char* name = nullptr;
              CHECK_OK(cuda.cuGetErrorName(CUDA_ERROR_ILLEGAL_STATE, &name));
              CHECK_THAT(std::strcmp(name, "CUDA_ERROR_ILLEGAL_STATE") == 0);
            }),
            0);
}

TEST_F(SoftGpuApiTest, ContextsStackAndEnd) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              CHECK_OK(cuda.cuInit(0));
              CUdeviceptr memory = 0;
              CHECK_RESULT(cuda.cuMemAlloc_v2(&memory, 64), CUDA_ERROR_INVALID_CONTEXT);
              CUcontext first = nullptr;
              CUcontext second = nullptr;
              CHECK_OK(cuda.cuCtxCreate_v2(&first, 0, 0));
              CHECK_OK(cuda.cuCtxCreate_v4(&second, nullptr, 0, 1));
              CUdevice device = -1;
              CHECK_OK(cuda.cuCtxGetDevice(&device));
              CHECK_THAT(device == 1);
              CHECK_OK(cuda.cuMemAlloc_v2(&memory, 64));
              CUcontext popped = nullptr;
              CHECK_OK(cuda.cuCtxPopCurrent_v2(&popped));
              CHECK_THAT(popped == second);
              CHECK_OK(cuda.cuCtxGetDevice(&device));
              CHECK_THAT(device == 0);
              CHECK_OK(cuda.cuCtxDestroy_v2(second));
              // What was in it is gone.
              CHECK_RESULT(cuda.cuMemsetD8_v2(memory, 1, 64), CUDA_ERROR_INVALID_VALUE);
              CHECK_RESULT(cuda.cuCtxDestroy_v2(second), CUDA_ERROR_INVALID_CONTEXT);
              CHECK_RESULT(cuda.cuCtxSetCurrent(reinterpret_cast<CUcontext>(0x1234)), CUDA_ERROR_INVALID_CONTEXT);
              unsigned flags = 0;
              int active = -1;
              CHECK_OK(cuda.cuDevicePrimaryCtxGetState(1, &flags, &active));
              CHECK_THAT(active == 0);
              CUcontext primary = nullptr;
              CUcontext again = nullptr;
              CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&primary, 1));
              CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&again, 1));
              CHECK_THAT(primary == again);
              CHECK_OK(cuda.cuDevicePrimaryCtxRelease_v2(1));
              CHECK_OK(cuda.cuDevicePrimaryCtxGetState(1, &flags, &active));
              CHECK_THAT(active == 1);
              CHECK_OK(cuda.cuDevicePrimaryCtxRelease_v2(1));
              CHECK_RESULT(cuda.cuDevicePrimaryCtxRelease_v2(1), CUDA_ERROR_INVALID_CONTEXT);
            }),
            0);
}

// Both the copies that travel in messages and those through shared memory, with ends that do not fit pages.
TEST_F(SoftGpuApiTest, CopiesBringBackWhatWasSent) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              Begin(cuda);
              for (const std::size_t bytes :
                   {std::size_t{1}, std::size_t{4096}, std::size_t{16384}, std::size_t{16385}, 3 * kMiB + 17}) {
                std::vector<unsigned char> sent(bytes);
                std::vector<unsigned char> back(bytes);
                for (std::size_t i = 0; i < bytes; ++i) sent[i] = static_cast<unsigned char>(i * 7 + bytes);
                CUdeviceptr one = 0;
                CUdeviceptr two = 0;
                CHECK_OK(cuda.cuMemAlloc_v2(&one, bytes));
                CHECK_OK(cuda.cuMemAlloc_v2(&two, bytes));
                CHECK_OK(cuda.cuMemcpyHtoD_v2(one, sent.data(), bytes));
                CHECK_OK(cuda.cuMemcpyDtoD_v2(two, one, bytes));
                CHECK_OK(cuda.cuMemcpyDtoH_v2(back.data(), two, bytes));
                CHECK_THAT(sent == back);
                CHECK_OK(cuda.cuMemsetD8_v2(two, 0xab, bytes));
                CHECK_OK(cuda.cuMemcpy(reinterpret_cast<CUdeviceptr>(back.data()), two, bytes));
                CHECK_THAT(back.front() == 0xab && back.back() == 0xab);
                // One byte too many is refused, not cut.
                CHECK_RESULT(cuda.cuMemcpyHtoD_v2(one + 1, sent.data(), bytes), CUDA_ERROR_INVALID_VALUE);
                CHECK_RESULT(cuda.cuMemcpyDtoH_v2(back.data(), one + 1, bytes), CUDA_ERROR_INVALID_VALUE);
                CHECK_OK(cuda.cuMemFree_v2(one));
                CHECK_RESULT(cuda.cuMemcpyDtoH_v2(back.data(), one, bytes), CUDA_ERROR_INVALID_VALUE);
                CHECK_RESULT(cuda.cuMemFree_v2(one), CUDA_ERROR_INVALID_VALUE);
                CHECK_RESULT(cuda.cuMemFree_v2(two + 1), CUDA_ERROR_INVALID_VALUE);
              }
            }),
            0);
}

TEST_F(SoftGpuApiTest, MemoryIsCountedAndGivenBack) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              Begin(cuda);
              std::size_t before = 0;
              std::size_t total = 0;
              CHECK_OK(cuda.cuMemGetInfo_v2(&before, &total));
              CHECK_THAT(total == 256 * kMiB && before == total);
              CUdeviceptr memory = 0;
              CHECK_RESULT(cuda.cuMemAlloc_v2(&memory, 0), CUDA_ERROR_INVALID_VALUE);
              CHECK_RESULT(cuda.cuMemAlloc_v2(&memory, 257 * kMiB), CUDA_ERROR_OUT_OF_MEMORY);
              CHECK_RESULT(cuda.cuMemAlloc_v2(&memory, ~std::size_t{0}), CUDA_ERROR_OUT_OF_MEMORY);
              CHECK_OK(cuda.cuMemAlloc_v2(&memory, 200 * kMiB));
              std::size_t after = 0;
              CHECK_OK(cuda.cuMemGetInfo_v2(&after, &total));
              CHECK_THAT(after == 56 * kMiB);
              CUdeviceptr more = 0;
              CHECK_RESULT(cuda.cuMemAlloc_v2(&more, 57 * kMiB), CUDA_ERROR_OUT_OF_MEMORY);
              CUdeviceptr base = 0;
              std::size_t bytes = 0;
              CHECK_OK(cuda.cuMemGetAddressRange_v2(&base, &bytes, memory + 5));
              CHECK_THAT(base == memory && bytes == 200 * kMiB);
              unsigned type = 0;
              CHECK_OK(cuda.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, memory));
              CHECK_THAT(type == CU_MEMORYTYPE_DEVICE);
              CHECK_OK(cuda.cuMemFree_v2(memory));
              CHECK_OK(cuda.cuMemGetInfo_v2(&after, &total));
              CHECK_THAT(after == total);
            }),
            0);
  EXPECT_TRUE(node_.WaitUntilUnused());
}

TEST_F(SoftGpuApiTest, KernelsRun) {
  EXPECT_EQ(
      Run([](Driver& cuda, Link&) {
        Begin(cuda);
        CUmodule module = nullptr;
        CUfunction fill = Load(cuda, "fill", &module);
        CUfunction add = nullptr;
        CUfunction count = nullptr;
        CHECK_RESULT(cuda.cuModuleGetFunction(&add, module, "none"), CUDA_ERROR_NOT_FOUND);
        CHECK_OK(cuda.cuModuleGetFunction(&add, module, "add"));
        CHECK_OK(cuda.cuModuleGetFunction(&count, module, "count"));
        unsigned items = 100000;
        unsigned amount = 5;
        CUdeviceptr data = 0;
        CHECK_OK(cuda.cuMemAlloc_v2(&data, items * 4));
        CHECK_OK(Launch(cuda, fill, nullptr, {&data, &items}, items));
        CHECK_OK(Launch(cuda, add, nullptr, {&data, &items, &amount}, items));
        std::vector<unsigned> back(items);
        CHECK_OK(cuda.cuMemcpyDtoH_v2(back.data(), data, items * 4));
        for (unsigned i = 0; i < items; ++i) CHECK_THAT(back[i] == i + 5);

        // A variable of the module keeps its value from launch to launch.
        CUdeviceptr counter = 0;
        std::size_t bytes = 0;
        CHECK_OK(cuda.cuModuleGetGlobal_v2(&counter, &bytes, module, "counter"));
        CHECK_THAT(bytes == 8);
        CHECK_OK(cuda.cuLaunchKernel(count, 1, 1, 1, 1, 1, 1, 0, nullptr, std::vector<void*>{&data}.data(), nullptr));
        CHECK_OK(cuda.cuLaunchKernel(count, 1, 1, 1, 1, 1, 1, 0, nullptr, std::vector<void*>{&data}.data(), nullptr));
        unsigned long long value = 0;
        CHECK_OK(cuda.cuMemcpyDtoH_v2(&value, counter, 8));
        CHECK_THAT(value == 9);

        // By the packed form too.
        struct {
          CUdeviceptr data;
          unsigned items, amount;
        } packed = {data, items, 1};
        std::size_t packed_bytes = sizeof(packed);
        void* extra[] = {reinterpret_cast<void*>(kLaunchParamBufferPointer), &packed,
                         reinterpret_cast<void*>(kLaunchParamBufferSize), &packed_bytes,
                         reinterpret_cast<void*>(kLaunchParamEnd)};
        CHECK_OK(cuda.cuLaunchKernel(add, 1000, 1, 1, 128, 1, 1, 0, nullptr, nullptr, extra));
        CHECK_OK(cuda.cuMemcpyDtoH_v2(back.data(), data, 64));
        CHECK_THAT(back[2] == 8);

        CHECK_RESULT(cuda.cuLaunchKernel(add, 1, 1, 1, 2048, 1, 1, 0, nullptr, nullptr, extra),
                     CUDA_ERROR_INVALID_VALUE);
        CHECK_RESULT(cuda.cuLaunchKernel(add, 0, 1, 1, 128, 1, 1, 0, nullptr, nullptr, extra),
                     CUDA_ERROR_INVALID_VALUE);
        CHECK_RESULT(cuda.cuModuleLoadData(&module, "this is not PTX"), CUDA_ERROR_INVALID_PTX);
        CHECK_OK(cuda.cuCtxSynchronize());
      }),
      0);
}

TEST_F(SoftGpuApiTest, AStreamWaitsForAnEventOfAnother) {
  EXPECT_EQ(
      Run([](Driver& cuda, Link&) {
        Begin(cuda);
        CUmodule module = nullptr;
        CUfunction spin = Load(cuda, "spin", &module);
        CUfunction add = nullptr;
        CHECK_OK(cuda.cuModuleGetFunction(&add, module, "add"));
        CUstream first = nullptr;
        CUstream second = nullptr;
        CUstream third = nullptr;
        CHECK_OK(cuda.cuStreamCreate(&first, CU_STREAM_NON_BLOCKING));
        CHECK_OK(cuda.cuStreamCreate(&second, CU_STREAM_NON_BLOCKING));
        CHECK_OK(cuda.cuStreamCreateWithPriority(&third, CU_STREAM_NON_BLOCKING, -1));
        CUevent event = nullptr;
        CUevent end = nullptr;
        CHECK_OK(cuda.cuEventCreate(&event, CU_EVENT_DEFAULT));
        CHECK_OK(cuda.cuEventCreate(&end, CU_EVENT_DEFAULT));
        CHECK_OK(cuda.cuEventQuery(event));  // Never recorded: done.
        CUdeviceptr flag = 0;
        CUdeviceptr data = 0;
        CHECK_OK(cuda.cuMemAlloc_v2(&flag, 4));
        CHECK_OK(cuda.cuMemAlloc_v2(&data, 4));
        CHECK_OK(cuda.cuMemsetD32_v2(data, 1, 1));
        unsigned one = 1;
        CHECK_OK(cuda.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, first, std::vector<void*>{&flag}.data(), nullptr));
        CHECK_OK(cuda.cuEventRecord(event, first));
        CHECK_OK(cuda.cuStreamWaitEvent(second, event, 0));
        CHECK_OK(Launch(cuda, add, second, {&data, &one, &one}, 1));
        CHECK_OK(cuda.cuEventRecord(end, second));
        CHECK_RESULT(cuda.cuEventQuery(event), CUDA_ERROR_NOT_READY);
        CHECK_RESULT(cuda.cuStreamQuery(second), CUDA_ERROR_NOT_READY);
        float elapsed = -1;
        CHECK_RESULT(cuda.cuEventElapsedTime(&elapsed, event, end), CUDA_ERROR_NOT_READY);
        CHECK_OK(cuda.cuStreamQuery(third));
        // A third stream, not held up by either, lets the kernel go.
        CHECK_OK(cuda.cuMemsetD32Async(flag, 1, 1, third));
        CHECK_OK(cuda.cuEventSynchronize(end));
        CHECK_OK(cuda.cuStreamSynchronize(second));
        CHECK_OK(cuda.cuEventElapsedTime(&elapsed, event, end));
        CHECK_THAT(elapsed >= 0);
        unsigned value = 0;
        CHECK_OK(cuda.cuMemcpyDtoH_v2(&value, data, 4));
        CHECK_THAT(value == 2);
        CHECK_OK(cuda.cuStreamDestroy_v2(first));
        CHECK_RESULT(cuda.cuStreamSynchronize(first), CUDA_ERROR_INVALID_HANDLE);
        CHECK_OK(cuda.cuEventDestroy_v2(event));
        CHECK_RESULT(cuda.cuEventQuery(event), CUDA_ERROR_INVALID_HANDLE);
      }),
      0);
}

// What is added to `later` must not run while a kernel in `earlier` does not end.
void CheckOrder(Driver& cuda, CUstream earlier, CUstream later) {
  CUmodule module = nullptr;
  CUfunction spin = Load(cuda, "spin", &module);
  CUfunction add = nullptr;
  CHECK_OK(cuda.cuModuleGetFunction(&add, module, "add"));
  CUstream apart = nullptr;
  CHECK_OK(cuda.cuStreamCreate(&apart, CU_STREAM_NON_BLOCKING));
  CUdeviceptr memory = 0;
  CHECK_OK(cuda.cuMemAlloc_v2(&memory, 8));
  CHECK_OK(cuda.cuMemsetD32_v2(memory, 0, 2));
  CUdeviceptr flag = memory;
  CUdeviceptr data = memory + 4;
  unsigned one = 1;
  CHECK_OK(cuda.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, earlier, std::vector<void*>{&flag}.data(), nullptr));
  CHECK_OK(Launch(cuda, add, later, {&data, &one, &one}, 1));
  unsigned value = 9;
  for (int i = 0; i < 20; ++i) {  // As long as it takes to see work that does not wait.
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    CHECK_RESULT(cuda.cuStreamQuery(later), CUDA_ERROR_NOT_READY);
    CHECK_OK(cuda.cuMemcpyDtoHAsync_v2(&value, data, 4, apart));
    CHECK_THAT(value == 0);
  }
  CHECK_OK(cuda.cuMemsetD32Async(flag, 1, 1, apart));
  CHECK_OK(cuda.cuStreamSynchronize(later));
  CHECK_OK(cuda.cuMemcpyDtoHAsync_v2(&value, data, 4, apart));
  CHECK_THAT(value == 1);
}

TEST_F(SoftGpuApiTest, TheDefaultStreamAndBlockingStreamsWaitForEachOther) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              Begin(cuda);
              CUstream blocking = nullptr;
              CHECK_OK(cuda.cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
              CheckOrder(cuda, blocking, nullptr);
              CheckOrder(cuda, nullptr, blocking);
            }),
            0);
}

void AddToList(void* argument) { static_cast<std::vector<int>*>(argument)->push_back(1); }

TEST_F(SoftGpuApiTest, HostFunctionsAndPinnedCopiesKeepStreamOrder) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              Begin(cuda);
              CUstream stream = nullptr;
              CHECK_OK(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
              unsigned* pinned = nullptr;
              CHECK_OK(cuda.cuMemHostAlloc(reinterpret_cast<void**>(&pinned), 64 * 1024, kMemHostAllocPortable));
              CUdeviceptr data = 0;
              CHECK_OK(cuda.cuMemAlloc_v2(&data, 64 * 1024));
              pinned[0] = 1;
              // The host function changes what the copy behind it takes, as only a copy made in its turn can see.
              CHECK_OK(cuda.cuLaunchHostFunc(stream, [](void* p) { *static_cast<unsigned*>(p) = 42; }, pinned));
              CHECK_OK(cuda.cuMemcpyHtoDAsync_v2(data, pinned, 64 * 1024, stream));
              CHECK_OK(cuda.cuMemcpyDtoHAsync_v2(pinned + 1, data, 4, stream));
              std::vector<int> list;
              CHECK_OK(cuda.cuLaunchHostFunc(stream, &AddToList, &list));
              CHECK_OK(cuda.cuStreamSynchronize(stream));
              CHECK_THAT(list.size() == 1);
              CHECK_THAT(pinned[1] == 42);
              CHECK_OK(cuda.cuMemFreeHost(pinned));
              CHECK_RESULT(cuda.cuMemFreeHost(pinned), CUDA_ERROR_INVALID_VALUE);
            }),
            0);
}

TEST_F(SoftGpuApiTest, AnIllegalAddressPoisonsOnlyItsContext) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              CUcontext primary = Begin(cuda);
              CUcontext other = nullptr;
              CHECK_OK(cuda.cuCtxCreate_v2(&other, 0, 0));
              CHECK_OK(cuda.cuCtxSetCurrent(primary));
              CUfunction wild = Load(cuda, "wild");
              CHECK_OK(cuda.cuLaunchKernel(wild, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr));
              CHECK_RESULT(cuda.cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
              CHECK_RESULT(cuda.cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
              CUdeviceptr memory = 0;
              CHECK_RESULT(cuda.cuMemAlloc_v2(&memory, 64), CUDA_ERROR_ILLEGAL_ADDRESS);
              CHECK_OK(cuda.cuCtxSetCurrent(other));
              CHECK_OK(cuda.cuMemAlloc_v2(&memory, 64));
              CHECK_OK(cuda.cuCtxSynchronize());
              CHECK_OK(cuda.cuDevicePrimaryCtxReset_v2(0));
              CHECK_OK(cuda.cuCtxSetCurrent(primary));
              CHECK_OK(cuda.cuMemAlloc_v2(&memory, 64));
            }),
            0);
  // An access beyond an allocation is as illegal as one nowhere near.
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              Begin(cuda);
              CUfunction fill = Load(cuda, "fill");
              CUdeviceptr data = 0;
              CHECK_OK(cuda.cuMemAlloc_v2(&data, 400));
              unsigned items = 101;
              CHECK_OK(Launch(cuda, fill, nullptr, {&data, &items}, items));
              CHECK_RESULT(cuda.cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
            }),
            0);
}

TEST_F(SoftGpuApiTest, ManyThreadsShareTheSession) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              CUcontext context = Begin(cuda);
              CUfunction add = Load(cuda, "add");
              std::vector<std::thread> threads;
              for (unsigned t = 0; t < 40; ++t) {
                threads.emplace_back([&, t] {
                  CHECK_OK(cuda.cuCtxSetCurrent(context));
                  CUstream stream = nullptr;
                  CHECK_OK(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
                  unsigned items = 1000;
                  unsigned amount = t;
                  CUdeviceptr data = 0;
                  CHECK_OK(cuda.cuMemAlloc_v2(&data, items * 4));
                  CHECK_OK(cuda.cuMemsetD32Async(data, 0, items, stream));
                  for (int i = 0; i < 10; ++i) CHECK_OK(Launch(cuda, add, stream, {&data, &items, &amount}, items));
                  std::vector<unsigned> back(items);
                  CHECK_OK(cuda.cuMemcpyDtoHAsync_v2(back.data(), data, items * 4, stream));
                  CHECK_OK(cuda.cuStreamSynchronize(stream));
                  for (const unsigned value : back) CHECK_THAT(value == 10 * t);
                  CHECK_OK(cuda.cuMemFree_v2(data));
                  CHECK_OK(cuda.cuStreamDestroy_v2(stream));
                });
              }
              for (std::thread& thread : threads) thread.join();
            }),
            0);
}

TEST(SoftGpuBuildTest, TheBaselineBuildRunsKernels) {
  setenv("SOFTGPU_BUILD", "baseline", 1);
  SoftNode node({"memory=64MiB"});
  unsetenv("SOFTGPU_BUILD");
  EXPECT_EQ(std::filesystem::read_symlink("/proc/" + std::to_string(node.pid()) + "/exe").filename(), "softgpud");
  GpuProcess process(node.socket(), [](Driver& cuda, Link&) {
    Begin(cuda);
    CUfunction fill = Load(cuda, "fill");
    unsigned items = 1000;
    CUdeviceptr data = 0;
    CHECK_OK(cuda.cuMemAlloc_v2(&data, items * 4));
    CHECK_OK(Launch(cuda, fill, nullptr, {&data, &items}, items));
    unsigned back = 0;
    CHECK_OK(cuda.cuMemcpyDtoH_v2(&back, data + 3996, 4));
    CHECK_THAT(back == 999);
  });
  EXPECT_EQ(process.Wait(), 0);
}

TEST(SoftGpuBuildTest, TheFastBuildRunsWhereItCan) {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) GTEST_SKIP() << "no AVX2";
  SoftNode node({"memory=64MiB"});
  EXPECT_EQ(std::filesystem::read_symlink("/proc/" + std::to_string(node.pid()) + "/exe").filename(), "softgpud-v3");
}

}  // namespace
}  // namespace softgpu_test
