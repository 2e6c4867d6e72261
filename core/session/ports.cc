#include "core/session/ports.h"

namespace gpumig {

std::string_view Name(MigrationPhase phase) {
  switch (phase) {
    case MigrationPhase::kCapturing:
      return "capturing";
    case MigrationPhase::kSending:
      return "sending";
    case MigrationPhase::kPreparing:
      return "preparing";
    case MigrationPhase::kCommitting:
      return "committing";
    case MigrationPhase::kInDoubt:
      return "in doubt";
    case MigrationPhase::kCleaning:
      return "cleaning";
    case MigrationPhase::kResuming:
      return "resuming";
    case MigrationPhase::kEnded:
      return "ended";
  }
  return "?";
}

}  // namespace gpumig
