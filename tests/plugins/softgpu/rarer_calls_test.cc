// The driver functions that few programs call: what each does, and what it refuses. What programs live from is in
// api_test.cc and the conformance suite.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/plugins/softgpu/gpu_process.h"
#include "tests/plugins/softgpu/kernels.h"
#include "tests/plugins/softgpu/soft_node.h"

namespace softgpu_test {
namespace {

// Of cuda.h.
constexpr unsigned kSchedSpin = 1;
constexpr unsigned kSchedYield = 2;

// cuInit and the primary context of device 0, current.
CUcontext Begin(Driver& cuda) {
  CUcontext context = nullptr;
  CHECK_OK(cuda.cuInit(0));
  CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
  CHECK_OK(cuda.cuCtxSetCurrent(context));
  return context;
}

CUdeviceptr Memory(Driver& cuda, std::size_t bytes) {
  CUdeviceptr memory = 0;
  CHECK_OK(cuda.cuMemAlloc_v2(&memory, bytes));
  CHECK_OK(cuda.cuMemsetD8_v2(memory, 0, bytes));
  return memory;
}

template <typename T>
std::vector<T> ReadBack(Driver& cuda, CUdeviceptr memory, std::size_t count) {
  std::vector<T> values(count);
  CHECK_OK(cuda.cuMemcpyDtoH_v2(values.data(), memory, count * sizeof(T)));
  return values;
}

template <typename T>
std::size_t CountOf(const std::vector<T>& values, T value) {
  return static_cast<std::size_t>(std::count(values.begin(), values.end(), value));
}

class RarerCallsTest : public testing::Test {
 protected:
  int Run(GpuProcess::Body body) {
    GpuProcess process(node_.socket(), std::move(body));
    return process.Wait();
  }

  SoftNode node_{{"memory=64MiB,chip=Soft A,uuid=" + TestUuid(1), "memory=64MiB,chip=Soft A,uuid=" + TestUuid(2),
                  "memory=64MiB,chip=Soft M,mig=2,uuid=" + TestUuid(3)}};
};

TEST_F(RarerCallsTest, DevicesAreNoPeersAndPartitionsNameTheirParent) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              CHECK_OK(cuda.cuInit(0));
              int value = 7;
              CHECK_OK(cuda.cuDeviceCanAccessPeer(&value, 0, 1));
              CHECK_THAT(value == 0);
              CHECK_RESULT(cuda.cuDeviceCanAccessPeer(&value, 0, 9), CUDA_ERROR_INVALID_DEVICE);
              CHECK_RESULT(cuda.cuDeviceCanAccessPeer(nullptr, 0, 1), CUDA_ERROR_INVALID_VALUE);
              value = 7;
              CHECK_OK(cuda.cuDeviceGetP2PAttribute(&value, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, 0, 1));
              CHECK_THAT(value == 0);
              CHECK_RESULT(cuda.cuDeviceGetP2PAttribute(&value, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, 1, 1),
                           CUDA_ERROR_INVALID_DEVICE);
              CHECK_RESULT(cuda.cuDeviceGetP2PAttribute(&value, static_cast<CUdevice_P2PAttribute>(99), 0, 1),
                           CUDA_ERROR_INVALID_VALUE);
              char luid[8];
              unsigned mask = 0;
              CHECK_RESULT(cuda.cuDeviceGetLuid(luid, &mask, 0), CUDA_ERROR_NOT_SUPPORTED);  // Not on Linux.
              CUuuid uuid{};
              CHECK_OK(cuda.cuDeviceGetUuid(&uuid, 1));
              CHECK_THAT(uuid.bytes[15] == 2);
              for (const CUdevice part : {2, 3}) {
                CHECK_OK(cuda.cuDeviceGetUuid(&uuid, part));
                CHECK_THAT(uuid.bytes[15] == 3);
                CUuuid own{};
                CHECK_OK(cuda.cuDeviceGetUuid_v2(&own, part));
                CHECK_THAT(std::memcmp(&own, &uuid, sizeof(uuid)) != 0);
              }
              CHECK_RESULT(cuda.cuDeviceGetUuid(nullptr, 2), CUDA_ERROR_INVALID_VALUE);
              CHECK_RESULT(cuda.cuDeviceGetUuid(&uuid, 4), CUDA_ERROR_INVALID_DEVICE);
              CUmoduleLoadingMode mode{};
              CHECK_OK(cuda.cuModuleGetLoadingMode(&mode));
              CHECK_THAT(mode == CU_MODULE_EAGER_LOADING);
              CHECK_OK(cuda.cuProfilerStart());
              CHECK_OK(cuda.cuProfilerStop());
            }),
            0);
}

