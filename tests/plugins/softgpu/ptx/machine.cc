#include "tests/plugins/softgpu/ptx/machine.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

namespace softgpu::ptx {

std::uint64_t TestMemory::Allocate(std::size_t bytes, bool writable) {
  Allocation& allocation = allocations_.emplace_back();
  allocation.base = next_;
  allocation.bytes = bytes;
  allocation.writable = writable;
  allocation.memory = std::make_unique<std::byte[]>(bytes);
  next_ += (bytes + 4095) / 4096 * 4096 + 4096;
  return allocation.base;
}

Segment TestMemory::Find(std::uint64_t address) {
  for (const Allocation& allocation : allocations_) {
    if (address >= allocation.base && address - allocation.base < allocation.bytes) {
      return {allocation.base, allocation.bytes, allocation.memory.get(), allocation.writable};
    }
  }
  return {};
}

std::byte* TestMemory::At(std::uint64_t address) {
  const Segment segment = Find(address);
  return segment.host + (address - segment.base);
}

Machine::Machine(std::string_view ptx_text) {
  std::variant<std::unique_ptr<Module>, ParseError> parsed = Module::Parse(ptx_text);
  if (const auto* error = std::get_if<ParseError>(&parsed)) {
    std::fprintf(stderr, "line %d: %s\n", error->line, error->message.c_str());
    std::abort();
  }
  module = std::move(std::get<std::unique_ptr<Module>>(parsed));
  for (const GlobalVariable& global : module->globals()) {
    global_addresses.push_back(memory.Allocate(global.bytes));
    std::memcpy(memory.At(global_addresses.back()), global.initial.data(), global.initial.size());
  }
  for (std::size_t i = 0; i < module->globals().size(); ++i) {
    for (const Relocation& relocation : module->globals()[i].relocations) {
      const std::uint64_t value = global_addresses[relocation.global] + static_cast<std::uint64_t>(relocation.addend);
      std::memcpy(memory.At(global_addresses[i]) + relocation.offset, &value, sizeof(value));
    }
  }
}

LaunchResult Machine::Run(std::string_view kernel, Dim3 grid, Dim3 block, const Arguments& arguments,
                          std::uint32_t dynamic_shared_bytes, const std::atomic<bool>* abort) {
  const Kernel* found = module->FindKernel(kernel);
  if (found == nullptr) return {LaunchStatus::kInvalidConfig, "there is no such kernel", 0};
  return Launch(*module, *found, {grid, block, dynamic_shared_bytes, arguments.bytes(), global_addresses, abort},
                memory);
}

std::string KernelPath(const std::string& name) { return std::string(SOFTGPU_KERNELS) + "/" + name; }

std::string ReadKernels(const std::string& name) {
  std::ifstream file(KernelPath(name), std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

}  // namespace softgpu::ptx
