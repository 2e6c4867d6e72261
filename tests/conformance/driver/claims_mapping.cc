// Claims: virtual memory management.
#include <unistd.h>

#include <cstring>
#include <vector>

#include "tests/conformance/driver/probe.h"

namespace conformance {
namespace {

struct Vmm {
  CUmemAllocationProp properties{};
  std::size_t granule = 0;

  explicit Vmm(Probe& probe, CUmemAllocationHandleType type = CU_MEM_HANDLE_TYPE_NONE) {
    int has = 0;
    NEED_CU(probe.cuda.cuDeviceGetAttribute(&has, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 0));
    if (has == 0) probe.NotSupported("the device has no virtual memory management");
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    properties.requestedHandleTypes = type;
    NEED_CU(probe.cuda.cuMemGetAllocationGranularity(&granule, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
  }
  CUdeviceptr Reserve(Probe& probe, std::size_t granules) {
    CUdeviceptr base = 0;
    NEED_CU(probe.cuda.cuMemAddressReserve(&base, granules * granule, 0, 0, 0));
    return base;
  }
  CUmemGenericAllocationHandle Create(Probe& probe, std::size_t granules) {
    CUmemGenericAllocationHandle handle = 0;
    NEED_CU(probe.cuda.cuMemCreate(&handle, granules * granule, &properties, 0));
    return handle;
  }
  CUresult Allow(Probe& probe, CUdeviceptr base, std::size_t granules,
                 CUmemAccess_flags flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE) {
    const CUmemAccessDesc access{{CU_MEM_LOCATION_TYPE_DEVICE, 0}, flags};
    return probe.cuda.cuMemSetAccess(base, granules * granule, &access, 1);
  }
};

void MappedMemoryIsMemory(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Vmm vmm(probe);
  CUdeviceptr base = vmm.Reserve(probe, 4);
  EXPECT_HOLDS(base % vmm.granule == 0);
  // Two pieces one behind the other are one range to copies and kernels.
  const auto one = vmm.Create(probe, 1);
  const auto two = vmm.Create(probe, 2);
  EXPECT_CU(cuda.cuMemMap(base, vmm.granule, 0, two, 0), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemUnmap(base, vmm.granule), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemMap(base, vmm.granule, 0, one, 0), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemMap(base + vmm.granule, 2 * vmm.granule, 0, two, 0), CUDA_SUCCESS);
  NEED_CU(vmm.Allow(probe, base, 3));
  auto items = static_cast<unsigned>(3 * vmm.granule / 4);
  unsigned amount = 1;
  EXPECT_CU(probe.Launch(probe.Kernel("fill"), items, {&base, &items}), CUDA_SUCCESS);
  EXPECT_CU(probe.Launch(probe.Kernel("add"), items, {&base, &items, &amount}), CUDA_SUCCESS);
  std::vector<unsigned> back(items);
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(back.data(), base, std::size_t{items} * 4), CUDA_SUCCESS);
  bool same = true;
  for (unsigned i = 0; i < items; ++i) same &= back[i] == i + 1;
  EXPECT_HOLDS(same);
  EXPECT_CU(cuda.cuMemcpyHtoD_v2(base + 12, back.data(), 2 * vmm.granule), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(back.data(), base + 12 + vmm.granule, 4), CUDA_SUCCESS);
  EXPECT_HOLDS(back[0] == vmm.granule / 4 + 1);
  EXPECT_CU(cuda.cuMemsetD8_v2(base + vmm.granule - 8, 0xee, 16), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemUnmap(base, 3 * vmm.granule), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemRelease(one), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemRelease(two), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemAddressFree(base, 4 * vmm.granule), CUDA_SUCCESS);
}

void WithoutAccessThereIsNone(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Vmm vmm(probe);
  const CUdeviceptr base = vmm.Reserve(probe, 2);
  const auto handle = vmm.Create(probe, 1);
  unsigned value = 0;
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, base, 4), CUDA_ERROR_INVALID_VALUE);
  NEED_CU(cuda.cuMemMap(base, vmm.granule, 0, handle, 0));
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, base, 4), CUDA_ERROR_INVALID_VALUE);
  const CUmemLocation here{CU_MEM_LOCATION_TYPE_DEVICE, 0};
  unsigned long long flags = 99;
  EXPECT_CU(cuda.cuMemGetAccess(&flags, &here, base), CUDA_SUCCESS);
  EXPECT_HOLDS(flags == CU_MEM_ACCESS_FLAGS_PROT_NONE);
  EXPECT_CU(vmm.Allow(probe, base, 1), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemGetAccess(&flags, &here, base + 100), CUDA_SUCCESS);
  EXPECT_HOLDS(flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, base, 4), CUDA_SUCCESS);
  // A new mapping begins without.
  NEED_CU(cuda.cuMemUnmap(base, vmm.granule));
  NEED_CU(cuda.cuMemMap(base, vmm.granule, 0, handle, 0));
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, base, 4), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(vmm.Allow(probe, base, 2), CUDA_ERROR_INVALID_VALUE);
}

