#include "plugins/cuda/open_cuda.h"

#include <cstdlib>
#include <vector>

#include "device_state/device_session.h"
#include "plugins/cuda/cuda_backend.h"
#include "plugins/cuda/helper_backend.h"
#include "plugins/cuda/helper_protocol.h"

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

Result<std::unique_ptr<DeviceBackend>> OpenCudaBackend(const CudaOptions& options) {
  std::string reasons;
  for (const Candidate& candidate : Candidates(options)) {
    Result<CudaLibrary> library = CudaLibrary::Open(candidate.library);
    if (library) {
      return std::unique_ptr<DeviceBackend>(std::make_unique<CudaBackend>(std::move(*library), NvmlMemory::Open()));
    }
    reasons += fmt::format("{}{} ({}): {}", reasons.empty() ? "" : "; ", candidate.library, candidate.origin,
                           library.error().message());
  }
  return MakeError(ErrorCode::kUnavailable, "no CUDA driver: {}", reasons)
      .WithNextStep("install NVIDIA's driver (570 or newer; 580 to change GPUs), or start the software GPU's daemon");
}

Result<std::unique_ptr<DevicePort>> OpenCudaDevicePort(const CudaOptions& options) {
  std::unique_ptr<DeviceBackend> backend;
  if (options.helper.empty()) {
    backend = GPUMIG_TRY(OpenCudaBackend(options));
  } else {
    std::vector<std::string> arguments;
    if (!options.library.empty()) arguments.insert(arguments.end(), {"--library", options.library});
    if (!options.software_library.empty()) {
      arguments.insert(arguments.end(), {"--software-library", options.software_library});
    }
    const std::string identity = HelperIdentity(options.library, options.software_library);
    if (!options.offer_helper.empty()) arguments.insert(arguments.end(), {"--listen", options.offer_helper});
    backend = GPUMIG_TRY(HelperBackend::Start(options.helper, std::move(arguments), {options.use_helper, identity}));
  }
  return std::unique_ptr<DevicePort>(std::make_unique<DeviceSession>(std::move(backend)));
}

}  // namespace gpumig
