#include "cli/composition.h"

#include <unistd.h>

#include <filesystem>

#include "device_state/no_device_port.h"
#include "plugins/cuda/open_cuda.h"

namespace gpumig {

std::filesystem::path SoftGpuLibrary() {
  std::error_code error;
  const std::filesystem::path here = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  for (const char* candidate :
       {"../plugins/softgpu/lib/libcuda.so.1", "../" GPUMIG_LIBDIR "/gpumig/softgpu/libcuda.so.1"}) {
    const std::filesystem::path library = (here / candidate).lexically_normal();
    if (access(library.c_str(), R_OK) == 0) return library;
  }
  return {};
}

std::filesystem::path GpuHelperProgram() {
  std::error_code error;
  const std::filesystem::path here = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  for (const char* candidate : {"gpumig-gpu-helper", "../libexec/gpumig/gpumig-gpu-helper"}) {
    const std::filesystem::path program = (here / candidate).lexically_normal();
    if (access(program.c_str(), X_OK) == 0) return program;
  }
  return {};
}

Result<void> CheckRoot() {
  if (geteuid() == 0) return Ok();
  return MakeError(ErrorCode::kPermissionDenied, "needs root: freezing, dumping and restoring other processes takes it")
      .WithNextStep("run gpumig as root, or with sudo");
}

Result<Composition> Compose(const Site& site, DriverHold hold) {
  GPUMIG_TRY(CheckRoot());
  Composition composition;
  composition.context.site = site;
  composition.context.criu = GPUMIG_TRY(FindCriu());
  CudaOptions options;
  options.helper = GpuHelperProgram();
  options.software_library = SoftGpuLibrary();
  (hold == DriverHold::kOffered ? options.offer_helper : options.use_helper) =
      site.runtime_directory / "gpu-helper.sock";
  Result<std::unique_ptr<DevicePort>> cuda = OpenCudaDevicePort(options);
  if (cuda) {
    composition.device = std::move(*cuda);
  } else if (cuda.error().code() == ErrorCode::kUnavailable) {
    composition.device = std::make_unique<NoDevicePort>(cuda.error().message());
    composition.why_no_gpu = cuda.error().message();
  } else {
    return cuda.error();
  }
  composition.context.device = composition.device.get();
  return composition;
}

}  // namespace gpumig
