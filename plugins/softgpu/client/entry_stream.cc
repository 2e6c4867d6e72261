// Driver entry points: streams, events and host functions.
#include <cstdlib>
#include <new>

#include "plugins/softgpu/client/entry_points.h"

using namespace cuda_abi;  // Signatures are the interface's own.
using softgpu::CallDaemon;
using softgpu::Client;
using softgpu::ToHandle;
using softgpu::ToId;
namespace request = softgpu::request;

namespace softgpu {
namespace {

constexpr unsigned kMostRecordFlags = 1;  // CU_EVENT_RECORD_EXTERNAL.

CUresult CreateStream(CUstream* stream, unsigned flags, int priority) {
  if (stream == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::StreamCreate create;
  create.flags = flags;
  create.priority = priority;
  request::StreamCreate::Reply reply;
  const CUresult result = CallDaemon(create, reply);
  if (result == CUDA_SUCCESS) *stream = ToHandle<CUstream>(reply.stream);
  return result;
}

CUresult Inspect(CUstream stream, request::StreamInfo::Reply& info) {
  request::StreamInfo ask;
  ask.stream = ToId(stream);
  return CallDaemon(ask, info);
}

CUresult AddHostFunction(CUstream stream, CUhostFn function, void* argument) {
  Client* client = Client::Get();
  if (client == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (const CUresult result = client->EnsureService(); result != CUDA_SUCCESS) return result;
  request::HostFunction call;
  call.stream = ToId(stream);
  call.function = reinterpret_cast<std::uint64_t>(function);
  call.argument = reinterpret_cast<std::uint64_t>(argument);
  return CallDaemon(call);
}

struct StreamCallback {
  CUstreamCallback function;
  CUstream stream;
  void* argument;
};

void RunCallback(void* argument) {
  auto* callback = static_cast<StreamCallback*>(argument);
  callback->function(callback->stream, CUDA_SUCCESS, callback->argument);
  delete callback;
}

}  // namespace
}  // namespace softgpu

extern "C" {

CUresult cuStreamCreate(CUstream* stream, unsigned flags) { return softgpu::CreateStream(stream, flags, 0); }

CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int priority) {
  return softgpu::CreateStream(stream, flags, priority);
}

CUresult cuStreamDestroy_v2(CUstream stream) {
  request::StreamDestroy destroy;
  destroy.stream = ToId(stream);
  return CallDaemon(destroy);
}

CUresult cuStreamSynchronize(CUstream stream) {
  request::StreamWait wait;
  wait.stream = ToId(stream);
  return CallDaemon(wait);
}

CUresult cuStreamQuery(CUstream stream) {
  request::StreamQuery query;
  query.stream = ToId(stream);
  return CallDaemon(query);
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  request::StreamWaitEvent wait;
  wait.stream = ToId(stream);
  wait.event = ToId(event);
  return CallDaemon(wait);
}

CUresult cuStreamGetFlags(CUstream stream, unsigned* flags) {
  if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::StreamInfo::Reply info;
  const CUresult result = softgpu::Inspect(stream, info);
  if (result == CUDA_SUCCESS) *flags = info.flags;
  return result;
}

CUresult cuStreamGetPriority(CUstream stream, int* priority) {
  if (priority == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::StreamInfo::Reply info;
  const CUresult result = softgpu::Inspect(stream, info);
  if (result == CUDA_SUCCESS) *priority = info.priority;
  return result;
}

CUresult cuStreamGetCtx(CUstream stream, CUcontext* context) {
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::StreamInfo::Reply info;
  const CUresult result = softgpu::Inspect(stream, info);
  if (result == CUDA_SUCCESS) *context = ToHandle<CUcontext>(info.context);
  return result;
}

CUresult cuStreamGetId(CUstream stream, unsigned long long* id) {
  if (id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::StreamInfo::Reply info;
  const CUresult result = softgpu::Inspect(stream, info);
  if (result == CUDA_SUCCESS) *id = ToId(stream);
  return result;
}

CUresult cuStreamGetDevice(CUstream stream, CUdevice* device) {
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::StreamInfo::Reply info;
  const CUresult result = softgpu::Inspect(stream, info);
  if (result != CUDA_SUCCESS) return result;
  return cuCtxGetDevice_v2(device, ToHandle<CUcontext>(info.context));
}

// There is no capture.
CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  if (status == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::StreamInfo::Reply info;
  const CUresult result = softgpu::Inspect(stream, info);
  if (result == CUDA_SUCCESS) *status = CU_STREAM_CAPTURE_STATUS_NONE;
  return result;
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  if (mode == nullptr || *mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  thread_local CUstreamCaptureMode current = CU_STREAM_CAPTURE_MODE_GLOBAL;
  const CUstreamCaptureMode before = current;
  current = *mode;
  *mode = before;
  return CUDA_SUCCESS;
}

// Streams have no attributes that could differ.
CUresult cuStreamCopyAttributes(CUstream to, CUstream from) {
  request::StreamInfo::Reply info;
  const CUresult result = softgpu::Inspect(to, info);
  return result == CUDA_SUCCESS ? softgpu::Inspect(from, info) : result;
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void* argument) {
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return softgpu::AddHostFunction(stream, function, argument);
}

CUresult cuStreamAddCallback(CUstream stream, CUstreamCallback function, void* argument, unsigned flags) {
  if (function == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  auto* callback = new (std::nothrow) softgpu::StreamCallback{function, stream, argument};
  if (callback == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = softgpu::AddHostFunction(stream, &softgpu::RunCallback, callback);
  if (result != CUDA_SUCCESS) delete callback;
  return result;
}

CUresult cuEventCreate(CUevent* event, unsigned flags) {
  if (event == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::EventCreate create;
  create.flags = flags;
  request::EventCreate::Reply reply;
  const CUresult result = CallDaemon(create, reply);
  if (result == CUDA_SUCCESS) *event = ToHandle<CUevent>(reply.event);
  return result;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
  request::EventRecord record;
  record.event = ToId(event);
  record.stream = ToId(stream);
  return CallDaemon(record);
}

CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned flags) {
  if (flags > softgpu::kMostRecordFlags) return CUDA_ERROR_INVALID_VALUE;
  return cuEventRecord(event, stream);
}

CUresult cuEventQuery(CUevent event) {
  request::EventQuery query;
  query.event = ToId(event);
  return CallDaemon(query);
}

CUresult cuEventSynchronize(CUevent event) {
  request::EventWait wait;
  wait.event = ToId(event);
  return CallDaemon(wait);
}

CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  if (milliseconds == nullptr) return CUDA_ERROR_INVALID_VALUE;
  request::EventElapsed ask;
  ask.start = ToId(start);
  ask.end = ToId(end);
  request::EventElapsed::Reply reply;
  const CUresult result = CallDaemon(ask, reply);
  if (result == CUDA_SUCCESS) *milliseconds = static_cast<float>(static_cast<double>(reply.nanoseconds) / 1e6);
  return result;
}

CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
  return cuEventElapsedTime(milliseconds, start, end);
}

CUresult cuEventDestroy_v2(CUevent event) {
  request::EventDestroy destroy;
  destroy.event = ToId(event);
  return CallDaemon(destroy);
}

}  // extern "C"