void WritingReadOnlyMemoryIsIllegal(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Vmm vmm(probe);
  CUdeviceptr base = vmm.Reserve(probe, 1);
  NEED_CU(cuda.cuMemMap(base, vmm.granule, 0, vmm.Create(probe, 1), 0));
  NEED_CU(vmm.Allow(probe, base, 1, CU_MEM_ACCESS_FLAGS_PROT_READ));
  unsigned items = 16;
  EXPECT_CU(probe.Launch(probe.Kernel("fill"), items, {&base, &items}), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
}

void OneMemoryAtTwoAddresses(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Vmm vmm(probe);
  const CUdeviceptr base = vmm.Reserve(probe, 4);
  const auto handle = vmm.Create(probe, 1);
  NEED_CU(cuda.cuMemMap(base, vmm.granule, 0, handle, 0));
  NEED_CU(cuda.cuMemMap(base + 2 * vmm.granule, vmm.granule, 0, handle, 0));
  NEED_CU(vmm.Allow(probe, base, 1));
  NEED_CU(vmm.Allow(probe, base + 2 * vmm.granule, 1));
  EXPECT_CU(cuda.cuMemsetD32_v2(base + 64, 0xabcd, 1), CUDA_SUCCESS);
  unsigned value = 0;
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, base + 2 * vmm.granule + 64, 4), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 0xabcd);
}

void MemoryLivesWhileMappedOrHeld(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Vmm vmm(probe);
  const CUdeviceptr base = vmm.Reserve(probe, 1);
  std::size_t before = 0;
  std::size_t during = 0;
  std::size_t after = 0;
  std::size_t total = 0;
  NEED_CU(cuda.cuMemGetInfo_v2(&before, &total));
  const std::size_t granules = (std::size_t{32} << 20) / vmm.granule;
  const CUdeviceptr wide = vmm.Reserve(probe, granules);
  const auto handle = vmm.Create(probe, granules);
  NEED_CU(cuda.cuMemMap(wide, granules * vmm.granule, 0, handle, 0));
  NEED_CU(vmm.Allow(probe, wide, granules));
  NEED_CU(cuda.cuMemsetD32_v2(wide, 77, 1));
  EXPECT_CU(cuda.cuMemRelease(handle), CUDA_SUCCESS);  // The mapping keeps it.
  NEED_CU(cuda.cuMemGetInfo_v2(&during, &total));
  EXPECT_HOLDS(before - during >= std::size_t{32} << 20);
  unsigned value = 0;
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, wide, 4), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 77);
  CUmemGenericAllocationHandle again = 0;
  EXPECT_CU(cuda.cuMemRetainAllocationHandle(&again, reinterpret_cast<void*>(wide + 4096)), CUDA_SUCCESS);
  EXPECT_HOLDS(again == handle);
  EXPECT_CU(cuda.cuMemUnmap(wide, granules * vmm.granule), CUDA_SUCCESS);
  // Now the handle keeps it.
  NEED_CU(cuda.cuMemMap(base, vmm.granule, 0, again, 0));
  NEED_CU(vmm.Allow(probe, base, 1));
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, base, 4), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 77);
  EXPECT_CU(cuda.cuMemUnmap(base, vmm.granule), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemRelease(again), CUDA_SUCCESS);
  NEED_CU(cuda.cuMemGetInfo_v2(&after, &total));
  EXPECT_HOLDS(after == before);
  EXPECT_CU(cuda.cuMemRetainAllocationHandle(&again, reinterpret_cast<void*>(wide)), CUDA_ERROR_INVALID_VALUE);
}

