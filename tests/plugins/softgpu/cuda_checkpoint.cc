// A program with the command line of NVIDIA's cuda-checkpoint, over the driver API alone, for tests of programs that
// call it.
//
// usage: cuda-checkpoint --get-state --pid N
//        cuda-checkpoint --get-restore-tid --pid N
//        cuda-checkpoint --action lock|checkpoint|restore|unlock --pid N [--timeout MS]
//        cuda-checkpoint --toggle --pid N
// Source for words, exit codes and what goes to stdout: what CRIU's cuda_plugin.c reads.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "plugins/cuda_abi/cuda_functions.h"

namespace {

using namespace cuda_abi;  // The interface's own names.

constexpr char kUsage[] =
    "cuda-checkpoint: --get-state | --get-restore-tid | --action lock|checkpoint|restore|unlock | --toggle, --pid N, "
    "--timeout MS\n";

template <typename Function>
Function* Find(void* library, const char* name) {
  void* address = dlsym(library, name);
  if (address == nullptr) {
    std::fprintf(stderr, "libcuda.so.1 has no %s\n", name);
    std::exit(1);
  }
  return reinterpret_cast<Function*>(address);
}

struct Options {
  std::string action;  // Or "state", "tid", "toggle".
  int pid = 0;
  unsigned timeout_ms = 0;
};

bool Parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--get-state") options.action = "state";
    if (name == "--get-restore-tid") options.action = "tid";
    if (name == "--toggle") options.action = "toggle";
    if (name == "--action") options.action = value;
    if (name == "--pid") options.pid = std::atoi(value);
    if (name == "--timeout") options.timeout_ms = static_cast<unsigned>(std::strtoul(value, nullptr, 10));
  }
  return options.pid > 0 && !options.action.empty();
}

const char* StateName(CUprocessState state) {
  switch (state) {
    case CU_PROCESS_STATE_RUNNING:
      return "running";
    case CU_PROCESS_STATE_LOCKED:
      return "locked";
    case CU_PROCESS_STATE_CHECKPOINTED:
      return "checkpointed";
    default:
      return "failed";
  }
}

CUresult Act(void* library, const Options& options, const std::string& action) {
  if (action == "lock") {
    CUcheckpointLockArgs args{};
    args.timeoutMs = options.timeout_ms;
    return Find<fn::cuCheckpointProcessLock>(library, "cuCheckpointProcessLock")(options.pid, &args);
  }
  if (action == "checkpoint") {
    return Find<fn::cuCheckpointProcessCheckpoint>(library, "cuCheckpointProcessCheckpoint")(options.pid, nullptr);
  }
  if (action == "restore") {
    return Find<fn::cuCheckpointProcessRestore>(library, "cuCheckpointProcessRestore")(options.pid, nullptr);
  }
  if (action == "unlock") {
    return Find<fn::cuCheckpointProcessUnlock>(library, "cuCheckpointProcessUnlock")(options.pid, nullptr);
  }
  return CUDA_ERROR_INVALID_VALUE;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!Parse(argc, argv, options)) {
    std::fputs(kUsage, stdout);
    return argc > 1 && (std::strcmp(argv[1], "-h") == 0 || std::strcmp(argv[1], "--help") == 0) ? 0 : 1;
  }
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  CUprocessState state{};
  CUresult result = CUDA_SUCCESS;
  if (options.action == "state" || options.action == "toggle") {
    result = Find<fn::cuCheckpointProcessGetState>(library, "cuCheckpointProcessGetState")(options.pid, &state);
  }
  if (result == CUDA_SUCCESS && options.action == "state") {
    std::printf("%s\n", StateName(state));
  } else if (options.action == "tid") {
    int tid = 0;
    result = Find<fn::cuCheckpointProcessGetRestoreThreadId>(library, "cuCheckpointProcessGetRestoreThreadId")(
        options.pid, &tid);
    if (result == CUDA_SUCCESS) std::printf("%d\n", tid);
  } else if (result == CUDA_SUCCESS && options.action == "toggle") {
    const bool is_up = state == CU_PROCESS_STATE_RUNNING;
    result = Act(library, options, is_up ? "lock" : "restore");
    if (result == CUDA_SUCCESS) result = Act(library, options, is_up ? "checkpoint" : "unlock");
  } else if (result == CUDA_SUCCESS) {
    result = Act(library, options, options.action);
  }
  if (result == CUDA_SUCCESS) return 0;
  const char* name = nullptr;
  Find<fn::cuGetErrorName>(library, "cuGetErrorName")(result, &name);
  std::printf("%s on process %d: %s\n", options.action.c_str(), options.pid, name != nullptr ? name : "unknown error");
  return 1;
}
