// Claims: contexts.
#include "tests/conformance/driver/probe.h"

namespace conformance {
namespace {

void NoContextNoMemory(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_CU(cuda.cuInit(0));
  CUdeviceptr memory = 0;
  CUdevice device = -1;
  CUstream stream = nullptr;
  EXPECT_CU(cuda.cuMemAlloc_v2(&memory, 64), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_CU(cuda.cuCtxGetDevice(&device), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_CU(cuda.cuCtxSynchronize(), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_CU(cuda.cuStreamCreate(&stream, CU_STREAM_DEFAULT), CUDA_ERROR_INVALID_CONTEXT);
  CUcontext current = reinterpret_cast<CUcontext>(1);
  EXPECT_CU(cuda.cuCtxGetCurrent(&current), CUDA_SUCCESS);
  EXPECT_HOLDS(current == nullptr);
}

void PushAndPop(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_CU(cuda.cuInit(0));
  CUcontext first = nullptr;
  CUcontext second = nullptr;
  NEED_CU(cuda.cuCtxCreate_v2(&first, 0, 0));
  NEED_CU(cuda.cuCtxCreate_v2(&second, 0, 0));
  CUcontext current = nullptr;
  EXPECT_CU(cuda.cuCtxGetCurrent(&current), CUDA_SUCCESS);
  EXPECT_HOLDS(current == second);
  EXPECT_CU(cuda.cuCtxPopCurrent_v2(&current), CUDA_SUCCESS);
  EXPECT_HOLDS(current == second);
  EXPECT_CU(cuda.cuCtxPushCurrent_v2(first), CUDA_SUCCESS);  // Twice on the stack is fine.
  EXPECT_CU(cuda.cuCtxPopCurrent_v2(&current), CUDA_SUCCESS);
  EXPECT_HOLDS(current == first);
  EXPECT_CU(cuda.cuCtxPopCurrent_v2(&current), CUDA_SUCCESS);
  EXPECT_HOLDS(current == first);
  EXPECT_CU(cuda.cuCtxPopCurrent_v2(&current), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_CU(cuda.cuCtxDestroy_v2(second), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuCtxDestroy_v2(first), CUDA_SUCCESS);
}

void DestroyingTheCurrentPopsIt(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_CU(cuda.cuInit(0));
  CUcontext first = nullptr;
  CUcontext second = nullptr;
  NEED_CU(cuda.cuCtxCreate_v2(&first, 0, 0));
  NEED_CU(cuda.cuCtxCreate_v2(&second, 0, 0));
  EXPECT_CU(cuda.cuCtxDestroy_v2(second), CUDA_SUCCESS);
  CUcontext current = nullptr;
  EXPECT_CU(cuda.cuCtxGetCurrent(&current), CUDA_SUCCESS);
  EXPECT_HOLDS(current == first);
}

void PrimaryContextsAreCounted(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_CU(cuda.cuInit(0));
  CUcontext one = nullptr;
  CUcontext two = nullptr;
  unsigned flags = 0;
  int active = -1;
  EXPECT_CU(cuda.cuDevicePrimaryCtxGetState(0, &flags, &active), CUDA_SUCCESS);
  EXPECT_HOLDS(active == 0);
  NEED_CU(cuda.cuDevicePrimaryCtxRetain(&one, 0));
  NEED_CU(cuda.cuDevicePrimaryCtxRetain(&two, 0));
  EXPECT_HOLDS(one == two);
  EXPECT_CU(cuda.cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuDevicePrimaryCtxGetState(0, &flags, &active), CUDA_SUCCESS);
  EXPECT_HOLDS(active == 1);
  EXPECT_CU(cuda.cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuDevicePrimaryCtxGetState(0, &flags, &active), CUDA_SUCCESS);
  EXPECT_HOLDS(active == 0);
  EXPECT_CU(cuda.cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_CU(cuda.cuDevicePrimaryCtxRetain(&one, 4711), CUDA_ERROR_INVALID_DEVICE);
}

void PrimaryContextsAreNotDestroyed(Probe& probe) {
  const CUcontext context = probe.Begin();
  EXPECT_CU(probe.cuda.cuCtxDestroy_v2(context), CUDA_ERROR_INVALID_CONTEXT);
  EXPECT_CU(probe.cuda.cuCtxSynchronize(), CUDA_SUCCESS);
}

void ContextsSayWhatTheyAre(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_CU(cuda.cuInit(0));
  CUcontext context = nullptr;
  NEED_CU(cuda.cuCtxCreate_v2(&context, CU_CTX_MAP_HOST, 0));
  CUdevice device = -1;
  EXPECT_CU(cuda.cuCtxGetDevice(&device), CUDA_SUCCESS);
  EXPECT_HOLDS(device == 0);
  unsigned version = 0;
  EXPECT_CU(cuda.cuCtxGetApiVersion(context, &version), CUDA_SUCCESS);
  EXPECT_HOLDS(version >= 3010);
  unsigned long long id = 0;
  unsigned long long again = 1;
  EXPECT_CU(cuda.cuCtxGetId(context, &id), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuCtxGetId(nullptr, &again), CUDA_SUCCESS);
  EXPECT_HOLDS(id == again);
  CUcontext bad = nullptr;
  EXPECT_CU(cuda.cuCtxCreate_v2(&bad, 0x8000, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuCtxCreate_v2(&bad, 0, 4711), CUDA_ERROR_INVALID_DEVICE);
}

void LimitsAreKept(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  std::size_t value = 0;
  EXPECT_CU(cuda.cuCtxGetLimit(&value, CU_LIMIT_STACK_SIZE), CUDA_SUCCESS);
  EXPECT_HOLDS(value >= 1024);
  EXPECT_CU(cuda.cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, std::size_t{16} << 20), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuCtxGetLimit(&value, CU_LIMIT_MALLOC_HEAP_SIZE), CUDA_SUCCESS);
  EXPECT_HOLDS(value >= std::size_t{16} << 20);
  EXPECT_CU(cuda.cuCtxGetLimit(&value, static_cast<CUlimit>(1000)), CUDA_ERROR_UNSUPPORTED_LIMIT);
  EXPECT_CU(cuda.cuCtxGetLimit(nullptr, CU_LIMIT_STACK_SIZE), CUDA_ERROR_INVALID_VALUE);
}

void PriorityRangeIsNegativeUpwards(Probe& probe) {
  probe.Begin();
  int least = 1;
  int greatest = 1;
  EXPECT_CU(probe.cuda.cuCtxGetStreamPriorityRange(&least, &greatest), CUDA_SUCCESS);
  EXPECT_HOLDS(least == 0 && greatest < 0);
  EXPECT_CU(probe.cuda.cuCtxGetStreamPriorityRange(nullptr, nullptr), CUDA_SUCCESS);
}

void CacheConfigIsTaken(Probe& probe) {
  probe.Begin();
  EXPECT_CU(probe.cuda.cuCtxSetCacheConfig(CU_FUNC_CACHE_PREFER_L1), CUDA_SUCCESS);
  CUfunc_cache config = CU_FUNC_CACHE_PREFER_EQUAL;
  EXPECT_CU(probe.cuda.cuCtxGetCacheConfig(&config), CUDA_SUCCESS);
  EXPECT_CU(probe.cuda.cuCtxGetCacheConfig(nullptr), CUDA_ERROR_INVALID_VALUE);
}

void ADestroyedContextTakesItsMemoryAlong(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_CU(cuda.cuInit(0));
  CUcontext keeper = nullptr;
  CUcontext doomed = nullptr;
  NEED_CU(cuda.cuCtxCreate_v2(&keeper, 0, 0));
  NEED_CU(cuda.cuCtxCreate_v2(&doomed, 0, 0));
  const CUdeviceptr memory = probe.Memory(1 << 20);
  NEED_CU(cuda.cuCtxDestroy_v2(doomed));
  unsigned char byte = 0;
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&byte, memory, 1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuMemFree_v2(memory), CUDA_ERROR_INVALID_VALUE);
}

constexpr Claim kClaims[] = {
    {"NoContextNoMemory", "without a current context calls are INVALID_CONTEXT", &NoContextNoMemory},
    {"PushAndPop", "a thread's contexts are a stack; popping an empty one is INVALID_CONTEXT", &PushAndPop},
    {"DestroyingTheCurrentPopsIt", "destroying the current context makes the one below current",
     &DestroyingTheCurrentPopsIt},
    {"PrimaryContextsAreCounted", "a primary context is one, retained and released by count",
     &PrimaryContextsAreCounted},
    {"PrimaryContextsAreNotDestroyed", "cuCtxDestroy refuses a primary context", &PrimaryContextsAreNotDestroyed},
    {"ContextsSayWhatTheyAre", "device, version and id of a context; bad flags and devices refused",
     &ContextsSayWhatTheyAre},
    {"LimitsAreKept", "a limit that was set is told again; unknown ones are UNSUPPORTED_LIMIT", &LimitsAreKept},
    {"PriorityRangeIsNegativeUpwards", "priorities go from 0 down to the greatest", &PriorityRangeIsNegativeUpwards},
    {"CacheConfigIsTaken", "cache preferences are taken", &CacheConfigIsTaken},
    {"ADestroyedContextTakesItsMemoryAlong", "memory of a destroyed context is gone",
     &ADestroyedContextTakesItsMemoryAlong},
};

}  // namespace

std::span<const Claim> ContextClaims() { return kClaims; }

}  // namespace conformance
