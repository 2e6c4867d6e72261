// What test and fake driver library share: the answers it gives, and what it was given. By dlsym of
// "fake_cuda_control".
#pragma once

#include <string>
#include <vector>

#include "plugins/cuda_abi/cuda_abi.h"

namespace gpumig {

struct FakeCudaControl {
  // Answers.
  cuda_abi::CUresult init = cuda_abi::CUDA_SUCCESS;
  cuda_abi::CUresult checkpoint_call = cuda_abi::CUDA_SUCCESS;  // of all cuCheckpointProcess*
  cuda_abi::CUresult retain = cuda_abi::CUDA_SUCCESS;
  int device_count = 2;
  int version = 13000;
  unsigned state = 0;
  std::string missing;  // cuGetProcAddress does not find it

  // What it was given.
  int contexts = 0;  // retained and not released
  std::vector<cuda_abi::CUcheckpointGpuPair> pairs;
  bool had_pairs = false;
  bool reserved_is_zero = true;
  unsigned timeout_ms = 0;
};

using FakeCudaControlFunction = FakeCudaControl* (*)();

}  // namespace gpumig
