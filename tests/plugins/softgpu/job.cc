#include "tests/plugins/softgpu/job.h"

#include "tests/plugins/softgpu/kernels.h"
#include "tests/plugins/softgpu/soft_node.h"

namespace softgpu_test {

Job::Job(Driver& cuda) : cuda_(cuda), host_(kJobItems) {
  CHECK_OK(cuda_.cuInit(0));
  CHECK_OK(cuda_.cuDevicePrimaryCtxRetain(&context_, 0));
  CHECK_OK(cuda_.cuCtxSetCurrent(context_));
  CHECK_OK(cuda_.cuModuleLoadData(&module_, kKernels));
  CHECK_OK(cuda_.cuModuleGetFunction(&add_, module_, "add"));
  CHECK_OK(cuda_.cuModuleGetFunction(&count_, module_, "count"));
  CHECK_OK(cuda_.cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING));
  CHECK_OK(cuda_.cuEventCreate(&event_, CU_EVENT_DEFAULT));
  CUdeviceptr hole = 0;
  CHECK_OK(cuda_.cuMemAlloc_v2(&hole, 100000));
  CHECK_OK(cuda_.cuMemAlloc_v2(&counter_, 8));
  CHECK_OK(cuda_.cuMemAlloc_v2(&weights_, kJobItems * 4));
  CHECK_OK(cuda_.cuMemFree_v2(hole));
  for (unsigned i = 0; i < kJobItems; ++i) host_[i] = i * 2654435761U;
  CHECK_OK(cuda_.cuMemcpyHtoD_v2(weights_, host_.data(), kJobItems * 4));
  CHECK_OK(cuda_.cuEventRecord(event_, stream_));
  int count = 0;
  CHECK_OK(cuda_.cuDeviceGetCount(&count));
  if (count > 1) {
    CHECK_OK(cuda_.cuCtxCreate_v2(&other_context_, 0, 1));
    CHECK_OK(cuda_.cuMemAlloc_v2(&other_, 4096));
    CHECK_OK(cuda_.cuMemsetD32_v2(other_, 77, 1024));
    CHECK_OK(cuda_.cuCtxSetCurrent(context_));
  }
}

std::uint64_t Job::Step() {
  unsigned items = kJobItems;
  unsigned amount = 3;
  void* add_parameters[] = {&weights_, &items, &amount};
  void* count_parameters[] = {&counter_};
  CHECK_OK(cuda_.cuLaunchKernel(add_, kJobItems / 256, 1, 1, 256, 1, 1, 0, stream_, add_parameters, nullptr));
  CHECK_OK(cuda_.cuLaunchKernel(count_, 1, 1, 1, 1, 1, 1, 0, stream_, count_parameters, nullptr));
  CUevent before = event_;
  CHECK_OK(cuda_.cuEventCreate(&event_, CU_EVENT_DEFAULT));
  CHECK_OK(cuda_.cuEventRecord(event_, stream_));
  CHECK_OK(cuda_.cuStreamSynchronize(stream_));
  float elapsed = -1;
  CHECK_OK(cuda_.cuEventElapsedTime(&elapsed, before, event_));
  CHECK_THAT(elapsed >= 0);
  CHECK_OK(cuda_.cuEventDestroy_v2(before));
  CHECK_OK(cuda_.cuMemcpyDtoH_v2(host_.data(), weights_, kJobItems * 4));
  std::uint64_t hash = 14695981039346656037U;
  const auto mix = [&](std::uint64_t value) { hash = (hash ^ value) * 1099511628211U; };
  for (const unsigned value : host_) mix(value);
  std::uint64_t counter = 0;
  CHECK_OK(cuda_.cuMemcpyDtoH_v2(&counter, counter_, 8));
  mix(counter);
  if (other_ != 0) {
    unsigned value = 0;
    CHECK_OK(cuda_.cuCtxPushCurrent_v2(other_context_));
    CHECK_OK(cuda_.cuMemcpyDtoH_v2(&value, other_ + 4, 4));
    value += 1;
    CHECK_OK(cuda_.cuMemcpyHtoD_v2(other_ + 4, &value, 4));
    CHECK_OK(cuda_.cuCtxPopCurrent_v2(nullptr));
    mix(value);
  }
  return hash;
}

void RunJob(Driver& cuda, Link& link) {
  Job job(cuda);
  while (link.Receive() != 0) link.Send(job.Step());
}

std::vector<std::uint64_t> UndisturbedTrace(int steps, int device_count) {
  const SoftNode node(std::vector<std::string>(static_cast<std::size_t>(device_count), "memory=64MiB"));
  GpuProcess process(node.socket(), &RunJob);
  std::vector<std::uint64_t> trace;
  for (int i = 0; i < steps; ++i) {
    process.link().Send(1);
    trace.push_back(process.link().Receive());
  }
  return trace;
}

}  // namespace softgpu_test
