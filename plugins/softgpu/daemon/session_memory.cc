// Session: virtual memory management, and memory shared with other sessions.
#include "plugins/softgpu/daemon/session.h"

namespace softgpu {

using cuda_abi::CUresult;

Session::UseOfMemory::UseOfMemory(Session& session) : session_(session) {
  std::unique_lock lock(session_.mutex_);
  session_.memory_unused_.wait(lock, [&] { return session_.movers_ == 0 || session_.closed_; });
  ++session_.memory_uses_;
}

Session::UseOfMemory::~UseOfMemory() {
  const std::lock_guard lock(session_.mutex_);
  --session_.memory_uses_;
  session_.memory_unused_.notify_all();
}

bool Session::WaitUnused(std::unique_lock<std::mutex>& lock) {
  ++movers_;
  memory_unused_.wait(lock, [&] { return closed_ || (memory_uses_ == 0 && copying_turns_.empty()); });
  --movers_;
  memory_unused_.notify_all();
  return !closed_;
}

CUresult Session::Reserve(std::uint64_t base, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  return space_.Reserve(base, bytes);
}

CUresult Session::Unreserve(std::uint64_t base, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  return space_.Unreserve(base, bytes);
}

CUresult Session::PhysicalCreate(std::uint64_t bytes, const PhysicalProperties& properties, Id& handle) {
  const std::lock_guard lock(mutex_);
  handle = NewId();
  return space_.Create(handle, bytes, properties);
}

CUresult Session::PhysicalRelease(Id handle) {
  const std::lock_guard lock(mutex_);
  return space_.Release(handle);
}

CUresult Session::PhysicalRetain(std::uint64_t address, Id& handle) {
  const std::lock_guard lock(mutex_);
  return space_.Retain(address, handle);
}

CUresult Session::PhysicalInfo(Id handle, request::PhysicalInfo::Reply& info) {
  const std::lock_guard lock(mutex_);
  return space_.Info(handle, info);
}

CUresult Session::PhysicalExport(Id handle, std::shared_ptr<SharedMemory>& shared) {
  std::unique_lock lock(mutex_);
  if (!WaitUnused(lock)) return cuda_abi::CUDA_ERROR_DEINITIALIZED;
  map_.reset();
  return space_.Share(handle, shared_, shared);
}

CUresult Session::PhysicalImport(int fd, Id& handle) {
  std::shared_ptr<SharedMemory> shared = shared_.FindNamedBy(fd);
  if (shared == nullptr) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard lock(mutex_);
  if (closed_) return cuda_abi::CUDA_ERROR_DEINITIALIZED;
  handle = NewId();
  return space_.Import(handle, std::move(shared));
}

CUresult Session::Map(const request::Map& map) {
  const std::lock_guard lock(mutex_);
  map_.reset();
  return space_.Map(map);
}

CUresult Session::Unmap(std::uint64_t base, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  map_.reset();
  return space_.Unmap(base, bytes);
}

CUresult Session::SetAccess(const request::SetAccess& set, std::span<const AccessDescription> descriptions) {
  const std::lock_guard lock(mutex_);
  map_.reset();
  return space_.SetAccess(set.base, set.bytes, descriptions);
}

CUresult Session::GetAccess(std::uint64_t address, std::uint64_t ordinal, std::uint64_t& flags) {
  const std::lock_guard lock(mutex_);
  return space_.GetAccess(address, ordinal, flags);
}

CUresult Session::IpcExport(std::uint64_t address, request::IpcExport::Reply& reply) {
  std::unique_lock lock(mutex_);
  if (!WaitUnused(lock)) return cuda_abi::CUDA_ERROR_DEINITIALIZED;
  map_.reset();
  std::shared_ptr<SharedMemory> shared;
  const CUresult result = space_.ShareLinear(address, shared_, shared);
  if (result != cuda_abi::CUDA_SUCCESS) return result;
  reply.token = shared->token();
  reply.bytes = shared->bytes();
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::IpcOpen(Id context, const request::IpcOpen& open, std::uint64_t& address) {
  const std::shared_ptr<SharedMemory> shared = shared_.Find(open.token);
  if (shared == nullptr) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  // Source: a process cannot open what it exported itself; the driver gives INVALID_CONTEXT.
  if (shared->session_number() == number_) return cuda_abi::CUDA_ERROR_INVALID_CONTEXT;
  if (open.bytes < shared->bytes()) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard lock(mutex_);
  const auto found = contexts_.find(context);
  if (found == contexts_.end()) return cuda_abi::CUDA_ERROR_INVALID_CONTEXT;
  map_.reset();
  address = open.address;
  return space_.IpcOpen(NewId(), found->second.ordinal, shared, address);
}

CUresult Session::IpcClose(std::uint64_t address, std::uint64_t& freed_bytes) {
  const std::lock_guard lock(mutex_);
  map_.reset();
  return space_.IpcClose(address, freed_bytes);
}

}  // namespace softgpu
