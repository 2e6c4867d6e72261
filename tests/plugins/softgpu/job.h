// A small training job: what it computes depends on all it has on the device, so a lost or changed byte shows.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/plugins/softgpu/gpu_process.h"

namespace softgpu_test {

inline constexpr unsigned kJobItems = 1 << 20;

// Weights in device memory, a module with a variable, a stream, events, a second device if there is one.
class Job {
 public:
  explicit Job(Driver& cuda);
  // One step; a hash of all the state.
  std::uint64_t Step();

 private:
  Driver& cuda_;
  CUcontext context_ = nullptr;
  CUmodule module_ = nullptr;
  CUfunction add_ = nullptr;
  CUfunction count_ = nullptr;
  CUstream stream_ = nullptr;
  CUevent event_ = nullptr;
  CUdeviceptr weights_ = 0;
  CUdeviceptr counter_ = 0;
  CUcontext other_context_ = nullptr;
  CUdeviceptr other_ = 0;
  std::vector<unsigned> host_;
};

// The body of a GpuProcess: a Step() per number received, its hash sent back, until it receives 0.
void RunJob(Driver& cuda, Link& link);

// What `steps` undisturbed steps give, on a daemon of their own.
std::vector<std::uint64_t> UndisturbedTrace(int steps, int device_count);

}  // namespace softgpu_test
