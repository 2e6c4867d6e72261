// Session: modules, functions and launches.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "plugins/softgpu/daemon/session.h"

namespace softgpu {

using cuda_abi::CUresult;

namespace {

// As an H200 has them; the emulated chip is of compute capability 9.0.
constexpr std::uint32_t kDefaultSharedBytes = 48 * 1024;
constexpr std::uint32_t kMaxSharedBytes = 227 * 1024;
constexpr std::uint32_t kMaxBlock[3] = {1024, 1024, 64};
constexpr std::uint32_t kMaxGrid[3] = {0x7fffffff, 65535, 65535};

// A kernel's view of memory: finds the allocation, remembers the last.
class MapMemory : public ptx::DeviceMemory {
 public:
  explicit MapMemory(const std::vector<ptx::Segment>& map) : map_(map) {}

  ptx::Segment Find(std::uint64_t address) override {
    const auto next = std::upper_bound(map_.begin(), map_.end(), address,
                                       [](std::uint64_t value, const ptx::Segment& s) { return value < s.base; });
    if (next == map_.begin()) return {};
    const ptx::Segment& segment = *std::prev(next);
    return address - segment.base < segment.bytes ? segment : ptx::Segment{};
  }

 private:
  const std::vector<ptx::Segment>& map_;
};

CUresult ToResult(ptx::LaunchStatus status) {
  switch (status) {
    case ptx::LaunchStatus::kDone:
      return cuda_abi::CUDA_SUCCESS;
    case ptx::LaunchStatus::kIllegalAddress:
      return cuda_abi::CUDA_ERROR_ILLEGAL_ADDRESS;
    case ptx::LaunchStatus::kMisalignedAddress:
      return cuda_abi::CUDA_ERROR_MISALIGNED_ADDRESS;
    case ptx::LaunchStatus::kIllegalInstruction:
      return cuda_abi::CUDA_ERROR_ILLEGAL_INSTRUCTION;
    case ptx::LaunchStatus::kTrap:
      return cuda_abi::CUDA_ERROR_LAUNCH_FAILED;
    case ptx::LaunchStatus::kAborted:
      return cuda_abi::CUDA_ERROR_DEINITIALIZED;
    case ptx::LaunchStatus::kInvalidConfig:
      return cuda_abi::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  }
  return cuda_abi::CUDA_ERROR_UNKNOWN;
}

}  // namespace

void Session::Log(const std::string& line) {
  const int count = log_lines_.fetch_add(1) + 1;
  if (count > kMaxLogLines) return;
  std::fprintf(stderr, "softgpud: session %llu: %s%s\n", static_cast<unsigned long long>(number_), line.c_str(),
               count == kMaxLogLines ? " (no more of this session is printed)" : "");
}

// Gives the module's variables their places in one allocation and, unless their contents are restored later, fills
// them.
CUresult Session::PlaceVariables(Module& module, bool restore) {
  std::uint64_t bytes = 0;
  std::vector<std::uint64_t> offsets;
  for (const ptx::GlobalVariable& variable : module.code->globals()) {
    const std::uint64_t alignment = std::max<std::uint64_t>(variable.alignment, 16);
    bytes = (bytes + alignment - 1) / alignment * alignment;
    offsets.push_back(bytes);
    bytes += std::max<std::uint64_t>(variable.bytes, 1);
    if (bytes > kMaxSpanBytes) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (bytes == 0) return cuda_abi::CUDA_SUCCESS;
  if (!restore) {
    Arena& arena = *arenas_[contexts_[module.context].ordinal];
    Allocation allocation{0, bytes, module.context, /*is_module=*/true, false, false};
    const CUresult result = arena.Allocate(allocation);
    if (result != cuda_abi::CUDA_SUCCESS) return result;
    module.variables_base = allocation.base;
    map_.reset();
  }
  std::vector<AddressSpace::Piece> pieces;
  if (!space_.Locate(module.variables_base, bytes, /*write=*/true, pieces) || pieces.size() != 1) {
    return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  std::byte* host = pieces[0].host;
  for (const std::uint64_t offset : offsets) module.addresses.push_back(module.variables_base + offset);
  if (restore) return cuda_abi::CUDA_SUCCESS;
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    const ptx::GlobalVariable& variable = module.code->globals()[i];
    std::copy(variable.initial.begin(), variable.initial.end(), host + offsets[i]);
    for (const ptx::Relocation& relocation : variable.relocations) {
      if (relocation.global >= offsets.size() || relocation.offset + 8 > variable.bytes) continue;
      const std::uint64_t address = module.addresses[relocation.global] + static_cast<std::uint64_t>(relocation.addend);
      std::memcpy(host + offsets[i] + relocation.offset, &address, sizeof(address));
    }
  }
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::ModuleLoad(Id context, std::string text, Id& module) {
  auto parsed = ptx::Module::Parse(text);  // Takes its time, so not under the lock.
  if (const auto* error = std::get_if<ptx::ParseError>(&parsed)) {
    Log("PTX line " + std::to_string(error->line) + ": " + error->message);
    return cuda_abi::CUDA_ERROR_INVALID_PTX;
  }
  const std::lock_guard lock(mutex_);
  if (!contexts_.contains(context)) return cuda_abi::CUDA_ERROR_INVALID_CONTEXT;
  if (modules_.size() >= kMaxModules || module_bytes_ + text.size() > kMaxModuleBytes) {
    return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  Module loaded;
  loaded.context = context;
  loaded.text = std::move(text);
  loaded.code = std::get<std::unique_ptr<ptx::Module>>(std::move(parsed));
  const CUresult result = PlaceVariables(loaded, /*restore=*/false);
  if (result != cuda_abi::CUDA_SUCCESS) return result;
  module = NewId();
  module_bytes_ += loaded.text.size();
  modules_.emplace(module, std::move(loaded));
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::ModuleUnload(Id module) {
  Id context = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto found = modules_.find(module);
    if (found == modules_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
    context = found->second.context;
  }
  scheduler_.WaitContext(context);  // Its variables may be in use.
  const std::lock_guard lock(mutex_);
  const auto found = modules_.find(module);
  if (found == modules_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  if (found->second.variables_base != 0) {
    ArenaOf(found->second.variables_base)->Free(found->second.variables_base);
    map_.reset();
  }
  std::erase_if(functions_, [&](const auto& item) { return item.second.module == module; });
  module_bytes_ -= found->second.text.size();
  modules_.erase(found);
  return cuda_abi::CUDA_SUCCESS;
}

FunctionDescription Session::Describe(Id id, const Function& function) const {
  const ptx::Kernel& kernel = *function.kernel;
  FunctionDescription description;
  description.function = id;
  description.module = function.module;
  description.parameter_count = static_cast<std::uint32_t>(kernel.parameters.size());
  description.parameter_bytes = kernel.parameter_bytes;
  description.static_shared_bytes = kernel.static_shared_bytes;
  description.max_dynamic_shared_bytes = function.max_dynamic_shared_bytes;
  description.local_bytes = kernel.local_bytes;
  description.register_count = kernel.register_estimate;
  description.max_threads = kMaxBlock[0];
  for (const auto& bound : {kernel.required_ntid, kernel.max_ntid}) {
    if (!bound) continue;
    const std::uint64_t threads = std::uint64_t{(*bound)[0]} * (*bound)[1] * (*bound)[2];
    description.max_threads = static_cast<std::uint32_t>(std::min<std::uint64_t>(description.max_threads, threads));
  }
  return description;
}

CUresult Session::ModuleFunction(Id module, std::string_view name, FunctionDescription& function,
                                 std::vector<ParameterPlace>& places) {
  const std::lock_guard lock(mutex_);
  const auto found = modules_.find(module);
  if (found == modules_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  const ptx::Kernel* kernel = found->second.code->FindKernel(name);
  if (kernel == nullptr) return cuda_abi::CUDA_ERROR_NOT_FOUND;
  if (kernel->parameters.size() > kMaxParameters) return cuda_abi::CUDA_ERROR_NOT_SUPPORTED;
  auto known = std::find_if(functions_.begin(), functions_.end(),
                            [&](const auto& item) { return item.second.module == module && item.second.name == name; });
  if (known == functions_.end()) {
    if (functions_.size() >= kMaxFunctions) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
    const std::uint32_t room =
        kDefaultSharedBytes - std::min<std::uint32_t>(kDefaultSharedBytes, kernel->static_shared_bytes);
    known = functions_.emplace(NewId(), Function{module, std::string(name), kernel, room}).first;
  }
  for (const ptx::Parameter& parameter : kernel->parameters) places.push_back({parameter.offset, parameter.bytes});
  function = Describe(known->first, known->second);
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::ModuleGlobal(Id module, std::string_view name, std::uint64_t& address, std::uint64_t& bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = modules_.find(module);
  if (found == modules_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  const auto& globals = found->second.code->globals();
  const auto global = std::find_if(globals.begin(), globals.end(), [&](const auto& g) { return g.name == name; });
  if (global == globals.end()) return cuda_abi::CUDA_ERROR_NOT_FOUND;
  address = found->second.addresses[static_cast<std::size_t>(global - globals.begin())];
  bytes = global->bytes;
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::ModuleKernel(Id module, std::uint32_t index, std::uint32_t& count, std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto found = modules_.find(module);
  if (found == modules_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  const auto& kernels = found->second.code->kernels();
  count = static_cast<std::uint32_t>(kernels.size());
  if (index < kernels.size() && kernels[index].name.size() <= kMaxNameBytes) name = kernels[index].name;
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::FunctionInfo(Id function, FunctionDescription& info, std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto found = functions_.find(function);
  if (found == functions_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  info = Describe(function, found->second);
  name = found->second.name;
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::FunctionSet(Id function, std::uint32_t max_dynamic_shared_bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = functions_.find(function);
  if (found == functions_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  if (std::uint64_t{max_dynamic_shared_bytes} + found->second.kernel->static_shared_bytes > kMaxSharedBytes) {
    return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  }
  found->second.max_dynamic_shared_bytes = max_dynamic_shared_bytes;
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::CheckLaunch(const Function& function, const request::Launch& launch,
                              std::size_t parameter_bytes) const {
  const ptx::Kernel& kernel = *function.kernel;
  std::uint64_t threads = 1;
  for (std::size_t i = 0; i < 3; ++i) {
    if (launch.grid[i] == 0 || launch.grid[i] > kMaxGrid[i]) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    if (launch.block[i] == 0 || launch.block[i] > kMaxBlock[i]) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    if (kernel.required_ntid && launch.block[i] != (*kernel.required_ntid)[i]) {
      return cuda_abi::CUDA_ERROR_INVALID_VALUE;
    }
    threads *= launch.block[i];
  }
  if (threads > kMaxBlock[0]) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  if (threads > Describe(0, function).max_threads) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  if (launch.dynamic_shared_bytes > function.max_dynamic_shared_bytes) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  if (parameter_bytes < kernel.parameter_bytes) return cuda_abi::CUDA_ERROR_INVALID_VALUE;
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::RunKernel(const ptx::Module& code, const ptx::Kernel& kernel, const request::Launch& launch,
                            std::span<const std::byte> parameters, std::span<const std::uint64_t> addresses,
                            std::uint32_t ordinal) {
  const UseOfMemory use(*this);
  std::shared_ptr<const MemoryMap> map;
  {
    const std::lock_guard lock(mutex_);
    map = CurrentMap(ordinal);
  }
  MapMemory memory(map->segments);
  ptx::LaunchConfig config;
  config.grid = {launch.grid[0], launch.grid[1], launch.grid[2]};
  config.block = {launch.block[0], launch.block[1], launch.block[2]};
  config.dynamic_shared_bytes = launch.dynamic_shared_bytes;
  config.parameters = parameters;
  config.global_addresses = addresses;
  config.abort = &abort_;
  const ptx::LaunchResult result = ptx::Launch(code, kernel, config, memory);
  if (result.status != ptx::LaunchStatus::kDone && result.status != ptx::LaunchStatus::kAborted) {
    Log(std::string(ptx::ToString(result.status)) + ": " + result.detail);
  }
  return ToResult(result.status);
}

CUresult Session::Launch(Id context, const request::Launch& launch, std::span<const std::byte> parameters) {
  Scheduler::Work work;
  Id stream = 0;
  if (const CUresult result = StreamOf(context, launch.stream, stream); result != cuda_abi::CUDA_SUCCESS) return result;
  const auto stream_info = scheduler_.FindStream(stream);
  if (!stream_info) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
  {
    const std::lock_guard lock(mutex_);
    const auto function = functions_.find(launch.function);
    if (function == functions_.end()) return cuda_abi::CUDA_ERROR_INVALID_HANDLE;
    const CUresult result = CheckLaunch(function->second, launch, parameters.size());
    if (result != cuda_abi::CUDA_SUCCESS) return result;
    const Module& module = modules_.at(function->second.module);
    const auto owner = contexts_.find(stream_info->context);
    if (owner == contexts_.end()) return cuda_abi::CUDA_ERROR_INVALID_CONTEXT;
    work = [this, launch, code = module.code, kernel = function->second.kernel, ordinal = owner->second.ordinal,
            addresses = module.addresses, packed = std::vector<std::byte>(parameters.begin(), parameters.end())] {
      return RunKernel(*code, *kernel, launch, packed, addresses, ordinal);
    };
  }
  return AddWork(context, launch.stream, /*wait=*/false, std::move(work));
}

}  // namespace softgpu
