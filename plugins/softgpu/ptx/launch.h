// Runs one kernel over one grid.
//
// Blocks run in order on the calling thread, and the threads of a block in an order that depends on nothing but the
// program, so a launch has one result, float atomics included. A kernel in which a block waits for a later block never
// ends (until it is aborted).
//
// Every access goes through DeviceMemory, so a kernel reaches what is mapped and nothing else.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "plugins/softgpu/ptx/module.h"

namespace softgpu::ptx {

// Generic addresses of shared, local and parameter memory. Device memory must stay below.
inline constexpr std::uint64_t kSharedWindow = std::uint64_t{0xF0} << 56;
inline constexpr std::uint64_t kLocalWindow = std::uint64_t{0xF1} << 56;
inline constexpr std::uint64_t kParameterWindow = std::uint64_t{0xF2} << 56;

// Device addresses [base, base + bytes) lie at `host`. `host` and `base` are equal modulo 16.
struct Segment {
  std::uint64_t base = 0;
  std::uint64_t bytes = 0;  // 0: nothing is mapped there.
  std::byte* host = nullptr;
  bool writable = true;
};

// The page table of one context.
//
// Thread safety: called from the launching thread only. The interpreter keeps the segments it was given until Launch()
// returns: nothing may be unmapped under a running kernel.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;

  // The largest piece around `address` that is contiguous in the host, or one of 0 bytes.
  virtual Segment Find(std::uint64_t address) = 0;
};

struct Dim3 {
  std::uint32_t x = 1;
  std::uint32_t y = 1;
  std::uint32_t z = 1;
};

struct LaunchConfig {
  Dim3 grid;
  Dim3 block;
  std::uint32_t dynamic_shared_bytes = 0;
  std::span<const std::byte> parameters;            // Packed as Kernel::parameters says; at least parameter_bytes.
  std::span<const std::uint64_t> global_addresses;  // One per Module::globals().
  const std::atomic<bool>* abort = nullptr;         // May be null. Once true, the launch ends with kAborted soon.
};

enum class LaunchStatus {
  kDone,
  kIllegalAddress,
  kMisalignedAddress,
  kIllegalInstruction,  // Also: the threads of a block wait for each other for ever.
  kTrap,                // trap, or a failed device assert().
  kAborted,
  kInvalidConfig,  // Nothing has run.
};

std::string_view ToString(LaunchStatus status);

struct LaunchResult {
  LaunchStatus status = LaunchStatus::kDone;
  std::string detail;  // Kernel, PTX line, block, thread and address; empty if done.
  std::uint64_t lane_instructions = 0;
};

// Unless kInvalidConfig, what ran before a failure has taken effect, as on a device. REQUIRES: `kernel` is of `module`
LaunchResult Launch(const Module& module, const Kernel& kernel, const LaunchConfig& config, DeviceMemory& memory);

}  // namespace softgpu::ptx
