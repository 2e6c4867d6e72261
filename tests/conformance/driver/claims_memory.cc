// Claims: device memory, pinned memory, pointers, memory of other processes.
#include <cstring>
#include <vector>

#include "tests/conformance/driver/probe.h"

namespace conformance {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

void AllocationsAreAligned(Probe& probe) {
  probe.Begin();
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{3}, std::size_t{4097}, 3 * kMiB}) {
    EXPECT_HOLDS(probe.Memory(bytes) % 256 == 0);
  }
}

void BadSizesAreRefused(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  CUdeviceptr memory = 0;
  EXPECT_CU(cuda.cuMemAlloc_v2(&memory, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemAlloc_v2(nullptr, 64), CUDA_ERROR_INVALID_VALUE);
  std::size_t free_bytes = 0;
  std::size_t total = 0;
  EXPECT_CU(cuda.cuMemGetInfo_v2(&free_bytes, &total), CUDA_SUCCESS);
  EXPECT_HOLDS(free_bytes <= total);
  EXPECT_CU(cuda.cuMemAlloc_v2(&memory, total + kMiB), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_CU(cuda.cuMemAlloc_v2(&memory, ~std::size_t{0} / 2), CUDA_ERROR_OUT_OF_MEMORY);
  // And all goes on.
  EXPECT_CU(cuda.cuMemAlloc_v2(&memory, 64), CUDA_SUCCESS);
}

void FreeingTwiceIsRefused(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  const CUdeviceptr memory = probe.Memory(64 * 1024);
  EXPECT_CU(cuda.cuMemFree_v2(memory + 1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemFree_v2(memory), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemFree_v2(memory), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemFree_v2(0), CUDA_SUCCESS);
}

void FreedMemoryCanBeHadAgain(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  std::size_t before = 0;
  std::size_t total = 0;
  const CUdeviceptr first = probe.Memory(64 * kMiB);
  EXPECT_CU(cuda.cuMemFree_v2(first), CUDA_SUCCESS);
  NEED_CU(cuda.cuMemGetInfo_v2(&before, &total));
  for (int i = 0; i < 20; ++i) EXPECT_CU(cuda.cuMemFree_v2(probe.Memory(64 * kMiB)), CUDA_SUCCESS);
  std::size_t after = 0;
  NEED_CU(cuda.cuMemGetInfo_v2(&after, &total));
  EXPECT_HOLDS(after == before);
}

void RangesAreFound(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  const CUdeviceptr memory = probe.Memory(5 * kMiB);
  CUdeviceptr base = 0;
  std::size_t bytes = 0;
  EXPECT_CU(cuda.cuMemGetAddressRange_v2(&base, &bytes, memory + 12345), CUDA_SUCCESS);
  EXPECT_HOLDS(base == memory && bytes == 5 * kMiB);
  EXPECT_CU(cuda.cuMemGetAddressRange_v2(nullptr, &bytes, memory), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemFree_v2(memory), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemGetAddressRange_v2(&base, &bytes, memory), CUDA_ERROR_NOT_FOUND);
}

void PitchedRowsAreAligned(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  CUdeviceptr memory = 0;
  std::size_t pitch = 0;
  EXPECT_CU(cuda.cuMemAllocPitch_v2(&memory, &pitch, 1000, 10, 4), CUDA_SUCCESS);
  EXPECT_HOLDS(pitch >= 1000 && pitch % 256 == 0);
  EXPECT_CU(cuda.cuMemAllocPitch_v2(&memory, &pitch, 1000, 10, 3), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemAllocPitch_v2(&memory, nullptr, 1000, 10, 4), CUDA_ERROR_INVALID_VALUE);
}

void PinnedMemoryIsTheProgramsOwn(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  void* memory = nullptr;
  NEED_CU(cuda.cuMemAllocHost_v2(&memory, 100000));
  std::memset(memory, 7, 100000);
  unsigned flags = 99;
  EXPECT_CU(cuda.cuMemHostGetFlags(&flags, memory), CUDA_SUCCESS);
  unsigned type = 0;
  const auto address = reinterpret_cast<CUdeviceptr>(memory);
  EXPECT_CU(cuda.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address), CUDA_SUCCESS);
  EXPECT_HOLDS(type == CU_MEMORYTYPE_HOST);
  EXPECT_CU(cuda.cuMemFreeHost(memory), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemFreeHost(memory), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemHostAlloc(&memory, 4096, 0x80), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemHostAlloc(&memory, 4096, kMemHostAllocPortable), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemFreeHost(memory), CUDA_SUCCESS);
}

void RegisteringTwiceIsRefused(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  std::vector<char> memory(3 * 4096);
  auto* page = reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 4095) / 4096 * 4096);
  NEED_CU(cuda.cuMemHostRegister_v2(page, 4096, 0));
  EXPECT_CU(cuda.cuMemHostRegister_v2(page, 4096, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  EXPECT_CU(cuda.cuMemHostUnregister(page), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemHostUnregister(page), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

void KernelsReachMappedHostMemory(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  int can = 0;
  NEED_CU(cuda.cuDeviceGetAttribute(&can, CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 0));
  if (can == 0) probe.NotSupported("CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY is 0");
  void* memory = nullptr;
  NEED_CU(cuda.cuMemHostAlloc(&memory, 4096, kMemHostAllocDeviceMap));
  CUdeviceptr device = 0;
  NEED_CU(cuda.cuMemHostGetDevicePointer_v2(&device, memory, 0));
  unsigned items = 100;
  EXPECT_CU(probe.Launch(probe.Kernel("fill"), items, {&device, &items}), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuCtxSynchronize(), CUDA_SUCCESS);
  EXPECT_HOLDS(static_cast<unsigned*>(memory)[99] == 99);
}

void PointersAreKnown(Probe& probe) {
  auto& cuda = probe.cuda;
  const CUcontext context = probe.Begin();
  const CUdeviceptr memory = probe.Memory(2 * kMiB);
  unsigned type = 0;
  EXPECT_CU(cuda.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, memory + 5), CUDA_SUCCESS);
  EXPECT_HOLDS(type == CU_MEMORYTYPE_DEVICE);
  CUcontext owner = nullptr;
  EXPECT_CU(cuda.cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_CONTEXT, memory), CUDA_SUCCESS);
  EXPECT_HOLDS(owner == context);
  int ordinal = -1;
  EXPECT_CU(cuda.cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, memory), CUDA_SUCCESS);
  EXPECT_HOLDS(ordinal == 0);
  CUdeviceptr start = 0;
  EXPECT_CU(cuda.cuPointerGetAttribute(&start, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, memory + 5), CUDA_SUCCESS);
  EXPECT_HOLDS(start == memory);
  std::size_t bytes = 0;
  EXPECT_CU(cuda.cuPointerGetAttribute(&bytes, CU_POINTER_ATTRIBUTE_RANGE_SIZE, memory + 5), CUDA_SUCCESS);
  EXPECT_HOLDS(bytes == 2 * kMiB);
  bool managed = true;
  EXPECT_CU(cuda.cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, memory), CUDA_SUCCESS);
  EXPECT_HOLDS(!managed);
  bool can_share = false;
  EXPECT_CU(cuda.cuPointerGetAttribute(&can_share, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, memory),
            CUDA_SUCCESS);
  EXPECT_HOLDS(can_share);
}

