// What a program gets when it copies to and from the software GPU, beside memcpy between two buffers of the same size:
// the bound, for the copy goes through one mapping and no second pair of hands. Aim: 80 %.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/plugins/softgpu/driver.h"
#include "tests/plugins/softgpu/soft_node.h"

namespace softgpu_test {
namespace {

constexpr std::size_t kBytes = std::size_t{256} << 20;

// A driver with a context on a node of its own, once.
struct Device {
  SoftNode node{{"memory=1GiB"}};
  Driver cuda = OpenSoftDriver();
  CUdeviceptr linear = 0;
  CUdeviceptr mapped = 0;

  Device() {
    setenv("SOFTGPU_SOCKET", node.socket().c_str(), 1);
    CUcontext context = nullptr;
    CUmemGenericAllocationHandle handle = 0;
    CUmemAllocationProp properties{};
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    const CUmemAccessDesc access{{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    const bool works = cuda.cuInit(0) == CUDA_SUCCESS && cuda.cuCtxCreate_v2(&context, 0, 0) == CUDA_SUCCESS &&
                       cuda.cuMemAlloc_v2(&linear, kBytes) == CUDA_SUCCESS &&
                       cuda.cuMemAddressReserve(&mapped, kBytes, 0, 0, 0) == CUDA_SUCCESS &&
                       cuda.cuMemCreate(&handle, kBytes, &properties, 0) == CUDA_SUCCESS &&
                       cuda.cuMemMap(mapped, kBytes, 0, handle, 0) == CUDA_SUCCESS &&
                       cuda.cuMemSetAccess(mapped, kBytes, &access, 1) == CUDA_SUCCESS;
    if (!works) std::abort();
  }
  static Device& Get() {
    static Device device;
    return device;
  }
};

void BM_Memcpy(benchmark::State& state) {
  const auto bytes = static_cast<std::size_t>(state.range(0));
  const std::vector<char> from(bytes, 1);
  std::vector<char> to(bytes);
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), bytes);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

template <bool kToDevice, bool kMapped>
void BM_Copy(benchmark::State& state) {
  Device& device = Device::Get();
  const auto bytes = static_cast<std::size_t>(state.range(0));
  std::vector<char> host(bytes, 1);
  const CUdeviceptr memory = kMapped ? device.mapped : device.linear;
  for (auto _ : state) {
    const CUresult result = kToDevice ? device.cuda.cuMemcpyHtoD_v2(memory, host.data(), bytes)
                                      : device.cuda.cuMemcpyDtoH_v2(host.data(), memory, bytes);
    if (result != CUDA_SUCCESS) state.SkipWithError("the copy failed");
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

constexpr std::int64_t kSizes[] = {64 << 10, 1 << 20, 32 << 20, 256 << 20};
void Sizes(benchmark::internal::Benchmark* benchmark) {
  for (const std::int64_t size : kSizes) benchmark->Arg(size);
}
BENCHMARK(BM_Memcpy)->Apply(Sizes)->UseRealTime();
BENCHMARK(BM_Copy<true, false>)->Name("BM_ToDevice")->Apply(Sizes)->UseRealTime();
BENCHMARK(BM_Copy<false, false>)->Name("BM_ToHost")->Apply(Sizes)->UseRealTime();
BENCHMARK(BM_Copy<true, true>)->Name("BM_ToMapped")->Apply(Sizes)->UseRealTime();
BENCHMARK(BM_Copy<false, true>)->Name("BM_FromMapped")->Apply(Sizes)->UseRealTime();

}  // namespace
}  // namespace softgpu_test
