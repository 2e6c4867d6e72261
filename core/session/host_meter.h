// HostMeter: measures how fast this host moves bytes, with all its cores and without touching any workload.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>

#include "core/base/result.h"
#include "core/image/chunk_codec.h"

namespace gpumig {

// Each call takes about `span`, and gives bytes per second of all threads together.
//
// Memory: 16 MiB per thread.
// Thread safety: one thread at a time; one that runs beside another measures what both leave each other.
class HostMeter {
 public:
  // 0 threads: one per core.
  explicit HostMeter(std::chrono::milliseconds span, std::uint32_t thread_count = 0);

  std::uint32_t thread_count() const { return thread_count_; }

  std::uint64_t Copy() const;
  // The way that captures read memory of a frozen process. It reads our own, which costs the kernel the same.
  // Errors: kPermissionDenied.
  Result<std::uint64_t> ReadProcess() const;
  std::uint64_t Digest() const;
  // Weights as bf16.
  std::uint64_t Encode(CompressionChoice compression) const;
  // Written to a file of its own in `directory`, at most 2 GiB and at most a quarter of what is free there, and synced;
  // by one thread. Errors: kNoSpace; those of the file system.
  Result<std::uint64_t> WriteAndSync(const std::filesystem::path& directory) const;

 private:
  std::chrono::milliseconds span_;
  std::uint32_t thread_count_;
};

}  // namespace gpumig
