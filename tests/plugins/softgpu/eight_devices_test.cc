// A node of eight devices of different sizes: each is of use to whoever sees it, and holds no more than it has room
// for.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/plugins/softgpu/gpu_process.h"
#include "tests/plugins/softgpu/kernels.h"
#include "tests/plugins/softgpu/soft_node.h"

namespace softgpu_test {
namespace {

constexpr int kDevices = 8;
constexpr unsigned kItems = 4096;

constexpr std::size_t CapacityOf(int device) { return static_cast<std::size_t>(device + 1) * (std::size_t{16} << 20); }

// Device i has the UUID i + 1, (i + 1) * 16 MiB, and the bus 0x20 + i.
std::vector<std::string> EightDevices() {
  std::vector<std::string> devices;
  for (int i = 0; i < kDevices; ++i) {
    devices.push_back("memory=" + std::to_string(CapacityOf(i) >> 20) + "MiB,chip=Soft " + std::to_string(i) +
                      ",uuid=" + TestUuid(i + 1) + ",pci=0000:2" + std::to_string(i) +
                      ":00,numa=" + std::to_string(i / 4));
  }
  return devices;
}

int UuidOf(Driver& cuda, CUdevice device) {
  CUuuid uuid{};
  CHECK_OK(cuda.cuDeviceGetUuid_v2(&uuid, device));
  return uuid.bytes[15];
}

// Memory and kernels on the device `ordinal`, which must be the node's device `expected`: filled here, looked at in
// Check(), when all the others are at work too.
class Worker {
 public:
  Worker(Driver& cuda, CUdevice ordinal, int expected) : cuda_(cuda), expected_(expected) {
    CHECK_THAT(UuidOf(cuda, ordinal) == expected + 1);
    std::size_t bytes = 0;
    CHECK_OK(cuda.cuDeviceTotalMem_v2(&bytes, ordinal));
    CHECK_THAT(bytes == CapacityOf(expected));
    char bus_id[32] = {};
    CHECK_OK(cuda.cuDeviceGetPCIBusId(bus_id, sizeof(bus_id), ordinal));
    CHECK_THAT(std::string(bus_id) == "0000:2" + std::to_string(expected) + ":00.0");
    CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context_, ordinal));
    CHECK_OK(cuda.cuCtxSetCurrent(context_));
    CUmodule module = nullptr;
    CUfunction fill = nullptr;
    CHECK_OK(cuda.cuModuleLoadData(&module, kKernels));
    CHECK_OK(cuda.cuModuleGetFunction(&fill, module, "fill"));
    CHECK_OK(cuda.cuModuleGetFunction(&add_, module, "add"));
    CHECK_OK(cuda.cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING));
    CHECK_OK(cuda.cuMemAlloc_v2(&memory_, kItems * 4));
    unsigned items = kItems;
    void* parameters[] = {&memory_, &items};
    CHECK_OK(cuda.cuLaunchKernel(fill, kItems / 128, 1, 1, 128, 1, 1, 0, stream_, parameters, nullptr));
  }
  void Add() {
    CHECK_OK(cuda_.cuCtxSetCurrent(context_));
    unsigned items = kItems;
    unsigned amount = 1000 * static_cast<unsigned>(expected_ + 1);
    void* parameters[] = {&memory_, &items, &amount};
    CHECK_OK(cuda_.cuLaunchKernel(add_, kItems / 128, 1, 1, 128, 1, 1, 0, stream_, parameters, nullptr));
  }
  void Check() {
    CHECK_OK(cuda_.cuCtxSetCurrent(context_));
    CHECK_OK(cuda_.cuStreamSynchronize(stream_));
    std::vector<unsigned> values(kItems);
    CHECK_OK(cuda_.cuMemcpyDtoH_v2(values.data(), memory_, kItems * 4));
    for (unsigned i = 0; i < kItems; ++i) CHECK_THAT(values[i] == i + 1000 * static_cast<unsigned>(expected_ + 1));
  }

 private:
  Driver& cuda_;
  int expected_;
  CUcontext context_ = nullptr;
  CUstream stream_ = nullptr;
  CUfunction add_ = nullptr;
  CUdeviceptr memory_ = 0;
};

