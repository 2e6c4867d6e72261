// Driver entry points: contexts.
#include <array>
#include <map>
#include <mutex>

#include "plugins/softgpu/client/entry_points.h"

using namespace cuda_abi;  // Signatures are the interface's own.
using softgpu::CallDaemon;
using softgpu::Client;
using softgpu::ContextStack;
using softgpu::CurrentContexts;
using softgpu::Id;
using softgpu::ToHandle;
using softgpu::ToId;
namespace request = softgpu::request;

namespace softgpu {

ContextStack& CurrentContexts() {
  thread_local ContextStack stack{};
  return stack;
}

namespace {

constexpr std::size_t kLimitCount = CU_LIMIT_PERSISTING_L2_CACHE_SIZE + 1;

// What programs have set, by context. Those of contexts that are gone stay, which no program has thousands of.
class LimitTable {
 public:
  std::size_t Get(Id context, CUlimit limit) {
    const std::lock_guard lock(mutex_);
    return Of(context)[limit];
  }
  void Set(Id context, CUlimit limit, std::size_t value) {
    const std::lock_guard lock(mutex_);
    Of(context)[limit] = value;
  }

 private:
  using Values = std::array<std::size_t, kLimitCount>;

  Values& Of(Id context) {
    constexpr Values kDefaults = {1024, std::size_t{1} << 20, std::size_t{8} << 20, 2, 2048, 64, 0};
    return values_.try_emplace(context, kDefaults).first->second;
  }

  std::mutex mutex_;
  std::map<Id, Values> values_;
};

LimitTable& Limits() {
  static auto* limits = new LimitTable();  // Never deleted: calls come until the process exits.
  return *limits;
}

CUresult CheckFlags(CUdevice device) { return device < 0 ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS; }

CUresult CreateContext(CUcontext* context, unsigned flags, CUdevice device) {
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult checked = CheckFlags(device); checked != CUDA_SUCCESS) return checked;
  ContextStack& stack = CurrentContexts();
  if (stack.depth == ContextStack::kMaxDepth) return CUDA_ERROR_OUT_OF_MEMORY;
  request::ContextCreate create;
  create.ordinal = static_cast<std::uint32_t>(device);
  create.flags = flags;
  request::ContextCreate::Reply reply;
  const CUresult result = CallDaemon(create, reply);
  if (result != CUDA_SUCCESS) return result;
  stack.contexts[stack.depth++] = reply.context;
  *context = ToHandle<CUcontext>(reply.context);
  return CUDA_SUCCESS;
}

CUresult Inspect(Id context, request::ContextInfo::Reply& info) {
  request::ContextInfo ask;
  ask.context = context;
  return CallDaemon(ask, info);
}

CUresult InspectCurrent() {
  request::ContextInfo::Reply info;
  return Inspect(CurrentContexts().current(), info);
}

}  // namespace
}  // namespace softgpu

