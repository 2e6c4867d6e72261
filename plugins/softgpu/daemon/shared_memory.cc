#include "plugins/softgpu/daemon/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <cstring>
#include <vector>

namespace softgpu {

namespace {

constexpr std::uint64_t kPageBytes = 4096;

std::uint64_t RoundUp(std::uint64_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

bool IsZero(const std::byte* bytes, std::uint64_t count) {
  return count == 0 || (bytes[0] == std::byte{0} && std::memcmp(bytes, bytes + 1, count - 1) == 0);
}

}  // namespace

std::shared_ptr<SharedMemory> SharedMemory::Create(Device& device, const std::byte* content, std::uint64_t bytes,
                                                   std::uint64_t session_number, const PhysicalProperties& properties) {
  // Memory of nobody's but ours, so no file is needed that others could name.
  void* host =
      mmap(nullptr, RoundUp(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (host == MAP_FAILED) return nullptr;
  auto* copy = static_cast<std::byte*>(host);
  for (std::uint64_t done = 0; done < bytes; done += kPageBytes) {
    const std::uint64_t count = std::min(kPageBytes, bytes - done);
    if (!IsZero(content + done, count)) std::memcpy(copy + done, content + done, count);
  }
  std::shared_ptr<SharedMemory> memory(new SharedMemory(device, bytes, session_number, properties, copy));
  if (getrandom(memory->token_.data(), memory->token_.size(), 0) != static_cast<ssize_t>(memory->token_.size())) {
    return nullptr;
  }
  return memory;
}

SharedMemory::SharedMemory(Device& device, std::uint64_t bytes, std::uint64_t session_number,
                           const PhysicalProperties& properties, std::byte* host)
    : device_(device), bytes_(bytes), session_number_(session_number), properties_(properties), host_(host) {}

SharedMemory::~SharedMemory() {
  munmap(host_, RoundUp(bytes_));
  device_.GiveBack(RoundUp(bytes_));
}

int SharedMemory::name_fd() {
  const std::lock_guard lock(mutex_);
  if (!name_.valid()) {
    name_.reset(memfd_create("softgpu-shared", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (name_.valid()) {
      fcntl(name_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
    }
  }
  return name_.get();
}

bool SharedMemory::IsNamedBy(std::uint64_t device_number, std::uint64_t inode) const {
  const std::lock_guard lock(mutex_);
  struct stat status{};
  return name_.valid() && fstat(name_.get(), &status) == 0 && status.st_dev == device_number && status.st_ino == inode;
}

void SharedMemoryTable::Add(const std::shared_ptr<SharedMemory>& memory) {
  const std::lock_guard lock(mutex_);
  std::erase_if(memories_, [](const auto& item) { return item.second.expired(); });
  memories_.emplace(memory->token(), memory);
}

std::shared_ptr<SharedMemory> SharedMemoryTable::Find(const Token& token) const {
  const std::lock_guard lock(mutex_);
  const auto found = memories_.find(token);
  return found == memories_.end() ? nullptr : found->second.lock();
}

std::shared_ptr<SharedMemory> SharedMemoryTable::FindNamedBy(int fd) const {
  struct stat status{};
  if (fstat(fd, &status) != 0) return nullptr;
  // Copied, so that none that we drop here ends under the lock.
  std::vector<std::shared_ptr<SharedMemory>> memories;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [token, memory] : memories_) memories.push_back(memory.lock());
  }
  for (const auto& memory : memories) {
    if (memory != nullptr && memory->IsNamedBy(status.st_dev, status.st_ino)) return memory;
  }
  return nullptr;
}

}  // namespace softgpu
