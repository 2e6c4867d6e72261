// OpenCudaDevicePort(): the GPUs of this host, by whichever CUDA driver library comes up.
#pragma once

#include <memory>
#include <string>

#include "core/base/result.h"
#include "core/session/device_port.h"
#include "device_state/device_backend.h"

namespace gpumig {

struct CudaOptions {
  std::string helper{};            // program that is to hold the driver, see HelperBackend; empty: this process does
  std::string offer_helper{};      // unix socket at which our helper serves others, too; empty: it does not
  std::string use_helper{};        // such a socket of somebody else's, preferred to a helper of our own; empty: none
  std::string library{};           // where given, this one and no other
  std::string software_library{};  // the software GPU's, as the last choice; empty: none
};

// Tries, in this order: options.library; the environment's GPUMIG_LIBCUDA; where neither is given, the system's
// libcuda.so.1, then options.software_library. The first that comes up with at least one GPU is taken; cuInit() is
// called once, here, since each further process that calls it waits for seconds. Source: ai-dynamo/dynamo pull request
// 7773.
//
// Errors: kUnavailable, none came up: the message lists each that was tried, with its reason. A host that needs none
// then uses NoDevicePort.
Result<std::unique_ptr<DevicePort>> OpenCudaDevicePort(const CudaOptions& options);

// The single steps of it; in this process, whatever options.helper says.
Result<std::unique_ptr<DeviceBackend>> OpenCudaBackend(const CudaOptions& options);

}  // namespace gpumig
