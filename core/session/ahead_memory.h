// AheadMemory: plaintext of chunks that came before there was a tree to place them in, kept in memory until there is.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <unordered_map>

#include "core/base/result.h"
#include "core/base/unique_fd.h"
#include "core/image/digest.h"

namespace gpumig {

// A file without a name: its memory counts as shared memory of this process's cgroup, is given back chunk by chunk, and
// is gone with this process at the latest. Only a window of it is mapped at any time.
//
// Thread safety: any number of threads.
class AheadMemory {
 public:
  // Keeps `most_bytes` at most; 0: nothing. Errors: of memfd_create().
  static Result<AheadMemory> Make(std::uint64_t most_bytes);
  AheadMemory(AheadMemory&& other) noexcept;

  // What does not fit, or that there is no memory for, is not kept; that is no error. Keeps what is checked only:
  // nobody will check it again.
  void Keep(const Digest& digest, std::span<const std::byte> plain);

  // Calls `use` with what was kept, and gives its memory back where that succeeded. False: it was not kept, or is given
  // back already, or could not be mapped. Errors: those of `use`.
  Result<bool> Take(const Digest& digest, const std::function<Result<void>(std::span<const std::byte> plain)>& use);

  std::uint64_t bytes() const;

 private:
  struct Place {
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
  };
  AheadMemory(UniqueFd file, std::uint64_t most_bytes) : file_(std::move(file)), most_bytes_(most_bytes) {}

  UniqueFd file_;
  std::uint64_t most_bytes_ = 0;
  mutable std::mutex mutex_;
  std::unordered_map<Digest, Place> places_;  // guarded by mutex_
  std::uint64_t end_ = 0;                     // guarded by mutex_; only grows
  std::uint64_t kept_bytes_ = 0;              // guarded by mutex_
};

}  // namespace gpumig
