// Device memory that has been shared with other processes: by a file descriptor of cuMemExportToShareableHandle, or by
// a handle of cuIpcGetMemHandle.
//
// Its bytes leave the arena of the session that made it, for a memfd that only the daemon has: sessions reach each
// other's shared memory and nothing else of each other. Clients move bulk bytes by CopyNow.
//
// Ownership: shared by every session that has it; the last one gives the bytes back, and what they take of the device's
// capacity. Thread safety: any number of threads at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "plugins/softgpu/daemon/device.h"
#include "plugins/softgpu/wire/mapping_requests.h"
#include "plugins/softgpu/wire/protocol.h"
#include "plugins/softgpu/wire/unique_fd.h"

namespace softgpu {

class SharedMemory {
 public:
  // Null: the system has no memory for it. Takes over what of the capacity of `device` the caller had for it.
  static std::shared_ptr<SharedMemory> Create(Device& device, const std::byte* content, std::uint64_t bytes,
                                              std::uint64_t session_number, const PhysicalProperties& properties);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  std::byte* host() const { return host_; }
  std::uint64_t bytes() const { return bytes_; }
  const Device& device() const { return device_; }
  const Token& token() const { return token_; }
  // Number of the session that made it.
  std::uint64_t session_number() const { return session_number_; }
  const PhysicalProperties& properties() const { return properties_; }
  // A file that stands for it: whoever holds it may import. -1: the system has none for us.
  int name_fd();
  bool IsNamedBy(std::uint64_t device_number, std::uint64_t inode) const;

 private:
  SharedMemory(Device& device, std::uint64_t bytes, std::uint64_t session_number, const PhysicalProperties& properties,
               std::byte* host);

  Device& device_;
  const std::uint64_t bytes_;
  const std::uint64_t session_number_;
  const PhysicalProperties properties_;
  std::byte* const host_;
  Token token_{};
  mutable std::mutex mutex_;  // Guards name_.
  UniqueFd name_;
};

// All shared memory of a daemon.
class SharedMemoryTable {
 public:
  void Add(const std::shared_ptr<SharedMemory>& memory);
  // Null: there is none, or it is gone.
  std::shared_ptr<SharedMemory> Find(const Token& token) const;
  std::shared_ptr<SharedMemory> FindNamedBy(int fd) const;

 private:
  mutable std::mutex mutex_;
  std::map<Token, std::weak_ptr<SharedMemory>> memories_;
};

}  // namespace softgpu