// Sees just these devices, in this order; uses all of them at once.
GpuProcess::Body UseAll(std::vector<int> expected) {
  return [expected = std::move(expected)](Driver& cuda, Link& link) {
    CHECK_OK(cuda.cuInit(0));
    int count = 0;
    CHECK_OK(cuda.cuDeviceGetCount(&count));
    CHECK_THAT(count == static_cast<int>(expected.size()));
    std::vector<Worker> workers;
    for (int i = 0; i < count; ++i) workers.emplace_back(cuda, i, expected[static_cast<std::size_t>(i)]);
    for (Worker& worker : workers) worker.Add();
    for (Worker& worker : workers) worker.Check();
    link.Send(1);
    link.Receive();
  };
}

class EightDevicesTest : public testing::Test {
 protected:
  SoftNode node_{EightDevices()};
};

TEST_F(EightDevicesTest, OneProcessUsesAllOfThem) {
  GpuProcess process(node_.socket(), UseAll({0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(process.link().Receive(), 1U);
  EXPECT_GE(node_.used_bytes(), std::int64_t{kDevices} * kItems * 4);
  process.link().Send(1);
  EXPECT_EQ(process.Wait(), 0);
  EXPECT_TRUE(node_.WaitUntilUnused());
}

TEST_F(EightDevicesTest, EachProcessUsesThoseThatItsEnvironmentNamesInThatOrder) {
  struct View {
    std::string visible;
    std::vector<int> devices;
  };
  const std::vector<View> views = {
      {"7,0", {7, 0}},
      {"3", {3}},
      {TestUuid(6) + "," + TestUuid(2), {5, 1}},
      {"6,5,4,3,2,1,0", {6, 5, 4, 3, 2, 1, 0}},
      {"2,4,8,5", {2, 4}},  // There is no ninth: the list ends before it.
  };
  std::vector<std::unique_ptr<GpuProcess>> processes;
  for (const View& view : views) {
    processes.push_back(std::make_unique<GpuProcess>(node_.socket(), UseAll(view.devices), view.visible));
  }
  for (std::size_t i = 0; i < processes.size(); ++i) {
    SCOPED_TRACE(views[i].visible);
    EXPECT_EQ(processes[i]->link().Receive(), 1U);
    processes[i]->link().Send(1);
    EXPECT_EQ(processes[i]->Wait(), 0);
  }
}

// Counted over all processes, and for each device by itself.
TEST_F(EightDevicesTest, EachHoldsAsMuchAsItHasRoomForAndNoMore) {
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  // All of its last device but 1 MiB.
  GpuProcess other(node_.socket(), [](Driver& cuda, Link& link) {
    CUcontext context = nullptr;
    CUdeviceptr memory = 0;
    CHECK_OK(cuda.cuInit(0));
    CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, kDevices - 1));
    CHECK_OK(cuda.cuCtxSetCurrent(context));
    CHECK_OK(cuda.cuMemAlloc_v2(&memory, CapacityOf(kDevices - 1) - kMiB));
    link.Send(1);
    link.Receive();
  });
  EXPECT_EQ(other.link().Receive(), 1U);
  GpuProcess process(node_.socket(), [](Driver& cuda, Link&) {
    CHECK_OK(cuda.cuInit(0));
    for (CUdevice device = 0; device < kDevices; ++device) {
      CUcontext context = nullptr;
      CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, device));
      CHECK_OK(cuda.cuCtxSetCurrent(context));
      const std::size_t room = device == kDevices - 1 ? kMiB : CapacityOf(device);
      std::size_t free = 0;
      std::size_t total = 0;
      CHECK_OK(cuda.cuMemGetInfo_v2(&free, &total));
      CHECK_THAT(free == room && total == CapacityOf(device));
      CUdeviceptr most = 0;
      CUdeviceptr more = 0;
      CHECK_RESULT(cuda.cuMemAlloc_v2(&more, room + 1), CUDA_ERROR_OUT_OF_MEMORY);
      CHECK_OK(cuda.cuMemAlloc_v2(&most, room));
      CHECK_RESULT(cuda.cuMemAlloc_v2(&more, 1), CUDA_ERROR_OUT_OF_MEMORY);
      // The last byte is there.
      unsigned char byte = 0;
      CHECK_OK(cuda.cuMemsetD8_v2(most + room - 1, 0x5a, 1));
      CHECK_OK(cuda.cuMemcpyDtoH_v2(&byte, most + room - 1, 1));
      CHECK_THAT(byte == 0x5a);
    }
  });
  EXPECT_EQ(process.Wait(), 0);
  other.link().Send(1);
  EXPECT_EQ(other.Wait(), 0);
  EXPECT_TRUE(node_.WaitUntilUnused());
}

