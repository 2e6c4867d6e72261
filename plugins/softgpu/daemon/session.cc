#include "plugins/softgpu/daemon/session.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace softgpu {

using cuda_abi::CUresult;

Session::Session(std::uint64_t number, std::vector<std::unique_ptr<Arena>> arenas)
    : number_(number), arenas_(std::move(arenas)) {}

Session::~Session() { Close(); }

void Session::Close() {
  abort_ = true;
  scheduler_.Close();
  const std::lock_guard lock(mutex_);
  closed_ = true;
  functions_.clear();
  modules_.clear();
  events_.clear();
  contexts_.clear();
  map_.reset();
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
    for (const std::uint64_t base : bases) arena->Free(base);
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

std::byte* Session::Bytes(std::uint64_t address, std::uint64_t bytes) const {
  const Arena* arena = ArenaOf(address);
  if (arena == nullptr) return BytesOfView(address, bytes);
  const Allocation* allocation = arena->Find(address);
  if (allocation == nullptr || bytes > allocation->bytes - (address - allocation->base)) return nullptr;
  return arena->host(address);
}

CUresult Session::MemAlloc(Id context, std::uint64_t bytes, std::uint64_t& address) {
  const std::lock_guard lock(mutex_);
  const auto found = contexts_.find(context);
  if (found == contexts_.end()) return cuda_abi::CUDA_ERROR_INVALID_CONTEXT;
  map_.reset();
  return arenas_[found->second.ordinal]->Allocate(bytes, context, /*is_module=*/false, address);
}

CUresult Session::MemFree(std::uint64_t address) {
  if (address == 0) return cuda_abi::CUDA_SUCCESS;
  Id context = 0;
  {
    const std::lock_guard lock(mutex_);
    const Arena* arena = ArenaOf(address);
    const Allocation* allocation = arena == nullptr ? nullptr : arena->Find(address);
    if (allocation == nullptr || allocation->base != address || allocation->is_module) {
      return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    }
    context = allocation->context;
  }
  // As the real call does: what runs may use it.
  scheduler_.WaitContext(context);
  const std::lock_guard lock(mutex_);
  Arena* arena = ArenaOf(address);
  const Allocation* allocation = arena == nullptr ? nullptr : arena->Find(address);
  if (allocation == nullptr || allocation->base != address) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  arena->Free(address);
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
  for (std::size_t i = 0; i < arenas_.size(); ++i) {
    const Allocation* allocation = arenas_[i]->contains(address) ? arenas_[i]->Find(address) : nullptr;
    if (allocation == nullptr) continue;
    info = {allocation->base, allocation->bytes, allocation->context, static_cast<std::uint32_t>(i), 0};
    return cuda_abi::CUDA_SUCCESS;
  }
  return cuda_abi::CUDA_ERROR_INVALID_VALUE;
}

std::shared_ptr<const Session::MemoryMap> Session::CurrentMap() {
  if (map_ != nullptr) return map_;
  auto map = std::make_shared<MemoryMap>();
  for (const auto& arena : arenas_) {
    for (const auto& [base, allocation] : arena->allocations()) {
      map->push_back({base, allocation.bytes, arena->host(base), /*writable=*/true});
    }
  }
  for (const auto& [base, view] : views_) map->push_back({base, view->bytes(), view->host(base), /*writable=*/true});
  std::sort(map->begin(), map->end(), [](const auto& a, const auto& b) { return a.base < b.base; });
  map_ = map;
  return map_;
}

// --- copies ---

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

// Work finds its bytes when it runs, not when it is added: its memory may be freed by then, or be somebody's new one,
// but it stays inside this session.
CUresult Session::CopyIn(Id context, Id stream, std::uint64_t to, std::span<const std::byte> data, bool wait) {
  {
    const std::lock_guard lock(mutex_);
    if (Bytes(to, data.size()) == nullptr) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  return AddWork(context, stream, wait, [this, to, copy = std::vector<std::byte>(data.begin(), data.end())] {
    WaitForBandwidthAt(to, copy.size());
    const std::lock_guard lock(mutex_);
    std::byte* bytes = Bytes(to, copy.size());
    if (bytes == nullptr) return cuda_abi::CUDA_ERROR_ILLEGAL_ADDRESS;
    std::memcpy(bytes, copy.data(), copy.size());
    return cuda_abi::CUDA_SUCCESS;
  });
}

CUresult Session::CopyOut(Id context, Id stream, std::uint64_t from, std::span<std::byte> data) {
  {
    const std::lock_guard lock(mutex_);
    if (Bytes(from, data.size()) == nullptr) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  // Shared with the work, which may outlive our waiting for it when the session is closed.
  auto copied = std::make_shared<std::vector<std::byte>>(data.size());
  const CUresult result = AddWork(context, stream, /*wait=*/true, [this, from, copied] {
    WaitForBandwidthAt(from, copied->size());
    const std::lock_guard lock(mutex_);
    const std::byte* bytes = Bytes(from, copied->size());
    if (bytes == nullptr) return cuda_abi::CUDA_ERROR_ILLEGAL_ADDRESS;
    std::memcpy(copied->data(), bytes, copied->size());
    return cuda_abi::CUDA_SUCCESS;
  });
  if (result == cuda_abi::CUDA_SUCCESS) std::memcpy(data.data(), copied->data(), data.size());
  return result;
}

CUresult Session::CopyTurn(Id context, const request::CopyTurn& copy, Id& turn) {
  Id stream = 0;
  {
    const std::lock_guard lock(mutex_);
    if (Bytes(copy.address, copy.bytes) == nullptr) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    turn = NewId();
  }
  if (const CUresult result = StreamOf(context, copy.stream, stream); result != cuda_abi::CUDA_SUCCESS) return result;
  const CUresult taken = scheduler_.TakeTurn(stream, turn);
  if (taken == cuda_abi::CUDA_SUCCESS) WaitForBandwidthAt(copy.address, copy.bytes);
  return taken;
}

CUresult Session::CopyDeferred(Id context, const request::CopyDeferred& copy) {
  request::ServiceWait::Reply item;
  {
    const std::lock_guard lock(mutex_);
    if (Bytes(copy.address, copy.bytes) == nullptr) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    item.turn = NewId();
  }
  item.kind = request::ServiceWait::Kind::kCopy;
  item.to_device = copy.to_device != 0 ? 1 : 0;
  item.function_or_address = copy.address;
  item.argument_or_host = copy.host;
  item.bytes = copy.bytes;
  Id stream = 0;
  if (const CUresult result = StreamOf(context, copy.stream, stream); result != cuda_abi::CUDA_SUCCESS) return result;
  return scheduler_.AddService(stream, item);
}

CUresult Session::HostFunction(Id context, const request::HostFunction& call) {
  request::ServiceWait::Reply item;
  {
    const std::lock_guard lock(mutex_);
    item.turn = NewId();
  }
  item.kind = request::ServiceWait::Kind::kHostFunction;
  item.function_or_address = call.function;
  item.argument_or_host = call.argument;
  Id stream = 0;
  if (const CUresult result = StreamOf(context, call.stream, stream); result != cuda_abi::CUDA_SUCCESS) return result;
  return scheduler_.AddService(stream, item);
}

CUresult Session::CopyDevice(Id context, const request::CopyDevice& copy) {
  {
    const std::lock_guard lock(mutex_);
    if (Bytes(copy.to, copy.bytes) == nullptr || Bytes(copy.from, copy.bytes) == nullptr) {
      return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    }
  }
  return AddWork(context, copy.stream, copy.wait != 0, [this, copy] {
    std::byte* to = nullptr;
    const std::byte* from = nullptr;
    {
      const std::lock_guard lock(mutex_);
      to = Bytes(copy.to, copy.bytes);
      from = Bytes(copy.from, copy.bytes);
    }
    if (to == nullptr || from == nullptr) return cuda_abi::CUDA_ERROR_ILLEGAL_ADDRESS;
    std::memmove(to, from, copy.bytes);
    return cuda_abi::CUDA_SUCCESS;
  });
}

CUresult Session::Fill(Id context, const request::Fill& fill) {
  if (fill.unit_bytes != 1 && fill.unit_bytes != 2 && fill.unit_bytes != 4) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  if (fill.address % fill.unit_bytes != 0 || fill.count > kMaxSpanBytes) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  const std::uint64_t bytes = fill.count * fill.unit_bytes;
  {
    const std::lock_guard lock(mutex_);
    if (Bytes(fill.address, bytes) == nullptr) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  return AddWork(context, fill.stream, fill.wait != 0, [this, fill, bytes] {
    std::byte* to = nullptr;
    {
      const std::lock_guard lock(mutex_);
      to = Bytes(fill.address, bytes);
    }
    if (to == nullptr) return cuda_abi::CUDA_ERROR_ILLEGAL_ADDRESS;
    if (fill.unit_bytes == 1) std::memset(to, static_cast<int>(fill.value & 0xff), bytes);
    if (fill.unit_bytes == 2) {
      std::fill_n(reinterpret_cast<std::uint16_t*>(to), fill.count, static_cast<std::uint16_t>(fill.value));
    }
    if (fill.unit_bytes == 4) std::fill_n(reinterpret_cast<std::uint32_t*>(to), fill.count, fill.value);
    return cuda_abi::CUDA_SUCCESS;
  });
}

}  // namespace softgpu