TEST_F(RarerCallsTest, FlagsOfContextsAreKept) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              CHECK_OK(cuda.cuInit(0));
              unsigned flags = 0;
              int active = -1;
              CHECK_OK(cuda.cuDevicePrimaryCtxSetFlags_v2(0, kSchedYield));
              CHECK_OK(cuda.cuDevicePrimaryCtxGetState(0, &flags, &active));
              CHECK_THAT(flags == kSchedYield && active == 0);
              CHECK_RESULT(cuda.cuDevicePrimaryCtxSetFlags_v2(0, 0x10000), CUDA_ERROR_INVALID_VALUE);
              CHECK_RESULT(cuda.cuDevicePrimaryCtxSetFlags_v2(9, 0), CUDA_ERROR_INVALID_DEVICE);
              CHECK_RESULT(cuda.cuCtxGetFlags(&flags), CUDA_ERROR_INVALID_CONTEXT);
              CHECK_RESULT(cuda.cuCtxSetFlags(0), CUDA_ERROR_INVALID_CONTEXT);
              Begin(cuda);
              CHECK_OK(cuda.cuCtxGetFlags(&flags));
              CHECK_THAT(flags == kSchedYield);
              CHECK_OK(cuda.cuCtxSetFlags(kSchedSpin));
              CHECK_OK(cuda.cuCtxGetFlags(&flags));
              CHECK_THAT(flags == kSchedSpin);
              CHECK_RESULT(cuda.cuCtxSetFlags(0x10000), CUDA_ERROR_INVALID_VALUE);
              CHECK_RESULT(cuda.cuCtxGetFlags(nullptr), CUDA_ERROR_INVALID_VALUE);
            }),
            0);
}

TEST_F(RarerCallsTest, AContextCanBeNamedInPlaceOfTheCurrentOne) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              CHECK_OK(cuda.cuInit(0));
              CUcontext on_first = nullptr;
              CUcontext on_second = nullptr;
              CHECK_OK(cuda.cuCtxCreate_v3(&on_first, nullptr, 0, 0, 0));
              CHECK_OK(cuda.cuCtxCreate_v3(&on_second, nullptr, 0, 0, 1));
              CHECK_RESULT(cuda.cuCtxCreate_v3(&on_second, nullptr, 1, 0, 1), CUDA_ERROR_NOT_SUPPORTED);
              CUdevice device = -1;
              CHECK_OK(cuda.cuCtxGetDevice_v2(&device, on_first));
              CHECK_THAT(device == 0);
              CHECK_OK(cuda.cuCtxGetDevice_v2(&device, nullptr));
              CHECK_THAT(device == 1);
              CHECK_RESULT(cuda.cuCtxGetDevice_v2(nullptr, on_first), CUDA_ERROR_INVALID_VALUE);
              CHECK_OK(cuda.cuCtxSynchronize_v2(on_first));
              CHECK_OK(cuda.cuCtxSynchronize_v2(nullptr));
              // From the time when contexts were counted.
              CUcontext attached = nullptr;
              CHECK_OK(cuda.cuCtxAttach(&attached, 0));
              CHECK_THAT(attached == on_second);
              CHECK_RESULT(cuda.cuCtxAttach(&attached, 1), CUDA_ERROR_INVALID_VALUE);
              CHECK_OK(cuda.cuCtxDetach(attached));
              CHECK_OK(cuda.cuCtxDestroy_v2(on_first));
              CHECK_RESULT(cuda.cuCtxGetDevice_v2(&device, on_first), CUDA_ERROR_INVALID_CONTEXT);
              CHECK_RESULT(cuda.cuCtxSynchronize_v2(on_first), CUDA_ERROR_INVALID_CONTEXT);
              CHECK_RESULT(cuda.cuCtxDetach(on_first), CUDA_ERROR_INVALID_CONTEXT);
            }),
            0);
}

