// gpu_job LIBRARY MEBIBYTES: a job on GPU 0, by the driver API alone. It answers each line of stdin with a line on
// stdout:
//   step   runs a kernel over all its memory        -> ok
//   hash   copies the memory to the host            -> its FNV-1a hash
//   uuid   asks which GPU it is on                  -> 32 hexadecimal digits
//   spin   starts a kernel that takes very long     -> ok, at once
// Exits with the number of the driver's error, should there be one.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "plugins/cuda_abi/cuda_functions.h"

namespace {

using namespace cuda_abi;  // NOLINT: a program of its calls only

constexpr const char* kPtx = R"(
.version 7.0
.target sm_80
.address_size 64

.visible .entry step(.param .u64 data, .param .u64 count)
{
  .reg .pred %p;
  .reg .b32 %r<6>;
  .reg .b64 %d<6>;
  ld.param.u64 %d1, [data];
  ld.param.u64 %d2, [count];
  cvta.to.global.u64 %d1, %d1;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, %ntid.x;
  mul.wide.u32 %d3, %r1, %r2;
  mov.u32 %r3, %tid.x;
  cvt.u64.u32 %d4, %r3;
  add.s64 %d3, %d3, %d4;
  setp.ge.u64 %p, %d3, %d2;
  @%p bra DONE;
  shl.b64 %d4, %d3, 2;
  add.s64 %d4, %d1, %d4;
  ld.global.u32 %r4, [%d4];
  mul.lo.s32 %r4, %r4, 1664525;
  add.s32 %r4, %r4, 1013904223;
  cvt.u32.u64 %r5, %d3;
  add.s32 %r4, %r4, %r5;
  st.global.u32 [%d4], %r4;
DONE:
  ret;
}

.visible .entry spin(.param .u64 data)
{
  .reg .pred %p;
  .reg .b32 %r;
  .reg .b64 %d<4>;
  ld.param.u64 %d1, [data];
  cvta.to.global.u64 %d1, %d1;
  mov.u64 %d2, 0;
LOOP:
  ld.volatile.global.u32 %r, [%d1];
  add.s64 %d2, %d2, 1;
  setp.lt.u64 %p, %d2, 1000000000000;
  @%p bra LOOP;
  st.global.u32 [%d1], %r;
  ret;
}
)";

void* library = nullptr;

template <typename Function>
Function* Find(const char* name) {
  void* address = dlsym(library, name);
  if (address == nullptr) {
    std::fprintf(stderr, "the driver has no %s\n", name);
    std::exit(2);
  }
  Function* function = nullptr;
  std::memcpy(&function, &address, sizeof(function));
  return function;
}
#define CALL(name, ...)                                                                \
  do {                                                                                 \
    static const auto function = Find<fn::name>(#name);                                \
    if (const CUresult result = function(__VA_ARGS__); result != CUDA_SUCCESS) {       \
      std::fprintf(stderr, "gpu_job: " #name ": %u\n", static_cast<unsigned>(result)); \
      std::_Exit(static_cast<int>(result) & 0x7f);                                     \
    }                                                                                  \
  } while (false)

std::string Hash(CUdeviceptr memory, std::size_t bytes) {
  std::vector<unsigned char> copy(bytes);
  CALL(cuMemcpyDtoH_v2, copy.data(), memory, bytes);
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const unsigned char byte : copy) hash = (hash ^ byte) * 0x100000001b3;
  return std::to_string(hash);
}

std::string Uuid(CUdevice device) {
  CUuuid uuid{};
  CALL(cuDeviceGetUuid_v2, &uuid, device);
  std::string text;
  for (const char byte : uuid.bytes) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", static_cast<unsigned>(static_cast<unsigned char>(byte)));
    text += digits;
  }
  return text;
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count != 3) return 2;
  library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::fprintf(stderr, "gpu_job: %s\n", dlerror());
    return 2;
  }
  const std::size_t bytes = std::stoul(arguments[2]) << 20;
  CUdevice device = 0;
  CUcontext context = nullptr;
  CUmodule module = nullptr;
  CUfunction step = nullptr;
  CUfunction spin = nullptr;
  CUdeviceptr memory = 0;
  CALL(cuInit, 0);
  CALL(cuDeviceGet, &device, 0);
  CALL(cuDevicePrimaryCtxRetain, &context, device);
  CALL(cuCtxSetCurrent, context);
  CALL(cuModuleLoadData, &module, kPtx);
  CALL(cuModuleGetFunction, &step, module, "step");
  CALL(cuModuleGetFunction, &spin, module, "spin");
  CALL(cuMemAlloc_v2, &memory, bytes);
  CALL(cuMemsetD32_v2, memory, 12345, bytes / 4);
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::uint64_t count = bytes / 4;
    void* step_arguments[] = {&memory, &count};
    void* spin_arguments[] = {&memory};
    if (line == "step") {
      CALL(cuLaunchKernel, step, static_cast<unsigned>((count + 255) / 256), 1, 1, 256, 1, 1, 0, nullptr,
           step_arguments, nullptr);
      CALL(cuCtxSynchronize);
      std::cout << "ok" << std::endl;
    } else if (line == "spin") {
      CALL(cuLaunchKernel, spin, 1, 1, 1, 1, 1, 1, 0, nullptr, spin_arguments, nullptr);
      std::cout << "ok" << std::endl;
    } else if (line == "hash") {
      std::cout << Hash(memory, bytes) << std::endl;
    } else if (line == "uuid") {
      std::cout << Uuid(device) << std::endl;
    }
  }
  return 0;
}
