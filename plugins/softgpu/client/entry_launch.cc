// Driver entry points: launches and occupancy.
#include <algorithm>
#include <cstring>
#include <vector>

#include "plugins/softgpu/client/module.h"

using namespace cuda_abi;  // Signatures are the interface's own.
using softgpu::CallDaemon;
using softgpu::Client;
using softgpu::CurrentContexts;
using softgpu::FunctionDescription;
using softgpu::Id;
using softgpu::ToId;
namespace request = softgpu::request;

namespace softgpu {
namespace {

// What `extra` of a launch holds instead of kernelParams.
CUresult ReadExtra(void** extra, std::vector<std::byte>& packed) {
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
  for (std::size_t i = 0; reinterpret_cast<std::uintptr_t>(extra[i]) != kLaunchParamEnd; i += 2) {
    const auto key = reinterpret_cast<std::uintptr_t>(extra[i]);
    if (key == kLaunchParamBufferPointer) {
      data = static_cast<const std::byte*>(extra[i + 1]);
    } else if (key == kLaunchParamBufferSize) {
      bytes = *static_cast<const std::size_t*>(extra[i + 1]);
    } else {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  if (data == nullptr || bytes > kMaxMessageBytes / 2) return CUDA_ERROR_INVALID_VALUE;
  packed.assign(data, data + bytes);
  return CUDA_SUCCESS;
}

CUresult PackParameters(Id function, void** parameters, void** extra, std::vector<std::byte>& packed) {
  if (parameters != nullptr && extra != nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (extra != nullptr) return ReadExtra(extra, packed);
  std::vector<ParameterPlace> places;
  if (!Client::Get()->FindLayout(function, places)) return CUDA_ERROR_INVALID_HANDLE;
  if (places.empty()) return CUDA_SUCCESS;
  if (parameters == nullptr) return CUDA_ERROR_INVALID_VALUE;
  packed.resize(places.back().offset + places.back().bytes);
  for (std::size_t i = 0; i < places.size(); ++i) {
    if (parameters[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
    std::memcpy(packed.data() + places[i].offset, parameters[i], places[i].bytes);
  }
  return CUDA_SUCCESS;
}

// A kernel of a library is launched in the context of the stream.
CUresult FunctionFor(Id handle, Id stream, Id& function) {
  Id context = CurrentContexts().current();
  if (IsKernel(handle) && stream > kStreamPerThread) {
    request::StreamInfo ask;
    ask.stream = stream;
    request::StreamInfo::Reply info;
    if (const CUresult result = CallDaemon(ask, info); result != CUDA_SUCCESS) return result;
    context = info.context;
  }
  return ResolveKernel(handle, context, function);
}

CUresult Launch(CUfunction function, const CUlaunchConfig& config, void** parameters, void** extra) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  request::Launch launch;
  launch.stream = ToId(config.hStream);
  CUresult result = FunctionFor(ToId(function), launch.stream, launch.function);
  if (result != CUDA_SUCCESS) return result;
  launch.grid = {config.gridDimX, config.gridDimY, config.gridDimZ};
  launch.block = {config.blockDimX, config.blockDimY, config.blockDimZ};
  launch.dynamic_shared_bytes = config.sharedMemBytes;
  std::vector<std::byte> packed;
  result = PackParameters(launch.function, parameters, extra, packed);
  if (result != CUDA_SUCCESS) return result;
  Empty reply;
  return CallDaemon(launch, reply, packed);
}

constexpr std::size_t kSharedPerMultiprocessor = 227 * 1024;

int BlocksPerMultiprocessor(const FunctionDescription& info, std::size_t threads, std::size_t dynamic_bytes) {
  if (threads == 0 || threads > info.max_threads) return 0;
  std::size_t blocks = std::min<std::size_t>(32, 2048 / threads);
  const std::size_t shared = info.static_shared_bytes + dynamic_bytes;
  if (shared > 0) blocks = std::min(blocks, kSharedPerMultiprocessor / shared);
  return static_cast<int>(blocks);
}

}  // namespace
}  // namespace softgpu

extern "C" {

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters,
                        void** extra) {
  const CUlaunchConfig config{grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream, nullptr, 0};
  return softgpu::Launch(function, config, parameters, extra);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void** extra) {
  if (config == nullptr || (config->numAttrs > 0 && config->attrs == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config->attrs[i];
    const bool is_harmless = attribute.id == CU_LAUNCH_ATTRIBUTE_IGNORE || attribute.id == CU_LAUNCH_ATTRIBUTE_PRIORITY;
    const bool is_plain = attribute.id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE && attribute.value.cooperative == 0;
    if (!is_harmless && !is_plain) return CUDA_ERROR_NOT_SUPPORTED;
  }
  return softgpu::Launch(function, *config, parameters, extra);
}

// Blocks run one after the other, so a block can never wait for a later one.
CUresult cuLaunchCooperativeKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                   CUstream, void**) {
  return Client::Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int block_size,
                                                     std::size_t dynamic_bytes) {
  if (blocks == nullptr || block_size <= 0) return CUDA_ERROR_INVALID_VALUE;
  FunctionDescription info;
  const CUresult result = softgpu::InspectFunction(ToId(function), info);
  if (result == CUDA_SUCCESS) {
    *blocks = softgpu::BlocksPerMultiprocessor(info, static_cast<std::size_t>(block_size), dynamic_bytes);
  }
  return result;
}

CUresult cuOccupancyMaxPotentialBlockSize(int* min_grid, int* block, CUfunction function, CUoccupancyB2DSize to_bytes,
                                          std::size_t dynamic_bytes, int limit) {
  if (min_grid == nullptr || block == nullptr) return CUDA_ERROR_INVALID_VALUE;
  FunctionDescription info;
  const CUresult result = softgpu::InspectFunction(ToId(function), info);
  if (result != CUDA_SUCCESS) return result;
  int best = 0;
  int best_blocks = 0;
  const int most = limit > 0 ? std::min<int>(limit, 1024) : 1024;
  for (int size = 32; size <= most; size += 32) {
    const std::size_t bytes = to_bytes != nullptr ? to_bytes(size) : dynamic_bytes;
    const int blocks = softgpu::BlocksPerMultiprocessor(info, static_cast<std::size_t>(size), bytes);
    if (blocks * size < best * best_blocks || blocks == 0) continue;
    best = size;
    best_blocks = blocks;
  }
  if (best == 0) return CUDA_ERROR_INVALID_VALUE;
  *block = best;
  *min_grid = best_blocks * 4;  // As many multiprocessors as CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT says.
  return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction function, int block_size,
                                                              std::size_t dynamic_bytes, unsigned flags) {
  if (flags > CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE) return CUDA_ERROR_INVALID_VALUE;
  return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, block_size, dynamic_bytes);
}

CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int* min_grid, int* block, CUfunction function,
                                                   CUoccupancyB2DSize to_bytes, std::size_t dynamic_bytes, int limit,
                                                   unsigned flags) {
  if (flags > CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE) return CUDA_ERROR_INVALID_VALUE;
  return cuOccupancyMaxPotentialBlockSize(min_grid, block, function, to_bytes, dynamic_bytes, limit);
}

CUresult cuOccupancyAvailableDynamicSMemPerBlock(std::size_t* bytes, CUfunction function, int blocks, int block_size) {
  if (bytes == nullptr || blocks <= 0 || block_size <= 0) return CUDA_ERROR_INVALID_VALUE;
  FunctionDescription info;
  const CUresult result = softgpu::InspectFunction(ToId(function), info);
  if (result != CUDA_SUCCESS) return result;
  if (softgpu::BlocksPerMultiprocessor(info, static_cast<std::size_t>(block_size), 0) < blocks) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const std::size_t share = softgpu::kSharedPerMultiprocessor / static_cast<std::size_t>(blocks);
  *bytes = share - std::min<std::size_t>(share, info.static_shared_bytes);
  return CUDA_SUCCESS;
}

// A profiler is never there.
CUresult cuProfilerStart() { return Client::Get() == nullptr ? CUDA_ERROR_NOT_INITIALIZED : CUDA_SUCCESS; }
CUresult cuProfilerStop() { return cuProfilerStart(); }

}  // extern "C"
