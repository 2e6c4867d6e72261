#include "plugins/softgpu/daemon/session.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace softgpu {

using cuda_abi::CUresult;

Session::Session(std::uint64_t number, std::vector<std::unique_ptr<Arena>> arenas, SharedMemoryTable& shared)
    : number_(number), arenas_(std::move(arenas)), space_(number, arenas_, views_), shared_(shared) {}

Session::~Session() { Close(); }

void Session::Close() {
  abort_ = true;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    memory_unused_.notify_all();
  }
  scheduler_.Close();
  const std::lock_guard lock(mutex_);
  functions_.clear();
  modules_.clear();
  events_.clear();
  contexts_.clear();
  map_.reset();
  space_.Clear();
  views_.clear();
  arenas_.clear();
}

std::vector<int> Session::memory_fds() const {
  const std::lock_guard lock(mutex_);
  std::vector<int> fds;
  for (const auto& arena : arenas_) fds.push_back(arena->fd());
  return fds;
}

// --- contexts ---

CUresult Session::AddContext(Id id, const Context& context) {
  if (closed_ || contexts_.size() >= kMaxContexts) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  // The default stream has its context's id.
  const CUresult added = scheduler_.AddStream(id, {id, 0, 0, /*is_default=*/true});
  if (added == cuda_abi::CUDA_SUCCESS) contexts_.emplace(id, context);
  return added;
}

CUresult Session::NewContext(std::uint32_t ordinal, std::uint32_t flags, bool is_primary, Id& id) {
  if (ordinal >= arenas_.size()) return cuda_abi::CUDA_ERROR_INVALID_DEVICE;
  id = NewId();
  return AddContext(id, {ordinal, flags, is_primary, 1});
}

Id Session::FindPrimary(std::uint32_t ordinal) const {
  for (const auto& [id, context] : contexts_) {
    if (context.is_primary && context.ordinal == ordinal) return id;
  }
  return 0;
}