TEST_F(RarerCallsTest, HintsAreTakenWhereThereIsAContext) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              CHECK_OK(cuda.cuInit(0));
              CUsharedconfig config{};
              CHECK_RESULT(cuda.cuCtxSetSharedMemConfig(CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE),
                           CUDA_ERROR_INVALID_CONTEXT);
              CHECK_RESULT(cuda.cuCtxResetPersistingL2Cache(), CUDA_ERROR_INVALID_CONTEXT);
              Begin(cuda);
              CHECK_OK(cuda.cuCtxSetSharedMemConfig(CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE));
              CHECK_OK(cuda.cuCtxGetSharedMemConfig(&config));
              CHECK_THAT(config == CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE);  // Hardware has had no other since 2014.
              CHECK_RESULT(cuda.cuCtxGetSharedMemConfig(nullptr), CUDA_ERROR_INVALID_VALUE);
              CHECK_RESULT(cuda.cuCtxSetSharedMemConfig(static_cast<CUsharedconfig>(9)), CUDA_ERROR_INVALID_VALUE);
              CHECK_OK(cuda.cuCtxResetPersistingL2Cache());
              const unsigned on = 1;
              const CUdeviceptr memory = Memory(cuda, 4096);
              CHECK_OK(cuda.cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, memory));
              CHECK_RESULT(cuda.cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_CONTEXT, memory),
                           CUDA_ERROR_INVALID_VALUE);
              CHECK_RESULT(cuda.cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, memory + (1 << 20)),
                           CUDA_ERROR_INVALID_VALUE);
            }),
            0);
}

TEST_F(RarerCallsTest, FillsOfEveryWidthChangeWhatTheySayAndNoMore) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              Begin(cuda);
              CUstream stream = nullptr;
              CHECK_OK(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
              const CUdeviceptr memory = Memory(cuda, 4096);
              CHECK_OK(cuda.cuMemsetD8Async(memory + 3, 0xab, 5, stream));
              CHECK_OK(cuda.cuMemsetD16Async(memory + 100, 0x1234, 7, stream));
              CHECK_OK(cuda.cuStreamSynchronize(stream));
              CHECK_THAT(CountOf<unsigned char>(ReadBack<unsigned char>(cuda, memory, 4096), 0xab) == 5);
              const auto halves = ReadBack<unsigned short>(cuda, memory, 2048);
              CHECK_THAT(CountOf<unsigned short>(halves, 0x1234) == 7 && halves[50] == 0x1234 && halves[56] == 0x1234);
              CHECK_RESULT(cuda.cuMemsetD8Async(memory, 1, 1 << 20, stream), CUDA_ERROR_INVALID_VALUE);
              CHECK_RESULT(cuda.cuMemsetD16Async(memory + 1, 1, 1, stream), CUDA_ERROR_INVALID_VALUE);

              // Rows of three elements, 256 bytes apart.
              const CUdeviceptr rows = Memory(cuda, 4096);
              CHECK_OK(cuda.cuMemsetD2D16_v2(rows, 256, 0x5678, 3, 4));
              CHECK_OK(cuda.cuMemsetD2D16Async(rows + 64, 256, 0x9abc, 3, 4, stream));
              CHECK_OK(cuda.cuMemsetD2D32Async(rows + 128, 256, 0xdef01234, 3, 4, stream));
              CHECK_OK(cuda.cuStreamSynchronize(stream));
              const auto short_rows = ReadBack<unsigned short>(cuda, rows, 2048);
              const auto long_rows = ReadBack<unsigned>(cuda, rows, 1024);
              for (std::size_t row = 0; row < 4; ++row) {
                for (std::size_t i = 0; i < 3; ++i) {
                  CHECK_THAT(short_rows[row * 128 + i] == 0x5678 && short_rows[row * 128 + 32 + i] == 0x9abc);
                  CHECK_THAT(long_rows[row * 64 + 32 + i] == 0xdef01234);
                }
              }
              CHECK_THAT(CountOf<unsigned short>(short_rows, 0x5678) == 12);
              CHECK_THAT(CountOf<unsigned short>(short_rows, 0x9abc) == 12);
              CHECK_THAT(CountOf<unsigned>(long_rows, 0xdef01234) == 12);
              CHECK_RESULT(cuda.cuMemsetD2D16_v2(rows, 256, 1, 3, 1000), CUDA_ERROR_INVALID_VALUE);
            }),
            0);
}