void MappingRulesAreKept(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Vmm vmm(probe);
  const CUdeviceptr base = vmm.Reserve(probe, 4);
  const auto handle = vmm.Create(probe, 2);
  const std::size_t g = vmm.granule;
  EXPECT_CU(cuda.cuMemMap(base + 4096, g, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemMap(base, g + 4096, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemMap(base, 3 * g, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemMap(base + 3 * g, 2 * g, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemMap(base, 2 * g, 0, handle, 1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemMap(base, 2 * g, 0, 0x1234, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemMap(base, 2 * g, 0, handle, 0), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemMap(base + g, 2 * g, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemUnmap(base, g), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemUnmap(base + g, g), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemUnmap(base + 2 * g, g), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemAddressFree(base, 4 * g), CUDA_ERROR_INVALID_VALUE);  // Something is mapped.
  EXPECT_CU(cuda.cuMemUnmap(base, 2 * g), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemAddressFree(base, 2 * g), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemAddressFree(base, 4 * g), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemAddressFree(base, 4 * g), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemMap(base, 2 * g, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
}

void CreatingRulesAreKept(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Vmm vmm(probe);
  CUmemGenericAllocationHandle handle = 0;
  CUdeviceptr base = 0;
  EXPECT_CU(cuda.cuMemCreate(&handle, vmm.granule + 1, &vmm.properties, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemCreate(&handle, 0, &vmm.properties, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemCreate(&handle, vmm.granule, &vmm.properties, 1), CUDA_ERROR_INVALID_VALUE);
  CUmemAllocationProp wrong = vmm.properties;
  wrong.type = CU_MEM_ALLOCATION_TYPE_INVALID;
  EXPECT_CU(cuda.cuMemCreate(&handle, vmm.granule, &wrong, 0), CUDA_ERROR_INVALID_VALUE);
  wrong = vmm.properties;
  wrong.location.id = 4711;
  EXPECT_CU(cuda.cuMemCreate(&handle, vmm.granule, &wrong, 0), CUDA_ERROR_INVALID_DEVICE);
  std::size_t free_bytes = 0;
  std::size_t total = 0;
  NEED_CU(cuda.cuMemGetInfo_v2(&free_bytes, &total));
  EXPECT_CU(cuda.cuMemCreate(&handle, (total / vmm.granule + 1) * vmm.granule, &vmm.properties, 0),
            CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_CU(cuda.cuMemAddressReserve(&base, 0, 0, 0, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemAddressReserve(&base, vmm.granule + 1, 0, 0, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemAddressReserve(&base, vmm.granule, 3, 0, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemAddressReserve(&base, vmm.granule, 0, 0, 1), CUDA_ERROR_INVALID_VALUE);
}

void ReleasingTwiceIsRefused(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Vmm vmm(probe);
  const auto handle = vmm.Create(probe, 1);
  CUmemAllocationProp properties{};
  EXPECT_CU(cuda.cuMemGetAllocationPropertiesFromHandle(&properties, handle), CUDA_SUCCESS);
  EXPECT_HOLDS(properties.type == CU_MEM_ALLOCATION_TYPE_PINNED && properties.location.id == 0);
  EXPECT_CU(cuda.cuMemRelease(handle), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemRelease(handle), CUDA_ERROR_INVALID_VALUE);
}

void HintsAreTakenWhereFree(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Vmm vmm(probe);
  const CUdeviceptr base = vmm.Reserve(probe, 8);
  NEED_CU(cuda.cuMemAddressFree(base, 8 * vmm.granule));
  CUdeviceptr again = 0;
  EXPECT_CU(cuda.cuMemAddressReserve(&again, 8 * vmm.granule, 0, base, 0), CUDA_SUCCESS);
  EXPECT_HOLDS(again == base);
  CUdeviceptr elsewhere = 0;
  EXPECT_CU(cuda.cuMemAddressReserve(&elsewhere, 8 * vmm.granule, 0, base, 0), CUDA_SUCCESS);
  EXPECT_HOLDS(elsewhere != base);
}

void MappedPointersAreKnown(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Vmm vmm(probe);
  const CUdeviceptr base = vmm.Reserve(probe, 2);
  NEED_CU(cuda.cuMemMap(base, vmm.granule, 0, vmm.Create(probe, 1), 0));
  NEED_CU(vmm.Allow(probe, base, 1));
  unsigned type = 0;
  EXPECT_CU(cuda.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, base + 9), CUDA_SUCCESS);
  EXPECT_HOLDS(type == CU_MEMORYTYPE_DEVICE);
  bool can_share = true;
  EXPECT_CU(cuda.cuPointerGetAttribute(&can_share, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, base),
            CUDA_SUCCESS);
  EXPECT_HOLDS(!can_share);
  int ordinal = -1;
  EXPECT_CU(cuda.cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, base), CUDA_SUCCESS);
  EXPECT_HOLDS(ordinal == 0);
  CUipcMemHandle handle{};
  EXPECT_CU(cuda.cuIpcGetMemHandle(&handle, base), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemFree_v2(base), CUDA_ERROR_INVALID_VALUE);
}

void HandlesTravelAsDescriptorsInTheOtherProcess(Probe& probe, Partner& first) {
  auto& cuda = probe.cuda;
  int bytes = 0;
  const int fd = first.Receive(&bytes, sizeof(bytes));
  probe.Begin();
  Vmm vmm(probe, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  CUmemGenericAllocationHandle handle = 0;
  NEED_CU(cuda.cuMemImportFromShareableHandle(&handle, reinterpret_cast<void*>(static_cast<std::intptr_t>(fd)),
                                              CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
  close(fd);
  CUdeviceptr base = vmm.Reserve(probe, 2);
  NEED_CU(cuda.cuMemMap(base, 2 * vmm.granule, 0, handle, 0));
  NEED_CU(vmm.Allow(probe, base, 2));
  EXPECT_CU(cuda.cuMemRelease(handle), CUDA_SUCCESS);
  std::vector<unsigned> back(2 * vmm.granule / 4);
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(back.data(), base, 2 * vmm.granule), CUDA_SUCCESS);
  EXPECT_HOLDS(back[3] == 3 && back.back() == back.size() - 1);
  back[3] = 333;
  EXPECT_CU(cuda.cuMemcpyHtoD_v2(base, back.data(), 2 * vmm.granule), CUDA_SUCCESS);
  unsigned items = 100;
  unsigned amount = 1000;
  EXPECT_CU(probe.Launch(probe.Kernel("add"), items, {&base, &items, &amount}), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuCtxSynchronize(), CUDA_SUCCESS);
  first.Send(&bytes, sizeof(bytes));
  first.Receive(&bytes, sizeof(bytes));
  // The other has let go of it.
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(back.data(), base, 2 * vmm.granule), CUDA_SUCCESS);
  EXPECT_HOLDS(back[3] == 1333 && back[100] == 100);
}

void HandlesTravelAsDescriptors(Probe& probe) {
  Partner partner(probe, &HandlesTravelAsDescriptorsInTheOtherProcess);
  auto& cuda = probe.cuda;
  probe.Begin();
  Vmm vmm(probe, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  CUdeviceptr base = vmm.Reserve(probe, 2);
  const auto handle = vmm.Create(probe, 2);
  NEED_CU(cuda.cuMemMap(base, 2 * vmm.granule, 0, handle, 0));
  NEED_CU(vmm.Allow(probe, base, 2));
  auto items = static_cast<unsigned>(2 * vmm.granule / 4);
  NEED_CU(probe.Launch(probe.Kernel("fill"), items, {&base, &items}));
  NEED_CU(cuda.cuCtxSynchronize());
  int fd = -1;
  NEED_CU(cuda.cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
  int bytes = 1;
  partner.Send(&bytes, sizeof(bytes), fd);
  close(fd);
  partner.Receive(&bytes, sizeof(bytes));
  unsigned value = 0;
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, base + 12, 4), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 1333);
  EXPECT_CU(cuda.cuMemUnmap(base, 2 * vmm.granule), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemRelease(handle), CUDA_SUCCESS);
  partner.Send(&bytes, sizeof(bytes));
  partner.Join(probe);
}

void WhatWasNotAskedForIsNotExported(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Vmm vmm(probe);
  const auto handle = vmm.Create(probe, 1);
  int fd = -1;
  EXPECT_CU(cuda.cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
            CUDA_ERROR_INVALID_VALUE);
  CUmemGenericAllocationHandle imported = 0;
  EXPECT_CU(cuda.cuMemImportFromShareableHandle(&imported, reinterpret_cast<void*>(std::intptr_t{-1}),
                                                CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
            CUDA_ERROR_INVALID_VALUE);
}

constexpr Claim kClaims[] = {
    {"MappedMemoryIsMemory", "copies, fills and kernels work on mapped memory, across mappings", &MappedMemoryIsMemory},
    {"WithoutAccessThereIsNone", "a mapping has no access until cuMemSetAccess", &WithoutAccessThereIsNone},
    {"WritingReadOnlyMemoryIsIllegal", "a kernel that writes to read-only memory gets ILLEGAL_ADDRESS",
     &WritingReadOnlyMemoryIsIllegal},
    {"OneMemoryAtTwoAddresses", "memory mapped twice is the same bytes", &OneMemoryAtTwoAddresses},
    {"MemoryLivesWhileMappedOrHeld", "mappings and handles keep memory; retaining gives the same handle",
     &MemoryLivesWhileMappedOrHeld},
    {"MappingRulesAreKept", "granularity, bounds, overlap, whole mappings, whole reservations", &MappingRulesAreKept},
    {"CreatingRulesAreKept", "sizes, flags, properties and devices of cuMemCreate and cuMemAddressReserve",
     &CreatingRulesAreKept},
    {"ReleasingTwiceIsRefused", "a handle tells its properties and is released once", &ReleasingTwiceIsRefused},
    {"HintsAreTakenWhereFree", "a reservation goes where the hint says if that is free, else elsewhere",
     &HintsAreTakenWhereFree},
    {"MappedPointersAreKnown", "pointer attributes of mapped memory; it is neither cuMemFree's nor cuIpc's",
     &MappedPointersAreKnown},
    {"HandlesTravelAsDescriptors", "exported memory is imported by descriptor and outlives its maker's hold",
     &HandlesTravelAsDescriptors},
    {"WhatWasNotAskedForIsNotExported", "export needs the handle type at creation; import a real descriptor",
     &WhatWasNotAskedForIsNotExported},
};

}  // namespace

std::span<const Claim> MappingClaims() { return kClaims; }

}  // namespace conformance