void PlainHostPointersAreNotKnown(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  int local = 0;
  const auto address = reinterpret_cast<CUdeviceptr>(&local);
  unsigned type = 99;
  EXPECT_CU(cuda.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address), CUDA_ERROR_INVALID_VALUE);
  CUpointer_attribute attributes[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
  int ordinal = 0;
  void* data[] = {&type, &ordinal};
  EXPECT_CU(cuda.cuPointerGetAttributes(2, attributes, data, address), CUDA_SUCCESS);
  EXPECT_HOLDS(type == 0 && ordinal == -2);
}

void AnotherProcessSeesTheSameBytesInTheOtherProcess(Probe& probe, Partner& first) {
  auto& cuda = probe.cuda;
  CUipcMemHandle handle{};
  first.Receive(&handle, sizeof(handle));
  probe.Begin();
  CUdeviceptr memory = 0;
  CUdeviceptr again = 0;
  EXPECT_CU(cuda.cuIpcOpenMemHandle_v2(&memory, handle, 0), CUDA_ERROR_INVALID_VALUE);
  NEED_CU(cuda.cuIpcOpenMemHandle_v2(&memory, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
  EXPECT_CU(cuda.cuIpcOpenMemHandle_v2(&again, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS), CUDA_SUCCESS);
  EXPECT_HOLDS(memory == again);
  std::vector<unsigned> back(kMiB);
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(back.data(), memory, back.size() * 4), CUDA_SUCCESS);
  EXPECT_HOLDS(back[5] == 5 && back[kMiB - 1] == kMiB - 1);
  unsigned items = kMiB;
  unsigned amount = 3;
  EXPECT_CU(probe.Launch(probe.Kernel("add"), items, {&memory, &items, &amount}), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuCtxSynchronize(), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemFree_v2(memory), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuIpcCloseMemHandle(memory), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuIpcCloseMemHandle(memory), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuIpcCloseMemHandle(memory), CUDA_ERROR_INVALID_VALUE);
  const int done = 1;
  first.Send(&done, sizeof(done));
}

void AnotherProcessSeesTheSameBytes(Probe& probe) {
  Partner partner(probe, &AnotherProcessSeesTheSameBytesInTheOtherProcess);
  auto& cuda = probe.cuda;
  probe.Begin();
  CUdeviceptr memory = probe.Memory(4 * kMiB);
  unsigned items = kMiB;
  NEED_CU(probe.Launch(probe.Kernel("fill"), items, {&memory, &items}));
  NEED_CU(cuda.cuCtxSynchronize());
  CUipcMemHandle handle{};
  NEED_CU(cuda.cuIpcGetMemHandle(&handle, memory));
  CUdeviceptr own = 0;
  EXPECT_CU(cuda.cuIpcOpenMemHandle_v2(&own, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS), CUDA_ERROR_INVALID_CONTEXT);
  partner.Send(&handle, sizeof(handle));
  int done = 0;
  partner.Receive(&done, sizeof(done));
  unsigned value = 0;
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, memory + 40, 4), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 13);
  EXPECT_CU(cuda.cuMemFree_v2(memory), CUDA_SUCCESS);
  partner.Join(probe);
}

