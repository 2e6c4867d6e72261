// Which of the two builds of the daemon runs.
#pragma once

namespace softgpu {

// In the baseline build, on a processor of level x86-64-v3, becomes the build for that, which lies beside it, and does
// not return. SOFTGPU_BUILD=baseline in the environment keeps it from that. Returns what is to be said about the build
// that runs on; in the other build, on a processor that cannot run it, ends the process with a message.
const char* ChooseBuild(char** argv);

}  // namespace softgpu
