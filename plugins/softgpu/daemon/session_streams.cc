// Session: streams and events.
#include <algorithm>

#include "plugins/softgpu/daemon/session.h"

namespace softgpu {

using cuda_abi::CUresult;

CUresult Session::StreamCreate(Id context, std::uint32_t flags, std::int32_t priority, Id& stream) {
  if ((flags & ~static_cast<std::uint32_t>(cuda_abi::CU_STREAM_NON_BLOCKING)) != 0) {
    return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  // Source: cuStreamCreateWithPriority: a priority outside the range is taken as the nearest one in it.
  priority = std::clamp(priority, kGreatestPriority, 0);
  const std::lock_guard lock(mutex_);
  stream = NewId();
  return scheduler_.AddStream(stream, {context, flags, priority, /*is_default=*/false});
}

CUresult Session::StreamDestroy(Id stream) {
  const auto info = scheduler_.FindStream(stream);
  if (!info || info->is_default) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  scheduler_.RemoveStream(stream);
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::StreamWait(Id context, Id stream) {
  Id id = 0;
  if (const CUresult result = StreamOf(context, stream, id); result != cuda_abi::CUDA_SUCCESS) return result;
  return scheduler_.WaitStream(id);
}

CUresult Session::StreamQuery(Id context, Id stream) {
  Id id = 0;
  if (const CUresult result = StreamOf(context, stream, id); result != cuda_abi::CUDA_SUCCESS) return result;
  return scheduler_.IsIdle(id) ? cuda_abi::CUDA_SUCCESS : cuda_abi::CUDA_ERROR_NOT_READY;
}

CUresult Session::StreamInfo(Id context, Id stream, request::StreamInfo::Reply& info) {
  Id id = 0;
  if (const CUresult result = StreamOf(context, stream, id); result != cuda_abi::CUDA_SUCCESS) return result;
  const auto found = scheduler_.FindStream(id);
  if (!found) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  info = {found->context, found->flags, found->priority};
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::StreamWaitEvent(Id context, Id stream, Id event) {
  CompletionPtr recorded;
  {
    const std::lock_guard lock(mutex_);
    const auto found = events_.find(event);
    if (found == events_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
    recorded = found->second.recorded;
  }
  Id id = 0;
  if (const CUresult result = StreamOf(context, stream, id); result != cuda_abi::CUDA_SUCCESS) return result;
  if (recorded == nullptr) return cuda_abi::CUDA_SUCCESS;
  const CompletionPtr added = scheduler_.Add(id, [] { return cuda_abi::CUDA_SUCCESS; }, {recorded});
  return added == nullptr ? cuda_abi::CUDA_ERROR_INVALID_HANDLE : cuda_abi::CUDA_SUCCESS;
}

CUresult Session::EventCreate(Id context, std::uint32_t flags, Id& event) {
  constexpr std::uint32_t kKnown = cuda_abi::CU_EVENT_BLOCKING_SYNC | cuda_abi::CU_EVENT_DISABLE_TIMING;
  if ((flags & cuda_abi::CU_EVENT_INTERPROCESS) != 0) return cuda_abi::CUDA_ERROR_NOT_SUPPORTED;
  if ((flags & ~kKnown) != 0) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard lock(mutex_);
  if (events_.size() >= kMaxEvents) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  event = NewId();
  events_.emplace(event, Event{context, flags, nullptr});
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::EventDestroy(Id event) {
  const std::lock_guard lock(mutex_);
  return events_.erase(event) == 0 ? cuda_abi::CUDA_ERROR_INVALID_HANDLE : cuda_abi::CUDA_SUCCESS;
}

CUresult Session::EventRecord(Id context, Id event, Id stream) {
  Id event_context = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto found = events_.find(event);
    if (found == events_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
    event_context = found->second.context;
  }
  Id id = 0;
  if (const CUresult result = StreamOf(context, stream, id); result != cuda_abi::CUDA_SUCCESS) return result;
  const auto info = scheduler_.FindStream(id);
  // Source: cuEventRecord: "hEvent and hStream must be from the same context."
  if (!info || info->context != event_context) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  CompletionPtr recorded = scheduler_.Add(id, [] { return cuda_abi::CUDA_SUCCESS; });
  if (recorded == nullptr) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  const std::lock_guard lock(mutex_);
  const auto found = events_.find(event);
  if (found == events_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  found->second.recorded = std::move(recorded);
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::EventQuery(Id event) {
  const std::lock_guard lock(mutex_);
  const auto found = events_.find(event);
  if (found == events_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  if (!scheduler_.IsDone(found->second.recorded)) return cuda_abi::CUDA_ERROR_NOT_READY;
  return scheduler_.Error(found->second.context);
}

CUresult Session::EventWait(Id event) {
  CompletionPtr recorded;
  Id context = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto found = events_.find(event);
    if (found == events_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
    recorded = found->second.recorded;
    context = found->second.context;
  }
  if (recorded != nullptr) {
    const CUresult result = scheduler_.Wait(recorded);
    if (result != cuda_abi::CUDA_SUCCESS) return result;
  }
  return scheduler_.Error(context);
}

CUresult Session::EventElapsed(Id start, Id end, std::int64_t& nanoseconds) {
  const std::lock_guard lock(mutex_);
  const auto first = events_.find(start);
  const auto second = events_.find(end);
  if (first == events_.end() || second == events_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  for (const Event& event : {first->second, second->second}) {
    if (event.recorded == nullptr || (event.flags & cuda_abi::CU_EVENT_DISABLE_TIMING) != 0) {
      return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
    }
    if (!scheduler_.IsDone(event.recorded)) return cuda_abi::CUDA_ERROR_NOT_READY;
  }
  // Done completions no longer change.
  nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(second->second.recorded->finished_at -
                                                                     first->second.recorded->finished_at)
                    .count();
  return cuda_abi::CUDA_SUCCESS;
}

}  // namespace softgpu
