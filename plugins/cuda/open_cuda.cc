#include "plugins/cuda/open_cuda.h"

#include <cstdlib>
#include <vector>

#include "device_state/device_session.h"
#include "plugins/cuda/cuda_backend.h"

namespace gpumig {
namespace {

constexpr const char* kSystemLibrary = "libcuda.so.1";
constexpr const char* kEnvironmentName = "GPUMIG_LIBCUDA";

struct Candidate {
  std::string library;
  std::string origin;
};

std::vector<Candidate> Candidates(const CudaOptions& options) {
  if (!options.library.empty()) return {{options.library, "as asked"}};
  const char* named = std::getenv(kEnvironmentName);
  if (named != nullptr && named[0] != '\0') return {{named, kEnvironmentName}};
  std::vector<Candidate> candidates = {{kSystemLibrary, "the system's"}};
  if (!options.software_library.empty()) candidates.push_back({options.software_library, "the software GPU"});
  return candidates;
}

}  // namespace

Result<std::unique_ptr<DevicePort>> OpenCudaDevicePort(const CudaOptions& options) {
  std::string reasons;
  for (const Candidate& candidate : Candidates(options)) {
    Result<CudaLibrary> library = CudaLibrary::Open(candidate.library);
    if (library) {
      auto backend = std::make_unique<CudaBackend>(std::move(*library), NvmlMemory::Open());
      return std::unique_ptr<DevicePort>(std::make_unique<DeviceSession>(std::move(backend)));
    }
    reasons += fmt::format("{}{} ({}): {}", reasons.empty() ? "" : "; ", candidate.library, candidate.origin,
                           library.error().message());
  }
  return MakeError(ErrorCode::kUnavailable, "no CUDA driver: {}", reasons)
      .WithNextStep("install NVIDIA's driver (570 or newer; 580 to change GPUs), or start the software GPU's daemon");
}

}  // namespace gpumig