TEST_F(RarerCallsTest, CopiesFindOutWhereTheirEndsAre) {
  EXPECT_EQ(
      Run([](Driver& cuda, Link&) {
        const CUcontext first = Begin(cuda);
        CUcontext second = nullptr;
        CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&second, 1));
        const CUdeviceptr here = Memory(cuda, 4096);
        CHECK_OK(cuda.cuCtxSetCurrent(second));
        const CUdeviceptr there = Memory(cuda, 4096);
        CHECK_OK(cuda.cuCtxSetCurrent(first));
        CUstream stream = nullptr;
        CHECK_OK(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
        std::vector<unsigned> out(1024);
        std::vector<unsigned> middle(1024);
        std::vector<unsigned> back(1024);
        for (unsigned i = 0; i < out.size(); ++i) out[i] = i * 2654435761U;
        const auto address = [](std::vector<unsigned>& host) { return reinterpret_cast<CUdeviceptr>(host.data()); };
        CHECK_OK(cuda.cuMemcpyAsync(here, address(out), 4096, stream));
        CHECK_OK(cuda.cuMemcpyAsync(address(middle), here, 4096, stream));
        CHECK_OK(cuda.cuMemcpyPeerAsync(there, second, here, first, 4096, stream));
        CHECK_OK(cuda.cuMemcpyAsync(address(back), there, 4096, stream));
        CHECK_OK(cuda.cuStreamSynchronize(stream));
        CHECK_THAT(middle == out && back == out);
        CHECK_RESULT(cuda.cuMemcpyPeerAsync(there, second, here, first, 1 << 20, stream), CUDA_ERROR_INVALID_VALUE);
        CHECK_RESULT(cuda.cuMemcpyPeerAsync(there, nullptr, here, first, 16, stream), CUDA_ERROR_INVALID_CONTEXT);
      }),
      0);
}