extern "C" {

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::PrimaryRetain retain;
  retain.ordinal = static_cast<std::uint32_t>(device);
  request::PrimaryRetain::Reply reply;
  const CUresult result = CallDaemon(retain, reply);
  if (result == CUDA_SUCCESS) *context = ToHandle<CUcontext>(reply.context);
  return result;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  request::PrimaryRelease release;
  release.ordinal = static_cast<std::uint32_t>(device);
  return CallDaemon(release);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
  if (flags == nullptr || active == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::PrimaryState ask;
  ask.ordinal = static_cast<std::uint32_t>(device);
  request::PrimaryState::Reply reply;
  const CUresult result = CallDaemon(ask, reply);
  *flags = reply.flags;
  *active = reply.active != 0 ? 1 : 0;
  return result;
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
  request::PrimaryReset reset;
  reset.ordinal = static_cast<std::uint32_t>(device);
  return CallDaemon(reset);
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
  request::PrimarySetFlags set;
  set.ordinal = static_cast<std::uint32_t>(device);
  set.flags = flags;
  return CallDaemon(set);
}

CUresult cuCtxCreate_v2(CUcontext* context, unsigned flags, CUdevice device) {
  return softgpu::CreateContext(context, flags, device);
}

CUresult cuCtxCreate_v4(CUcontext* context, CUctxCreateParams* parameters, unsigned flags, CUdevice device) {
  if (parameters != nullptr && (parameters->numExecAffinityParams != 0 || parameters->cigParams != nullptr)) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  return softgpu::CreateContext(context, flags, device);
}

CUresult cuCtxCreate_v3(CUcontext* context, CUexecAffinityParam*, int count, unsigned flags, CUdevice device) {
  return count == 0 ? softgpu::CreateContext(context, flags, device) : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuCtxDestroy_v2(CUcontext context) {
  request::ContextDestroy destroy;
  destroy.context = ToId(context);
  request::ContextInfo::Reply info;
  const CUresult known = softgpu::Inspect(destroy.context, info);
  if (known != CUDA_SUCCESS) return known;
  if (info.is_primary != 0) return CUDA_ERROR_INVALID_CONTEXT;
  const CUresult result = CallDaemon(destroy);
  ContextStack& stack = CurrentContexts();
  if (result == CUDA_SUCCESS && stack.current() == destroy.context) --stack.depth;
  return result;
}

CUresult cuCtxSetCurrent(CUcontext context) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  ContextStack& stack = CurrentContexts();
  if (context == nullptr) {
    if (stack.depth > 0) --stack.depth;
    return CUDA_SUCCESS;
  }
  request::ContextInfo::Reply info;
  const CUresult known = softgpu::Inspect(ToId(context), info);
  if (known != CUDA_SUCCESS) return known;
  if (stack.depth == 0) stack.depth = 1;
  stack.contexts[stack.depth - 1] = ToId(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* context) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *context = ToHandle<CUcontext>(CurrentContexts().current());
  return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext context) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  ContextStack& stack = CurrentContexts();
  request::ContextInfo::Reply info;
  const CUresult known = softgpu::Inspect(ToId(context), info);
  if (known != CUDA_SUCCESS) return known;
  if (stack.depth == ContextStack::kMaxDepth) return CUDA_ERROR_OUT_OF_MEMORY;
  stack.contexts[stack.depth++] = ToId(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  if (Client::Get() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  ContextStack& stack = CurrentContexts();
  if (stack.depth == 0) return CUDA_ERROR_INVALID_CONTEXT;
  if (context != nullptr) *context = ToHandle<CUcontext>(stack.current());
  --stack.depth;
  return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() { return CallDaemon(request::ContextWait{}); }

CUresult cuCtxGetDevice(CUdevice* device) {
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::ContextInfo::Reply info;
  const CUresult result = softgpu::Inspect(CurrentContexts().current(), info);
  if (result == CUDA_SUCCESS) *device = static_cast<CUdevice>(info.ordinal);
  return result;
}

CUresult cuCtxGetFlags(unsigned* flags) {
  if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::ContextInfo::Reply info;
  const CUresult result = softgpu::Inspect(CurrentContexts().current(), info);
  if (result == CUDA_SUCCESS) *flags = info.flags;
  return result;
}

CUresult cuCtxGetApiVersion(CUcontext context, unsigned* version) {
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::ContextInfo::Reply info;
  const CUresult result = softgpu::Inspect(context != nullptr ? ToId(context) : CurrentContexts().current(), info);
  if (result == CUDA_SUCCESS) *version = 3020;
  return result;
}

CUresult cuCtxGetId(CUcontext context, unsigned long long* id) {
  if (id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Id asked = context != nullptr ? ToId(context) : CurrentContexts().current();
  request::ContextInfo::Reply info;
  const CUresult result = softgpu::Inspect(asked, info);
  if (result == CUDA_SUCCESS) *id = asked;
  return result;
}

// Nothing here runs out of a stack, a FIFO or a heap: limits are kept to be told again.
CUresult cuCtxGetLimit(std::size_t* value, CUlimit limit) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::ContextInfo::Reply info;
  const Id context = CurrentContexts().current();
  const CUresult result = softgpu::Inspect(context, info);
  if (result != CUDA_SUCCESS) return result;
  if (limit >= softgpu::kLimitCount) return CUDA_ERROR_UNSUPPORTED_LIMIT;
  *value = softgpu::Limits().Get(context, limit);
  return CUDA_SUCCESS;
}

CUresult cuCtxSetLimit(CUlimit limit, std::size_t value) {
  std::size_t ignored = 0;
  const CUresult result = cuCtxGetLimit(&ignored, limit);
  if (result == CUDA_SUCCESS) softgpu::Limits().Set(CurrentContexts().current(), limit, value);
  return result;
}

CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  request::ContextInfo::Reply info;
  const CUresult result = softgpu::Inspect(CurrentContexts().current(), info);
  if (result != CUDA_SUCCESS) return result;
  if (least != nullptr) *least = 0;
  if (greatest != nullptr) *greatest = softgpu::kGreatestPriority;
  return CUDA_SUCCESS;
}

// Hardware without a choice of caches gives the default whatever was asked for; so does this.
CUresult cuCtxSetCacheConfig(CUfunc_cache config) {
  if (config > CU_FUNC_CACHE_PREFER_EQUAL) return CUDA_ERROR_INVALID_VALUE;
  return softgpu::InspectCurrent();
}

CUresult cuCtxGetCacheConfig(CUfunc_cache* config) {
  if (config == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *config = CU_FUNC_CACHE_PREFER_NONE;
  return softgpu::InspectCurrent();
}

CUresult cuCtxSetSharedMemConfig(CUsharedconfig config) {
  if (config > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE) return CUDA_ERROR_INVALID_VALUE;
  return softgpu::InspectCurrent();
}

CUresult cuCtxGetSharedMemConfig(CUsharedconfig* config) {
  if (config == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *config = CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE;
  return softgpu::InspectCurrent();
}

CUresult cuCtxResetPersistingL2Cache() { return softgpu::InspectCurrent(); }

CUresult cuCtxSetFlags(unsigned flags) {
  if ((flags & ~static_cast<unsigned>(CU_CTX_FLAGS_MASK)) != 0) return CUDA_ERROR_INVALID_VALUE;
  request::ContextInfo::Reply info;
  const CUresult result = softgpu::Inspect(CurrentContexts().current(), info);
  // Flags change nothing here, so those of other contexts are what they were made with.
  if (result != CUDA_SUCCESS || info.is_primary == 0) return result;
  return cuDevicePrimaryCtxSetFlags_v2(static_cast<CUdevice>(info.ordinal), flags);
}

CUresult cuCtxSynchronize_v2(CUcontext context) {
  if (context == nullptr) return cuCtxSynchronize();
  Client* client = Client::Get();
  return client == nullptr ? CUDA_ERROR_NOT_INITIALIZED : client->Call(ToId(context), request::ContextWait{});
}

CUresult cuCtxGetDevice_v2(CUdevice* device, CUcontext context) {
  if (context == nullptr) return cuCtxGetDevice(device);
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::ContextInfo::Reply info;
  const CUresult result = softgpu::Inspect(ToId(context), info);
  if (result == CUDA_SUCCESS) *device = static_cast<CUdevice>(info.ordinal);
  return result;
}

// Deprecated since 4.0: a count of uses, which ends with the context here as its creation does.
CUresult cuCtxAttach(CUcontext* context, unsigned flags) {
  if (context == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = softgpu::InspectCurrent();
  if (result == CUDA_SUCCESS) *context = ToHandle<CUcontext>(CurrentContexts().current());
  return result;
}

CUresult cuCtxDetach(CUcontext context) {
  request::ContextInfo::Reply info;
  return softgpu::Inspect(ToId(context), info);
}

}  // extern "C"
