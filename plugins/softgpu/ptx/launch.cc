#include "plugins/softgpu/ptx/launch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cfenv>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <type_traits>

#include "plugins/softgpu/ptx/block_runner.h"
#include "plugins/softgpu/ptx/program.h"

namespace softgpu::ptx {
namespace {

constexpr std::uint32_t kWarpLanes = 32;
constexpr std::size_t kRowAlignment = 64;

struct FreeMemory {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<std::byte, FreeMemory>;

// Zeroed, and aligned to 64 bytes from *aligned on. Null: there is not so much.
Memory AllocateZeroed(std::size_t bytes, std::byte** aligned) {
  Memory memory(static_cast<std::byte*>(std::calloc(bytes + kRowAlignment, 1)));
  const auto address = reinterpret_cast<std::uintptr_t>(memory.get());
  *aligned = memory.get() + (kRowAlignment - address % kRowAlignment) % kRowAlignment;
  return memory;
}

std::uint64_t Product(const Dim3& size) { return std::uint64_t{size.x} * size.y * size.z; }

// What is wrong with it, if anything.
std::optional<std::string> Refuse(const Module& module, const Kernel& kernel, const LaunchConfig& config) {
  if (kernel.program == nullptr) return "the kernel has no program";
  if (config.block.x > kMaxThreadsPerBlock || config.block.y > kMaxThreadsPerBlock || config.block.z > 64 ||
      Product(config.block) == 0 || Product(config.block) > kMaxThreadsPerBlock) {
    return fmt::format("a block of {} x {} x {} threads", config.block.x, config.block.y, config.block.z);
  }
  const std::uint32_t max_grid = 0x7FFFFFFF;
  if (config.grid.x == 0 || config.grid.y == 0 || config.grid.z == 0 || config.grid.x > max_grid ||
      config.grid.y > 65535 || config.grid.z > 65535) {
    return fmt::format("a grid of {} x {} x {} blocks", config.grid.x, config.grid.y, config.grid.z);
  }
  if (kernel.max_ntid &&
      Product(config.block) > std::uint64_t{(*kernel.max_ntid)[0]} * (*kernel.max_ntid)[1] * (*kernel.max_ntid)[2]) {
    return "more threads in a block than the kernel's .maxntid";
  }
  if (kernel.required_ntid && *kernel.required_ntid != std::array{config.block.x, config.block.y, config.block.z}) {
    return "another shape of block than the kernel's .reqntid";
  }
  if (std::uint64_t{kernel.static_shared_bytes} + config.dynamic_shared_bytes > kMaxSharedBytes) {
    return fmt::format("{} static and {} dynamic bytes of shared memory", kernel.static_shared_bytes,
                       config.dynamic_shared_bytes);
  }
  if (config.parameters.size() < kernel.parameter_bytes) {
    return fmt::format("{} bytes of parameters for a kernel with {}", config.parameters.size(), kernel.parameter_bytes);
  }
  if (config.global_addresses.size() != module.globals().size()) {
    return fmt::format("{} addresses for {} global variables", config.global_addresses.size(), module.globals().size());
  }
  return std::nullopt;
}

class Launcher {
 public:
  Launcher(const Kernel& kernel, const LaunchConfig& config, DeviceMemory& memory)
      : kernel_(kernel), program_(*kernel.program), config_(config) {
    block_.memory = &memory;
    block_.lane_count = static_cast<std::uint32_t>(Product(config.block));
    block_.stride = (block_.lane_count + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
    block_.parameters = config.parameters.first(kernel.parameter_bytes);
    block_.local_bytes = (std::size_t{program_.local_bytes} + 15) / 16 * 16;
    // Dynamic shared memory begins where any type may.
    dynamic_shared_ = (program_.static_shared_bytes + 15) / 16 * 16;
    shared_bytes_ =
        program_.uses_dynamic_shared ? dynamic_shared_ + config.dynamic_shared_bytes : program_.static_shared_bytes;
  }

  LaunchResult Run();

 private:
  bool Allocate();
  template <class U>
  void FillRow(const FixedRow& fixed, const Dim3& block_index);
  void FillRows(bool first, const Dim3& block_index);
  std::uint64_t ValueOf(const FixedRow& fixed, std::uint32_t lane, const Dim3& block_index) const;
  std::uint64_t SpecialOf(SpecialRegister special, std::uint32_t lane, const Dim3& block_index) const;
  std::string Describe(const BlockRunner& runner, const Dim3& block_index) const;

  const Kernel& kernel_;
  const Program& program_;
  const LaunchConfig& config_;
  Block block_;
  std::size_t dynamic_shared_ = 0;
  std::size_t shared_bytes_ = 0;
  Memory rows_;
  Memory shared_;
  Memory local_;
};

bool Launcher::Allocate() {
  std::byte* shared = nullptr;
  rows_ = AllocateZeroed(program_.frame_bytes * block_.stride, &block_.rows);
  shared_ = AllocateZeroed(shared_bytes_, &shared);
  local_ = AllocateZeroed(block_.local_bytes * block_.lane_count, &block_.local);
  block_.shared = std::span(shared, shared_bytes_);
  return rows_ != nullptr && shared_ != nullptr && local_ != nullptr;
}

bool ChangesWithBlock(const FixedRow& fixed) {
  return fixed.kind == FixedRow::Kind::kSpecial && fixed.special >= SpecialRegister::kCtaidX &&
         fixed.special <= SpecialRegister::kCtaidZ;
}

std::uint64_t Launcher::SpecialOf(SpecialRegister special, std::uint32_t lane, const Dim3& block_index) const {
  const Dim3& size = config_.block;
  const std::uint32_t lane_bit = std::uint32_t{1} << (lane % kWarpLanes);
  switch (special) {
    case SpecialRegister::kTidX:
      return lane % size.x;
    case SpecialRegister::kTidY:
      return lane / size.x % size.y;
    case SpecialRegister::kTidZ:
      return lane / size.x / size.y;
    case SpecialRegister::kNtidX:
      return size.x;
    case SpecialRegister::kNtidY:
      return size.y;
    case SpecialRegister::kNtidZ:
      return size.z;
    case SpecialRegister::kCtaidX:
      return block_index.x;
    case SpecialRegister::kCtaidY:
      return block_index.y;
    case SpecialRegister::kCtaidZ:
      return block_index.z;
    case SpecialRegister::kNctaidX:
      return config_.grid.x;
    case SpecialRegister::kNctaidY:
      return config_.grid.y;
    case SpecialRegister::kNctaidZ:
      return config_.grid.z;
    case SpecialRegister::kLaneid:
      return lane % kWarpLanes;
    case SpecialRegister::kWarpid:
      return lane / kWarpLanes;
    case SpecialRegister::kNwarpid:
      return (block_.lane_count + kWarpLanes - 1) / kWarpLanes;
    case SpecialRegister::kLanemaskEq:
      return lane_bit;
    case SpecialRegister::kLanemaskLe:
      return lane_bit | (lane_bit - 1);
    case SpecialRegister::kLanemaskLt:
      return lane_bit - 1;
    case SpecialRegister::kLanemaskGe:
      return std::uint32_t{~(lane_bit - 1)};
    case SpecialRegister::kLanemaskGt:
      return std::uint32_t{~(lane_bit | (lane_bit - 1))};
    case SpecialRegister::kDynamicSmemSize:
      return config_.dynamic_shared_bytes;
    case SpecialRegister::kTotalSmemSize:
      return shared_bytes_;
    case SpecialRegister::kZero32:
    case SpecialRegister::kZero64:
      return 0;
  }
  return 0;
}

std::uint64_t Launcher::ValueOf(const FixedRow& fixed, std::uint32_t lane, const Dim3& block_index) const {
  switch (fixed.kind) {
    case FixedRow::Kind::kValue:
      return fixed.value;
    case FixedRow::Kind::kGlobalAddress:
      return config_.global_addresses[fixed.global] + fixed.value;
    case FixedRow::Kind::kDynamicShared:
      return dynamic_shared_ + fixed.value;
    case FixedRow::Kind::kSpecial:
      return SpecialOf(fixed.special, lane, block_index);
  }
  return 0;
}

template <class U>
void Launcher::FillRow(const FixedRow& fixed, const Dim3& block_index) {
  U* const row = block_.Row<U>(fixed.row);
  if (fixed.kind != FixedRow::Kind::kSpecial || ChangesWithBlock(fixed)) {
    std::fill_n(row, block_.lane_count, static_cast<U>(ValueOf(fixed, 0, block_index)));
    return;
  }
  for (std::uint32_t lane = 0; lane < block_.lane_count; ++lane)
    row[lane] = static_cast<U>(ValueOf(fixed, lane, block_index));
}

void Launcher::FillRows(bool first, const Dim3& block_index) {
  for (const FixedRow& fixed : program_.fixed_rows) {
    if (!first && !ChangesWithBlock(fixed)) continue;
    switch (fixed.bytes) {
      case 1:
        FillRow<std::uint8_t>(fixed, block_index);
        break;
      case 2:
        FillRow<std::uint16_t>(fixed, block_index);
        break;
      case 4:
        FillRow<std::uint32_t>(fixed, block_index);
        break;
      default:
        FillRow<std::uint64_t>(fixed, block_index);
        break;
    }
  }
}

std::string Launcher::Describe(const BlockRunner& runner, const Dim3& block_index) const {
  const std::uint32_t lane = block_.fault_lane;
  const Dim3& size = config_.block;
  std::string what(runner.reason());
  if (block_.fault == LaunchStatus::kIllegalAddress)
    what = fmt::format("no access to address {:#x}", block_.fault_address);
  if (block_.fault == LaunchStatus::kMisalignedAddress)
    what = fmt::format("misaligned access to address {:#x}", block_.fault_address);
  return fmt::format("kernel {}, PTX line {}, block ({}, {}, {}), thread ({}, {}, {}): {}", kernel_.name, runner.line(),
                     block_index.x, block_index.y, block_index.z, lane % size.x, lane / size.x % size.y,
                     lane / size.x / size.y, what);
}

LaunchResult Launcher::Run() {
  LaunchResult result;
  if (!Allocate())
    return {LaunchStatus::kInvalidConfig, fmt::format("kernel {}: no host memory for its registers", kernel_.name), 0};
  BlockRunner runner(program_, block_, config_.abort);
  bool first = true;
  for (Dim3 index{0, 0, 0}; index.z < config_.grid.z; ++index.z) {
    for (index.y = 0; index.y < config_.grid.y; ++index.y) {
      for (index.x = 0; index.x < config_.grid.x; ++index.x) {
        FillRows(first, index);
        first = false;
        runner.Run();
        result.lane_instructions = runner.lane_instructions();
        if (block_.fault == LaunchStatus::kDone) continue;
        result.status = block_.fault;
        result.detail = Describe(runner, index);
        return result;
      }
    }
  }
  return result;
}

}  // namespace

std::string_view ToString(LaunchStatus status) {
  switch (status) {
    case LaunchStatus::kDone:
      return "done";
    case LaunchStatus::kIllegalAddress:
      return "illegal address";
    case LaunchStatus::kMisalignedAddress:
      return "misaligned address";
    case LaunchStatus::kIllegalInstruction:
      return "illegal instruction";
    case LaunchStatus::kTrap:
      return "trap";
    case LaunchStatus::kAborted:
      return "aborted";
    case LaunchStatus::kInvalidConfig:
      return "invalid configuration";
  }
  return "unknown";
}

LaunchResult Launch(const Module& module, const Kernel& kernel, const LaunchConfig& config, DeviceMemory& memory) {
  if (const std::optional<std::string> reason = Refuse(module, kernel, config)) {
    return {LaunchStatus::kInvalidConfig, fmt::format("kernel {} cannot be launched with {}", kernel.name, *reason), 0};
  }
  return Launcher(kernel, config, memory).Run();
}

}  // namespace softgpu::ptx
