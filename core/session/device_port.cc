#include "core/session/device_port.h"

namespace gpumig {

std::string_view GpuStateName(GpuState state) {
  switch (state) {
    case GpuState::kNone:
      return "none";
    case GpuState::kRunning:
      return "running";
    case GpuState::kLocked:
      return "locked";
    case GpuState::kCheckpointed:
      return "checkpointed";
    case GpuState::kFailed:
      return "failed";
  }
  return "failed";
}

}  // namespace gpumig