CUresult Session::PrimaryRetain(std::uint32_t ordinal, Id& context) {
  const std::lock_guard lock(mutex_);
  if (ordinal >= arenas_.size()) return cuda_abi::CUDA_ERROR_INVALID_DEVICE;
  context = FindPrimary(ordinal);
  if (context == 0) return NewContext(ordinal, primary_flags_[ordinal], true, context);
  ++contexts_[context].retain_count;
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::PrimaryRelease(std::uint32_t ordinal) {
  Id id = 0;
  {
    const std::lock_guard lock(mutex_);
    if (ordinal >= arenas_.size()) return cuda_abi::CUDA_ERROR_INVALID_DEVICE;
    id = FindPrimary(ordinal);
    if (id == 0) return cuda_abi::CUDA_ERROR_INVALID_CONTEXT;
    if (--contexts_[id].retain_count > 0) return cuda_abi::CUDA_SUCCESS;
  }
  return ContextDestroy(id);
}

CUresult Session::PrimaryState(std::uint32_t ordinal, std::uint32_t& flags, bool& active) {
  const std::lock_guard lock(mutex_);
  if (ordinal >= arenas_.size()) return cuda_abi::CUDA_ERROR_INVALID_DEVICE;
  active = FindPrimary(ordinal) != 0;
  flags = primary_flags_[ordinal];
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::PrimarySetFlags(std::uint32_t ordinal, std::uint32_t flags) {
  const std::lock_guard lock(mutex_);
  if (ordinal >= arenas_.size()) return cuda_abi::CUDA_ERROR_INVALID_DEVICE;
  if ((flags & ~static_cast<std::uint32_t>(cuda_abi::CU_CTX_FLAGS_MASK)) != 0) {
    return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  primary_flags_[ordinal] = flags;
  if (const Id id = FindPrimary(ordinal); id != 0) contexts_[id].flags = flags;
  return cuda_abi::CUDA_SUCCESS;
}

// The context stays, and what is in it goes: handles of it that a program still holds stay good.
CUresult Session::PrimaryReset(std::uint32_t ordinal) {
  Id id = 0;
  {
    const std::lock_guard lock(mutex_);
    if (ordinal >= arenas_.size()) return cuda_abi::CUDA_ERROR_INVALID_DEVICE;
    id = FindPrimary(ordinal);
  }
  if (id == 0) return cuda_abi::CUDA_SUCCESS;
  scheduler_.WaitContext(id);
  EmptyContext(id);
  scheduler_.ClearError(id);
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::ContextCreate(std::uint32_t ordinal, std::uint32_t flags, Id& context) {
  const std::lock_guard lock(mutex_);
  if ((flags & ~static_cast<std::uint32_t>(cuda_abi::CU_CTX_FLAGS_MASK)) != 0) {
    return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  return NewContext(ordinal, flags, false, context);
}

CUresult Session::ContextDestroy(Id id) {
  {
    const std::lock_guard lock(mutex_);
    if (!contexts_.contains(id)) return cuda_abi::CUDA_ERROR_INVALID_CONTEXT;
  }
  scheduler_.WaitContext(id);
  EmptyContext(id);
  scheduler_.RemoveStream(id);
  scheduler_.ClearError(id);
  const std::lock_guard lock(mutex_);
  contexts_.erase(id);
  return cuda_abi::CUDA_SUCCESS;
}

// Frees all that belongs to a context.
void Session::EmptyContext(Id id) {
  for (const auto& [stream, info] : scheduler_.Streams()) {
    if (info.context == id && !info.is_default) scheduler_.RemoveStream(stream);
  }
  const std::lock_guard lock(mutex_);
  std::erase_if(events_, [&](const auto& item) { return item.second.context == id; });
  std::erase_if(functions_, [&](const auto& item) {
    const auto module = modules_.find(item.second.module);
    return module == modules_.end() || module->second.context == id;
  });
  for (const auto& [module_id, module] : modules_) {
    if (module.context == id) module_bytes_ -= module.text.size();
  }
  std::erase_if(modules_, [&](const auto& item) { return item.second.context == id; });
  for (const auto& arena : arenas_) {
    std::vector<std::uint64_t> bases;
    for (const auto& [base, allocation] : arena->allocations()) {
      if (allocation.context == id) bases.push_back(base);
    }
    for (const std::uint64_t base : bases) {
      arena->Free(base);
      space_.ForgetLinear(base);
    }
  }
  map_.reset();
}

CUresult Session::ContextInfo(Id id, request::ContextInfo::Reply& info) {
  const std::lock_guard lock(mutex_);
  const auto found = contexts_.find(id);
  if (found == contexts_.end()) return cuda_abi::CUDA_ERROR_INVALID_CONTEXT;
  info.ordinal = found->second.ordinal;
  info.flags = found->second.flags;
  info.error = scheduler_.Error(id);
  info.is_primary = found->second.is_primary ? 1 : 0;
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::CheckContext(Id id) {
  const std::lock_guard lock(mutex_);
  if (!contexts_.contains(id)) return cuda_abi::CUDA_ERROR_INVALID_CONTEXT;
  return scheduler_.Error(id);
}

// --- memory ---

Arena* Session::ArenaOf(std::uint64_t address) const {
  for (const auto& arena : arenas_) {
    if (arena->contains(address)) return arena.get();
  }
  return nullptr;
}

CUresult Session::MemAlloc(Id context, std::uint64_t bytes, std::uint64_t& address) {
  const std::lock_guard lock(mutex_);
  const auto found = contexts_.find(context);
  if (found == contexts_.end()) return cuda_abi::CUDA_ERROR_INVALID_CONTEXT;
  map_.reset();
  Allocation allocation{0, bytes, context, false, false, false};
  const CUresult result = arenas_[found->second.ordinal]->Allocate(allocation);
  address = allocation.base;
  return result;
}

CUresult Session::MemFree(std::uint64_t address) {
  if (address == 0) return cuda_abi::CUDA_SUCCESS;
  Id context = 0;
  {
    const std::lock_guard lock(mutex_);
    const Arena* arena = ArenaOf(address);
    const Allocation* allocation = arena == nullptr ? nullptr : arena->Find(address);
    const bool is_linear = allocation != nullptr && !allocation->is_module && !allocation->is_physical;
    if (!is_linear || allocation->base != address) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    context = allocation->context;
  }
  // As the real call does: what runs may use it.
  scheduler_.WaitContext(context);
  const std::lock_guard lock(mutex_);
  Arena* arena = ArenaOf(address);
  const Allocation* allocation = arena == nullptr ? nullptr : arena->Find(address);
  if (allocation == nullptr || allocation->base != address) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  arena->Free(address);
  space_.ForgetLinear(address);
  map_.reset();
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::MemInfo(Id context, request::MemInfo::Reply& info) {
  const std::lock_guard lock(mutex_);
  const auto found = contexts_.find(context);
  if (found == contexts_.end()) return cuda_abi::CUDA_ERROR_INVALID_CONTEXT;
  const DeviceDescription device = arenas_[found->second.ordinal]->device().Describe();
  info.total_bytes = device.memory_bytes;
  info.free_bytes = device.memory_bytes - device.used_bytes;
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::MemFind(std::uint64_t address, request::MemFind::Reply& info) {
  const std::lock_guard lock(mutex_);
  return space_.Find(address, info) ? cuda_abi::CUDA_SUCCESS : cuda_abi::CUDA_ERROR_INVALID_VALUE;
}

std::shared_ptr<const MemoryMap> Session::CurrentMap(std::uint32_t ordinal) {
  auto& known = map_.of_device[ordinal];
  if (known == nullptr) {
    auto map = std::make_shared<MemoryMap>();
    space_.Describe(ordinal, *map);
    known = map;
  }
  return known;
}

// --- streams ---

CUresult Session::StreamOf(Id context, Id stream, Id& found) {
  // The two special handles: both are the context's default stream. A per-thread default stream that is ordered more
  // strictly than on hardware breaks no correct program.
  if (stream <= cuda_abi::kStreamPerThread) stream = context;
  const auto info = scheduler_.FindStream(stream);
  if (!info) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  found = stream;
  return scheduler_.Error(info->context);
}

CUresult Session::AddWork(Id context, Id stream, bool wait, Scheduler::Work work) {
  Id id = 0;
  if (const CUresult result = StreamOf(context, stream, id); result != cuda_abi::CUDA_SUCCESS) return result;
  const CompletionPtr completion = scheduler_.Add(id, std::move(work));
  if (completion == nullptr) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  return wait ? scheduler_.Wait(completion) : cuda_abi::CUDA_SUCCESS;
}

}  // namespace softgpu
