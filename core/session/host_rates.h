// HostRates: how fast this host moves bytes, as `gpumig bench` measured it, kept in the state directory for forecasts.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "core/base/json.h"
#include "core/base/result.h"

namespace gpumig {

// Of sending to one node through the agents, over `connection_count` connections together.
struct LinkRate {
  std::uint64_t bytes_per_second = 0;
  std::uint32_t connection_count = 1;
  std::string measured_at;
  bool operator==(const LinkRate&) const = default;
};

// Bytes per second of `thread_count` threads together; 0: not measured.
struct HostRates {
  std::string measured_at;  // UtcNow()
  std::uint32_t thread_count = 0;
  std::uint64_t copy = 0;         // within one process
  std::uint64_t read = 0;         // memory of another process, into a small buffer
  std::uint64_t digest = 0;       // what names chunks
  std::uint64_t encode = 0;       // weights as bf16, with zstd:1
  std::uint64_t state_disk = 0;   // written and synced, one thread
  std::uint64_t staging = 0;      // the same in the staging directory
  std::uint64_t gpu_capture = 0;  // device memory into host memory, as the last move from here took it
  std::uint64_t gpu_restore = 0;  // and back, as its target told
  // What stays of a pause without a byte to move: freeze, CRIU, journals; of the last move from here.
  std::optional<std::chrono::microseconds> fixed;
  std::map<std::string, LinkRate> links;  // by node
  bool operator==(const HostRates&) const = default;
};

Json ToJson(const HostRates& rates);
// Errors: kDamaged naming the member.
Result<HostRates> HostRatesFromJson(const Json& json);

// rates.json in the state directory. Errors of LoadHostRates: kNotFound, nothing was measured yet; kDamaged.
Result<HostRates> LoadHostRates(const std::filesystem::path& state_directory);
Result<void> SaveHostRates(const std::filesystem::path& state_directory, const HostRates& rates);

}  // namespace gpumig
