// What a checkpoint and a restore of device memory cost on the software GPU, beside the least that they can: the same
// bytes copied out and back in. Aim: within 2.5 times of that.
//
// `ratio` is against copies between pages that are there already; `ratio_to_fresh` against copies into memory that must
// be got first, on both ways, as a checkpoint and a restore must.
//
// GPUMIG_BENCH_DEVICE_MIB sets how much (4096 unless told); the host needs three times as much memory.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/plugins/softgpu/gpu_process.h"
#include "tests/plugins/softgpu/soft_node.h"

namespace softgpu_test {
namespace {

std::size_t DeviceBytes() {
  const char* mib = std::getenv("GPUMIG_BENCH_DEVICE_MIB");
  return (mib != nullptr ? std::strtoull(mib, nullptr, 10) : 4096) << 20;
}

// Holds the memory, every page of it written, until the partner goes.
void HoldMemory(Driver& cuda, Link& link) {
  const std::size_t bytes = DeviceBytes();
  CUcontext context = nullptr;
  CUdeviceptr memory = 0;
  CHECK_OK(cuda.cuInit(0));
  CHECK_OK(cuda.cuDevicePrimaryCtxRetain(&context, 0));
  CHECK_OK(cuda.cuCtxSetCurrent(context));
  CHECK_OK(cuda.cuMemAlloc_v2(&memory, bytes));
  CHECK_OK(cuda.cuMemsetD32_v2(memory, 0x5eed, bytes / 4));
  link.Send(1);
  link.Receive();
}

double Seconds(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Out of device memory into host memory and back: shared memory on one side, private on the other, as there.
double CopyTwice(bool into_fresh_memory) {
  const std::size_t bytes = DeviceBytes();
  const int fd = memfd_create("bench", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0) std::abort();
  void* device = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  void* host = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (device == MAP_FAILED || host == MAP_FAILED) std::abort();
  madvise(host, bytes, MADV_HUGEPAGE);
  std::memset(device, 0x5e, bytes);
  if (!into_fresh_memory) std::memset(host, 0x5e, bytes);
  const auto begin = std::chrono::steady_clock::now();
  std::memcpy(host, device, bytes);
  benchmark::ClobberMemory();
  if (into_fresh_memory && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes)) != 0)
    std::abort();
  std::memcpy(device, host, bytes);
  benchmark::ClobberMemory();
  const double seconds = Seconds(begin);
  munmap(host, bytes);
  munmap(device, bytes);
  close(fd);
  return seconds;
}

void BM_CheckpointAndRestore(benchmark::State& state) {
  const std::size_t bytes = DeviceBytes();
  SoftNode node({"memory=" + std::to_string((bytes >> 20) + 64) + "MiB"});
  GpuProcess job(node.socket(), &HoldMemory);
  job.link().Receive();
  Driver cuda = OpenSoftDriver();
  if (cuda.cuCheckpointProcessLock(job.pid(), nullptr) != CUDA_SUCCESS) state.SkipWithError("lock");
  double down = 0;
  double up = 0;
  double copies = 0;
  double fresh_copies = 0;
  for (auto _ : state) {
    auto begin = std::chrono::steady_clock::now();
    if (cuda.cuCheckpointProcessCheckpoint(job.pid(), nullptr) != CUDA_SUCCESS) state.SkipWithError("checkpoint");
    down += Seconds(begin);
    begin = std::chrono::steady_clock::now();
    if (cuda.cuCheckpointProcessRestore(job.pid(), nullptr) != CUDA_SUCCESS) state.SkipWithError("restore");
    up += Seconds(begin);
    state.PauseTiming();
    // In turn, so that all see the same machine.
    copies += CopyTwice(/*into_fresh_memory=*/false);
    fresh_copies += CopyTwice(/*into_fresh_memory=*/true);
    state.ResumeTiming();
  }
  const auto rounds = static_cast<double>(state.iterations());
  state.counters["checkpoint_s"] = down / rounds;
  state.counters["restore_s"] = up / rounds;
  state.counters["copy_twice_s"] = copies / rounds;
  state.counters["fresh_copy_twice_s"] = fresh_copies / rounds;
  state.counters["ratio"] = (down + up) / copies;
  state.counters["ratio_to_fresh"] = (down + up) / fresh_copies;
}
BENCHMARK(BM_CheckpointAndRestore)->Iterations(1)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace softgpu_test
