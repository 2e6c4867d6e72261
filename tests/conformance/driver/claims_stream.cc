// Claims: streams, events, host functions.
#include <atomic>
#include <vector>

#include "tests/conformance/driver/probe.h"

namespace conformance {
namespace {

// A kernel that spins until Release(): so a stream is busy for as long as a claim needs it to be.
class Spinner {
 public:
  explicit Spinner(Probe& probe) : probe_(probe) {
    flag_ = probe.Memory(4);
    NEED_CU(probe.cuda.cuMemsetD32_v2(flag_, 0, 1));
    NEED_CU(probe.cuda.cuStreamCreate(&side_, CU_STREAM_NON_BLOCKING));
    function_ = probe.Kernel("spin");
    NEED_CU(probe.cuda.cuCtxSynchronize());
  }
  void Start(CUstream stream) {
    Probe& probe = probe_;
    NEED_CU(probe.Launch(function_, 1, {&flag_}, stream));
  }
  void Release() {
    Probe& probe = probe_;
    NEED_CU(probe.cuda.cuMemsetD32Async(flag_, 1, 1, side_));
  }

 private:
  Probe& probe_;
  CUdeviceptr flag_ = 0;
  CUstream side_ = nullptr;
  CUfunction function_ = nullptr;
};

void StreamsSayWhatTheyAre(Probe& probe) {
  auto& cuda = probe.cuda;
  const CUcontext context = probe.Begin();
  CUstream stream = nullptr;
  NEED_CU(cuda.cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, -1));
  unsigned flags = 0;
  int priority = 0;
  CUcontext owner = nullptr;
  EXPECT_CU(cuda.cuStreamGetFlags(stream, &flags), CUDA_SUCCESS);
  EXPECT_HOLDS(flags == CU_STREAM_NON_BLOCKING);
  EXPECT_CU(cuda.cuStreamGetPriority(stream, &priority), CUDA_SUCCESS);
  EXPECT_HOLDS(priority == -1);
  EXPECT_CU(cuda.cuStreamGetCtx(stream, &owner), CUDA_SUCCESS);
  EXPECT_HOLDS(owner == context);
  EXPECT_CU(cuda.cuStreamCreate(&stream, 0x40), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuStreamCreate(nullptr, 0), CUDA_ERROR_INVALID_VALUE);
  // Beyond the range, the nearest.
  NEED_CU(cuda.cuStreamCreateWithPriority(&stream, 0, -1000));
  int least = 0;
  int greatest = 0;
  NEED_CU(cuda.cuCtxGetStreamPriorityRange(&least, &greatest));
  EXPECT_CU(cuda.cuStreamGetPriority(stream, &priority), CUDA_SUCCESS);
  EXPECT_HOLDS(priority == greatest);
}

void QueriesDoNotWait(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Spinner spinner(probe);
  CUstream stream = nullptr;
  CUevent event = nullptr;
  NEED_CU(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  NEED_CU(cuda.cuEventCreate(&event, CU_EVENT_DEFAULT));
  EXPECT_CU(cuda.cuStreamQuery(stream), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuEventQuery(event), CUDA_SUCCESS);  // Never recorded: nothing to wait for.
  EXPECT_CU(cuda.cuEventSynchronize(event), CUDA_SUCCESS);
  spinner.Start(stream);
  EXPECT_CU(cuda.cuEventRecord(event, stream), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
  EXPECT_CU(cuda.cuEventQuery(event), CUDA_ERROR_NOT_READY);
  spinner.Release();
  EXPECT_CU(cuda.cuEventSynchronize(event), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuEventQuery(event), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuStreamSynchronize(stream), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuStreamQuery(stream), CUDA_SUCCESS);
}

void AStreamIsInOrder(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  CUstream stream = nullptr;
  NEED_CU(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CUdeviceptr memory = probe.Memory(4000);
  CUfunction add = probe.Kernel("add");
  unsigned items = 1000;
  unsigned amount = 1;
  EXPECT_CU(cuda.cuMemsetD32Async(memory, 0, items, stream), CUDA_SUCCESS);
  for (int i = 0; i < 50; ++i) NEED_CU(probe.Launch(add, items, {&memory, &items, &amount}, stream));
  unsigned back[1000];
  EXPECT_CU(cuda.cuMemcpyDtoHAsync_v2(back, memory, sizeof(back), stream), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuStreamSynchronize(stream), CUDA_SUCCESS);
  EXPECT_HOLDS(back[0] == 50 && back[999] == 50);
}

void AStreamWaitsForAnEvent(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Spinner spinner(probe);
  CUstream first = nullptr;
  CUstream second = nullptr;
  CUevent event = nullptr;
  NEED_CU(cuda.cuStreamCreate(&first, CU_STREAM_NON_BLOCKING));
  NEED_CU(cuda.cuStreamCreate(&second, CU_STREAM_NON_BLOCKING));
  NEED_CU(cuda.cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
  CUdeviceptr memory = probe.Memory(4);
  spinner.Start(first);
  EXPECT_CU(cuda.cuMemsetD32Async(memory, 7, 1, first), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuEventRecord(event, first), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuStreamWaitEvent(second, event, 0), CUDA_SUCCESS);
  CUdeviceptr copy = probe.Memory(4);
  EXPECT_CU(cuda.cuMemcpyDtoDAsync_v2(copy, memory, 4, second), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuStreamQuery(second), CUDA_ERROR_NOT_READY);
  spinner.Release();
  EXPECT_CU(cuda.cuStreamSynchronize(second), CUDA_SUCCESS);
  unsigned value = 0;
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, copy, 4), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 7);
}

void TheDefaultStreamWaitsForBlockingStreams(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Spinner spinner(probe);
  CUstream blocking = nullptr;
  CUstream free_stream = nullptr;
  NEED_CU(cuda.cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
  NEED_CU(cuda.cuStreamCreate(&free_stream, CU_STREAM_NON_BLOCKING));
  CUdeviceptr memory = probe.Memory(4);
  spinner.Start(blocking);
  EXPECT_CU(cuda.cuMemsetD32Async(memory, 1, 1, nullptr), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuStreamQuery(nullptr), CUDA_ERROR_NOT_READY);
  EXPECT_CU(cuda.cuStreamQuery(free_stream), CUDA_SUCCESS);
  spinner.Release();
  EXPECT_CU(cuda.cuStreamSynchronize(nullptr), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuStreamQuery(blocking), CUDA_SUCCESS);
}

void EventTimesGoForward(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  CUevent events[3];
  for (CUevent& event : events) NEED_CU(cuda.cuEventCreate(&event, CU_EVENT_DEFAULT));
  CUdeviceptr memory = probe.Memory(4 << 20);
  unsigned items = 1 << 20;
  CUfunction fill = probe.Kernel("fill");
  NEED_CU(cuda.cuEventRecord(events[0], nullptr));
  NEED_CU(probe.Launch(fill, items, {&memory, &items}));
  NEED_CU(cuda.cuEventRecord(events[1], nullptr));
  NEED_CU(cuda.cuEventRecord(events[2], nullptr));
  NEED_CU(cuda.cuEventSynchronize(events[2]));
  float first = -1;
  float second = -1;
  float both = -1;
  EXPECT_CU(cuda.cuEventElapsedTime(&first, events[0], events[1]), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuEventElapsedTime(&second, events[1], events[2]), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuEventElapsedTime(&both, events[0], events[2]), CUDA_SUCCESS);
  EXPECT_HOLDS(first > 0 && second >= 0 && both >= first);
  EXPECT_HOLDS(both - first - second < 0.01F && both - first - second > -0.01F);
}

void EventRulesAreKept(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  CUevent timed = nullptr;
  CUevent untimed = nullptr;
  NEED_CU(cuda.cuEventCreate(&timed, CU_EVENT_DEFAULT));
  NEED_CU(cuda.cuEventCreate(&untimed, CU_EVENT_DISABLE_TIMING));
  float milliseconds = 0;
  EXPECT_CU(cuda.cuEventElapsedTime(&milliseconds, timed, timed), CUDA_ERROR_INVALID_HANDLE);  // Not recorded.
  NEED_CU(cuda.cuEventRecord(timed, nullptr));
  NEED_CU(cuda.cuEventRecord(untimed, nullptr));
  NEED_CU(cuda.cuCtxSynchronize());
  EXPECT_CU(cuda.cuEventElapsedTime(&milliseconds, timed, untimed), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_CU(cuda.cuEventCreate(&timed, 0x1000), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuEventCreate(nullptr, 0), CUDA_ERROR_INVALID_VALUE);
}

void AnEventOfAnotherContextIsNotRecorded(Probe& probe) {
  auto& cuda = probe.cuda;
  NEED_CU(cuda.cuInit(0));
  CUcontext first = nullptr;
  CUcontext second = nullptr;
  CUevent event = nullptr;
  CUstream stream = nullptr;
  NEED_CU(cuda.cuCtxCreate_v2(&first, 0, 0));
  NEED_CU(cuda.cuEventCreate(&event, 0));
  NEED_CU(cuda.cuCtxCreate_v2(&second, 0, 0));
  NEED_CU(cuda.cuStreamCreate(&stream, 0));
  EXPECT_CU(cuda.cuEventRecord(event, stream), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_CU(cuda.cuStreamWaitEvent(stream, event, 0), CUDA_SUCCESS);
}

void NullHandlesAreErrors(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  CUstream stream = nullptr;
  CUevent event = nullptr;
  NEED_CU(cuda.cuStreamCreate(&stream, 0));
  NEED_CU(cuda.cuEventCreate(&event, 0));
  EXPECT_CU(cuda.cuStreamDestroy_v2(nullptr), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_CU(cuda.cuEventDestroy_v2(nullptr), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_CU(cuda.cuEventQuery(nullptr), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_CU(cuda.cuEventRecord(nullptr, stream), CUDA_ERROR_INVALID_HANDLE);
}

struct Calls {
  std::atomic<int> order{0};
  int seen[3] = {-1, -1, -1};
};

void HostFunctionsAreInOrder(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  CUstream stream = nullptr;
  NEED_CU(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  static Calls calls;
  CUdeviceptr memory = probe.Memory(4);
  EXPECT_CU(cuda.cuLaunchHostFunc(stream, [](void*) { calls.seen[0] = calls.order++; }, nullptr), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuMemsetD32Async(memory, 1, 1, stream), CUDA_SUCCESS);
  EXPECT_CU(cuda.cuLaunchHostFunc(
                stream, [](void* user) { *static_cast<int*>(user) = calls.order++; }, &calls.seen[1]),
            CUDA_SUCCESS);
  EXPECT_CU(cuda.cuStreamAddCallback(
                stream, [](CUstream, CUresult status, void*) { calls.seen[2] = status == 0 ? calls.order++ : 99; },
                nullptr, 0),
            CUDA_SUCCESS);
  EXPECT_CU(cuda.cuStreamSynchronize(stream), CUDA_SUCCESS);
  EXPECT_HOLDS(calls.seen[0] == 0 && calls.seen[1] == 1 && calls.seen[2] == 2);
  EXPECT_CU(cuda.cuLaunchHostFunc(stream, nullptr, nullptr), CUDA_ERROR_INVALID_VALUE);
  EXPECT_CU(cuda.cuStreamAddCallback(stream, nullptr, nullptr, 0), CUDA_ERROR_INVALID_VALUE);
}

void DestroyedStreamsFinishTheirWork(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  Spinner spinner(probe);
  CUstream stream = nullptr;
  NEED_CU(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CUdeviceptr memory = probe.Memory(4);
  NEED_CU(cuda.cuMemsetD32_v2(memory, 0, 1));
  spinner.Start(stream);
  NEED_CU(cuda.cuMemsetD32Async(memory, 5, 1, stream));
  EXPECT_CU(cuda.cuStreamDestroy_v2(stream), CUDA_SUCCESS);
  spinner.Release();
  EXPECT_CU(cuda.cuCtxSynchronize(), CUDA_SUCCESS);
  unsigned value = 0;
  EXPECT_CU(cuda.cuMemcpyDtoH_v2(&value, memory, 4), CUDA_SUCCESS);
  EXPECT_HOLDS(value == 5);
}

void NothingIsCaptured(Probe& probe) {
  auto& cuda = probe.cuda;
  probe.Begin();
  CUstream stream = nullptr;
  NEED_CU(cuda.cuStreamCreate(&stream, 0));
  auto status = static_cast<CUstreamCaptureStatus>(9);
  EXPECT_CU(cuda.cuStreamIsCapturing(stream, &status), CUDA_SUCCESS);
  EXPECT_HOLDS(status == CU_STREAM_CAPTURE_STATUS_NONE);
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  EXPECT_CU(cuda.cuThreadExchangeStreamCaptureMode(&mode), CUDA_SUCCESS);
  EXPECT_HOLDS(mode == CU_STREAM_CAPTURE_MODE_GLOBAL);
  EXPECT_CU(cuda.cuThreadExchangeStreamCaptureMode(&mode), CUDA_SUCCESS);
  EXPECT_HOLDS(mode == CU_STREAM_CAPTURE_MODE_RELAXED);
}

constexpr Claim kClaims[] = {
    {"StreamsSayWhatTheyAre", "flags, priority (clamped) and context of a stream; bad flags refused",
     &StreamsSayWhatTheyAre},
    {"QueriesDoNotWait", "queries of busy streams and events are NOT_READY; unrecorded events are done",
     &QueriesDoNotWait},
    {"AStreamIsInOrder", "fills, kernels and copies of one stream happen in order", &AStreamIsInOrder},
    {"AStreamWaitsForAnEvent", "cuStreamWaitEvent orders two streams", &AStreamWaitsForAnEvent},
    {"TheDefaultStreamWaitsForBlockingStreams", "the legacy default stream waits for blocking streams only",
     &TheDefaultStreamWaitsForBlockingStreams},
    {"EventTimesGoForward", "times between events are not negative and add up", &EventTimesGoForward},
    {"EventRulesAreKept", "unrecorded or untimed events have no times; bad flags refused", &EventRulesAreKept},
    {"AnEventOfAnotherContextIsNotRecorded", "an event is recorded in its own context, and waited for in any",
     &AnEventOfAnotherContextIsNotRecorded},
    {"NullHandlesAreErrors", "null where an event or a stream of one's own must be is INVALID_HANDLE",
     &NullHandlesAreErrors},
    {"HostFunctionsAreInOrder", "host functions and callbacks run once, in stream order", &HostFunctionsAreInOrder},
    {"DestroyedStreamsFinishTheirWork", "cuStreamDestroy does not cancel", &DestroyedStreamsFinishTheirWork},
    {"NothingIsCaptured", "without capture the status is NONE; the capture mode is a thread's own", &NothingIsCaptured},
};

}  // namespace

std::span<const Claim> StreamClaims() { return kClaims; }

}  // namespace conformance