TEST_F(RarerCallsTest, StreamsAndEventsTellWhatTheyAre) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              CHECK_OK(cuda.cuInit(0));
              CUcontext context = nullptr;
              CHECK_OK(cuda.cuCtxCreate_v2(&context, 0, 1));
              CUstream one = nullptr;
              CUstream other = nullptr;
              CHECK_OK(cuda.cuStreamCreate(&one, CU_STREAM_NON_BLOCKING));
              CHECK_OK(cuda.cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
              unsigned long long ids[3] = {};
              CHECK_OK(cuda.cuStreamGetId(one, &ids[0]));
              CHECK_OK(cuda.cuStreamGetId(one, &ids[1]));
              CHECK_OK(cuda.cuStreamGetId(other, &ids[2]));
              CHECK_THAT(ids[0] == ids[1] && ids[0] != ids[2]);
              CHECK_RESULT(cuda.cuStreamGetId(one, nullptr), CUDA_ERROR_INVALID_VALUE);
              CUdevice device = -1;
              CHECK_OK(cuda.cuStreamGetDevice(one, &device));
              CHECK_THAT(device == 1);
              CHECK_RESULT(cuda.cuStreamGetDevice(one, nullptr), CUDA_ERROR_INVALID_VALUE);
              CHECK_OK(cuda.cuStreamCopyAttributes(other, one));
              CUevent before = nullptr;
              CUevent after = nullptr;
              CHECK_OK(cuda.cuEventCreate(&before, CU_EVENT_DEFAULT));
              CHECK_OK(cuda.cuEventCreate(&after, CU_EVENT_DEFAULT));
              CHECK_OK(cuda.cuEventRecordWithFlags(before, one, 0));
              CHECK_OK(cuda.cuEventRecordWithFlags(after, one, 0));
              CHECK_RESULT(cuda.cuEventRecordWithFlags(after, one, 0x80), CUDA_ERROR_INVALID_VALUE);
              CHECK_OK(cuda.cuStreamSynchronize(one));
              float elapsed = -1;
              CHECK_OK(cuda.cuEventElapsedTime_v2(&elapsed, before, after));
              CHECK_THAT(elapsed >= 0);
              CHECK_RESULT(cuda.cuEventElapsedTime_v2(nullptr, before, after), CUDA_ERROR_INVALID_VALUE);
              CHECK_OK(cuda.cuStreamDestroy_v2(other));
              CHECK_RESULT(cuda.cuStreamGetId(other, ids), CUDA_ERROR_INVALID_HANDLE);
              CHECK_RESULT(cuda.cuStreamCopyAttributes(one, other), CUDA_ERROR_INVALID_HANDLE);
            }),
            0);
}

TEST_F(RarerCallsTest, ModulesComeInOtherWaysToo) {
  const std::string path = testing::TempDir() + "/softgpu-" + std::to_string(getpid()) + ".ptx";
  std::ofstream(path) << kKernels;
  EXPECT_EQ(
      Run([&](Driver& cuda, Link&) {
        Begin(cuda);
        CUmodule module = nullptr;
        CUjit_option option{};
        void* value = nullptr;
        CHECK_OK(cuda.cuModuleLoadDataEx(&module, kKernels, 0, nullptr, nullptr));
        CHECK_OK(cuda.cuModuleLoadDataEx(&module, kKernels, 1, &option, &value));
        CHECK_RESULT(cuda.cuModuleLoadDataEx(&module, ".version nothing", 0, nullptr, nullptr), CUDA_ERROR_INVALID_PTX);
        CUmodule binary = nullptr;
        CHECK_RESULT(cuda.cuModuleLoadFatBinary(&binary, kKernels), CUDA_ERROR_NO_BINARY_FOR_GPU);
        CHECK_RESULT(cuda.cuModuleLoadFatBinary(nullptr, kKernels), CUDA_ERROR_INVALID_VALUE);
        CUfunction fill = nullptr;
        CHECK_OK(cuda.cuModuleGetFunction(&fill, module, "fill"));
        CUmodule owner = nullptr;
        CHECK_OK(cuda.cuFuncGetModule(&owner, fill));
        CHECK_THAT(owner == module);
        CUfunctionLoadingState state{};
        CHECK_OK(cuda.cuFuncIsLoaded(&state, fill));
        CHECK_THAT(state == CU_FUNCTION_LOADING_STATE_LOADED);
        CHECK_OK(cuda.cuFuncLoad(fill));
        CHECK_OK(cuda.cuFuncSetCacheConfig(fill, CU_FUNC_CACHE_PREFER_L1));
        CHECK_OK(cuda.cuFuncSetSharedMemConfig(fill, CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE));
        CHECK_RESULT(cuda.cuFuncGetModule(nullptr, fill), CUDA_ERROR_INVALID_VALUE);
        CHECK_RESULT(cuda.cuFuncIsLoaded(nullptr, fill), CUDA_ERROR_INVALID_VALUE);

        CUlibrary library = nullptr;
        CHECK_RESULT(cuda.cuLibraryLoadFromFile(&library, "/no/such/file", nullptr, nullptr, 0, nullptr, nullptr, 0),
                     CUDA_ERROR_FILE_NOT_FOUND);
        CHECK_OK(cuda.cuLibraryLoadFromFile(&library, path.c_str(), nullptr, nullptr, 0, nullptr, nullptr, 0));
        CHECK_OK(cuda.cuLibraryGetModule(&module, library));
        CHECK_OK(cuda.cuModuleGetFunction(&fill, module, "fill"));
        CHECK_RESULT(cuda.cuLibraryGetModule(nullptr, library), CUDA_ERROR_INVALID_VALUE);
        // No variable is managed, and no function unified.
        CUdeviceptr pointer = 0;
        std::size_t bytes = 0;
        void* function = nullptr;
        CHECK_RESULT(cuda.cuLibraryGetManaged(&pointer, &bytes, library, "counter"), CUDA_ERROR_NOT_FOUND);
        CHECK_RESULT(cuda.cuLibraryGetUnifiedFunction(&function, library, "fill"), CUDA_ERROR_NOT_FOUND);

        CUkernel kernel = nullptr;
        CHECK_OK(cuda.cuLibraryGetKernel(&kernel, library, "add"));
        int most = 0;
        CHECK_OK(cuda.cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 65536, kernel, 0));
        CHECK_OK(cuda.cuKernelGetAttribute(&most, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel, 0));
        CHECK_THAT(most == 65536);
        CHECK_RESULT(cuda.cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1 << 30, kernel, 0),
                     CUDA_ERROR_INVALID_VALUE);
        CHECK_OK(cuda.cuKernelSetCacheConfig(kernel, CU_FUNC_CACHE_PREFER_SHARED, 0));
        std::size_t offset = 0;
        CHECK_OK(cuda.cuKernelGetParamInfo(kernel, 2, &offset, &bytes));
        CHECK_THAT(offset == 12 && bytes == 4);
        CHECK_RESULT(cuda.cuKernelGetParamInfo(kernel, 3, &offset, &bytes), CUDA_ERROR_INVALID_VALUE);
        CHECK_OK(cuda.cuLibraryUnload(library));
        CHECK_RESULT(cuda.cuLibraryGetModule(&module, library), CUDA_ERROR_INVALID_HANDLE);
        CHECK_RESULT(cuda.cuKernelGetAttribute(&most, CU_FUNC_ATTRIBUTE_NUM_REGS, kernel, 0),
                     CUDA_ERROR_INVALID_HANDLE);
      }),
      0);
  std::filesystem::remove(path);
}