constexpr Claim kClaims[] = {
    {"AllocationsAreAligned", "cuMemAlloc aligns to 256 bytes at least", &AllocationsAreAligned},
    {"BadSizesAreRefused", "0 bytes are INVALID_VALUE, too many OUT_OF_MEMORY, and the context lives on",
     &BadSizesAreRefused},
    {"FreeingTwiceIsRefused", "only the start of an allocation can be freed, once; 0 is nothing",
     &FreeingTwiceIsRefused},
    {"FreedMemoryCanBeHadAgain", "allocating and freeing leaks nothing", &FreedMemoryCanBeHadAgain},
    {"RangesAreFound", "cuMemGetAddressRange finds the allocation of any address in it", &RangesAreFound},
    {"PitchedRowsAreAligned", "cuMemAllocPitch widens rows; element sizes are 4, 8 or 16", &PitchedRowsAreAligned},
    {"PinnedMemoryIsTheProgramsOwn", "pinned memory can be written, is known as host memory, is freed once",
     &PinnedMemoryIsTheProgramsOwn},
    {"RegisteringTwiceIsRefused", "memory is registered once and unregistered once", &RegisteringTwiceIsRefused},
    {"KernelsReachMappedHostMemory", "kernels write to host memory that is mapped for them",
     &KernelsReachMappedHostMemory},
    {"PointersAreKnown", "type, context, device and range of a device pointer", &PointersAreKnown},
    {"PlainHostPointersAreNotKnown", "of a plain host pointer one attribute is an error, several are defaults",
     &PlainHostPointersAreNotKnown},
    {"AnotherProcessSeesTheSameBytes", "cuIpc* shares memory both ways between processes, by count",
     &AnotherProcessSeesTheSameBytes},
};

}  // namespace

std::span<const Claim> MemoryClaims() { return kClaims; }

}  // namespace conformance
