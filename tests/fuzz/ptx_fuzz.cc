// PTX from hostile hands: any text is refused, or becomes kernels that run, for a while, on memory that is theirs.
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <variant>
#include <vector>

#include "plugins/softgpu/ptx/launch.h"
#include "plugins/softgpu/ptx/module.h"

namespace softgpu::ptx {
namespace {

constexpr std::uint64_t kAddress = 0x10000;

// 256 bytes, of which sanitizers see every neighbour.
class SmallMemory : public DeviceMemory {
 public:
  Segment Find(std::uint64_t address) override {
    if (address < kAddress || address - kAddress >= kBytes) return {};
    return {kAddress, kBytes, memory_.get()};
  }

 private:
  static constexpr std::size_t kBytes = 256;
  std::unique_ptr<std::byte[]> memory_ = std::make_unique<std::byte[]>(kBytes);
};

void Try(std::string_view text) {
  const std::variant<std::unique_ptr<Module>, ParseError> parsed = Module::Parse(text);
  if (const auto* error = std::get_if<ParseError>(&parsed)) {
    if (error->message.empty()) std::abort();
    return;
  }
  const Module& module = *std::get<std::unique_ptr<Module>>(parsed);
  const std::atomic<bool> abort = true;  // Seen after the first few thousand instructions.
  const std::vector<std::uint64_t> globals(module.globals().size(), kAddress + 64);
  for (const Kernel& kernel : module.kernels()) {
    if (kernel.parameter_bytes > 4096 || kernel.local_bytes > 4096 || kernel.static_shared_bytes > 65536) continue;
    std::vector<std::byte> parameters(kernel.parameter_bytes);
    for (std::size_t i = 0; i + 2 < parameters.size(); i += 8)
      parameters[i + 2] = std::byte{1};  // kAddress, where it is a pointer.
    SmallMemory memory;
    const LaunchConfig config{{2, 1, 1}, {37, 1, 1}, 64, parameters, globals, &abort};
    const LaunchResult result = Launch(module, kernel, config, memory);
    if ((result.status == LaunchStatus::kDone) != result.detail.empty()) std::abort();
  }
}

}  // namespace
}  // namespace softgpu::ptx

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  softgpu::ptx::Try(std::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