TEST_F(RarerCallsTest, OccupancyTakesTheKnownFlagsAndCooperationIsNotThere) {
  EXPECT_EQ(Run([](Driver& cuda, Link&) {
              Begin(cuda);
              CUmodule module = nullptr;
              CUfunction fill = nullptr;
              CHECK_OK(cuda.cuModuleLoadData(&module, kKernels));
              CHECK_OK(cuda.cuModuleGetFunction(&fill, module, "fill"));
              int blocks = 0;
              int same = 0;
              CHECK_OK(cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, fill, 256, 0));
              CHECK_OK(cuda.cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
                  &same, fill, 256, 0, CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE));
              CHECK_THAT(blocks > 0 && same == blocks);
              CHECK_RESULT(cuda.cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&same, fill, 256, 0, 2),
                           CUDA_ERROR_INVALID_VALUE);
              int grid = 0;
              int block = 0;
              CHECK_OK(cuda.cuOccupancyMaxPotentialBlockSizeWithFlags(&grid, &block, fill, nullptr, 0, 128, 0));
              CHECK_THAT(grid > 0 && block > 0 && block <= 128);
              CHECK_RESULT(cuda.cuOccupancyMaxPotentialBlockSizeWithFlags(&grid, &block, fill, nullptr, 0, 128, 2),
                           CUDA_ERROR_INVALID_VALUE);
              CHECK_RESULT(cuda.cuLaunchCooperativeKernel(fill, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr),
                           CUDA_ERROR_NOT_SUPPORTED);
            }),
            0);
}

}  // namespace
}  // namespace softgpu_test
