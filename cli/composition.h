// Composition: opens the real CRIU and the real GPU driver for the commands and the agent.
#pragma once

#include <memory>

#include "core/base/result.h"
#include "core/session/checkpoint.h"

namespace gpumig {

// Where the software GPU's driver library is: beside our program in a build tree, else where it was installed. Empty:
// nowhere.
std::filesystem::path SoftGpuLibrary();

// The program that holds the GPU driver for us. Empty: not installed; then we hold it ourselves.
std::filesystem::path GpuHelperProgram();

// Everything a session needs. Errors: kUnsupported, no CRIU; kPermissionDenied, not root. A host without a GPU driver
// is none.
struct Composition {
  SessionContext context;
  std::unique_ptr<DevicePort> device;  // that context.device borrows
  std::string why_no_gpu;              // what was tried, where no driver came up
};
// An agent offers its hold on the driver to the commands of its host, at gpu-helper.sock in its runtime directory.
enum class DriverHold { kShared, kOffered };
Result<Composition> Compose(const Site& site, DriverHold hold = DriverHold::kShared);

Result<void> CheckRoot();

}  // namespace gpumig
