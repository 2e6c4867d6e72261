// A device without a driver: memory, and kernels that run on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/softgpu/ptx/launch.h"
#include "plugins/softgpu/ptx/module.h"

namespace softgpu::ptx {

// Every allocation has a page of its own, with nothing mapped between one and the next.
class TestMemory : public DeviceMemory {
 public:
  static constexpr std::uint64_t kFirst = 0x7F0000000000;

  std::uint64_t Allocate(std::size_t bytes, bool writable = true);
  Segment Find(std::uint64_t address) override;
  std::byte* At(std::uint64_t address);

 private:
  struct Allocation {
    std::uint64_t base = 0;
    std::size_t bytes = 0;
    bool writable = true;
    std::unique_ptr<std::byte[]> memory;
  };
  std::uint64_t next_ = kFirst;
  std::vector<Allocation> allocations_;
};

// Packs kernel arguments, each aligned to its size.
class Arguments {
 public:
  template <class... T>
  explicit Arguments(const T&... values) {
    (Add(values), ...);
  }
  template <class T>
  void Add(const T& value) {
    bytes_.resize((bytes_.size() + alignof(T) - 1) / alignof(T) * alignof(T));
    const auto* const begin = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), begin, begin + sizeof(T));
  }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

class Machine {
 public:
  // Aborts the test program if the text is refused, saying why.
  explicit Machine(std::string_view ptx_text);

  template <class T>
  std::uint64_t Upload(const std::vector<T>& values) {
    const std::uint64_t address = memory.Allocate(values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(memory.At(address), values.data(), values.size() * sizeof(T));
    return address;
  }
  template <class T>
  std::vector<T> Download(std::uint64_t address, std::size_t count) {
    std::vector<T> values(count);
    std::memcpy(values.data(), memory.At(address), count * sizeof(T));
    return values;
  }
  LaunchResult Run(std::string_view kernel, Dim3 grid, Dim3 block, const Arguments& arguments,
                   std::uint32_t dynamic_shared_bytes = 0, const std::atomic<bool>* abort = nullptr);

  TestMemory memory;
  std::unique_ptr<Module> module;
  std::vector<std::uint64_t> global_addresses;
};

// Of a file in tests/workloads/kernels, and its text.
std::string KernelPath(const std::string& name);
std::string ReadKernels(const std::string& name);

}  // namespace softgpu::ptx