// A whole node turned around: what was the first device's is the last one's.
TEST_F(EightDevicesTest, AJobOnAllOfThemMovesOntoAllOfThemInReverse) {
  std::vector<std::string> alike;
  for (int i = 0; i < kDevices; ++i) alike.push_back("memory=64MiB,chip=Soft A,uuid=" + TestUuid(i + 1));
  SoftNode node(alike);
  GpuProcess job(node.socket(), [](Driver& cuda, Link& link) {
    CHECK_OK(cuda.cuInit(0));
    CUcontext contexts[kDevices];
    CUdeviceptr memory[kDevices];
    for (unsigned i = 0; i < kDevices; ++i) {
      CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&contexts[i], static_cast<CUdevice>(i)));
      CHECK_OK(cuda.cuCtxSetCurrent(contexts[i]));
      CHECK_OK(cuda.cuMemAlloc_v2(&memory[i], kItems * 4));
      CHECK_OK(cuda.cuMemsetD32_v2(memory[i], 100 + i, kItems));
    }
    link.Send(1);
    link.Receive();
    for (unsigned i = 0; i < kDevices; ++i) {
      CHECK_THAT(UuidOf(cuda, static_cast<CUdevice>(i)) == kDevices - static_cast<int>(i));
      CHECK_OK(cuda.cuCtxSetCurrent(contexts[i]));
      std::vector<unsigned> values(kItems);
      CHECK_OK(cuda.cuMemcpyDtoH_v2(values.data(), memory[i], kItems * 4));
      CHECK_THAT(values == std::vector<unsigned>(kItems, 100 + i));
    }
  });
  EXPECT_EQ(job.link().Receive(), 1U);
  Driver cuda = OpenSoftDriver();
  std::vector<CUcheckpointGpuPair> pairs(kDevices);
  for (std::size_t i = 0; i < kDevices; ++i) {
    pairs[i].oldUuid.bytes[15] = static_cast<char>(i + 1);
    pairs[i].newUuid.bytes[15] = static_cast<char>(kDevices - i);
  }
  CUcheckpointRestoreArgs args{};
  args.gpuPairs = pairs.data();
  args.gpuPairsCount = kDevices;
  ASSERT_EQ(cuda.cuCheckpointProcessLock(job.pid(), nullptr), CUDA_SUCCESS);
  ASSERT_EQ(cuda.cuCheckpointProcessCheckpoint(job.pid(), nullptr), CUDA_SUCCESS);
  ASSERT_EQ(cuda.cuCheckpointProcessRestore(job.pid(), &args), CUDA_SUCCESS);
  ASSERT_EQ(cuda.cuCheckpointProcessUnlock(job.pid(), nullptr), CUDA_SUCCESS);
  job.link().Send(1);
  EXPECT_EQ(job.Wait(), 0);
}

}  // namespace
}  // namespace softgpu_test
