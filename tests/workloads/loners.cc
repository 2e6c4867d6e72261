// A job of two processes, parent and child, that both use GPU 0 and have nothing to do with each other: when one is
// killed, the other goes on.
//
// usage: loners LOG MIB     each counts on the device, beside MIB MiB of device memory, and appends what it reads there
// ("1\n", "2\n", ...) to LOG, the child to LOG.child
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <thread>

#include "tests/workloads/gpu.h"

namespace {

constexpr char kPtx[] = R"(
.version 7.5
.target sm_80
.address_size 64
.visible .entry count(.param .u64 count_at)
{
  .reg .pred %p<2>;
  .reg .b32 %r<2>;
  .reg .b64 %rd<4>;
  mov.u32 %r1, %tid.x;
  setp.ne.u32 %p1, %r1, 0;
  @%p1 ret;
  ld.param.u64 %rd1, [count_at];
  cvta.to.global.u64 %rd2, %rd1;
  ld.global.u64 %rd3, [%rd2];
  add.s64 %rd3, %rd3, 1;
  st.global.u64 [%rd2], %rd3;
  ret;
}
)";

int Count(const std::string& path, std::size_t mib) {
  const int log = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (log < 0) return 2;
  Gpu gpu(kPtx);
  const Gpu::Pointer at = gpu.Allocate(mib << 20);
  gpu.Zero(at, mib << 20);
  for (;;) {
    gpu.Launch("count", 1, 1, at);
    std::uint64_t count = 0;
    gpu.Read(&count, at, sizeof(count));
    const std::string line = std::to_string(count) + "\n";
    if (write(log, line.data(), line.size()) < 0) return 3;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::string path = argv[1];
  const std::size_t mib = std::strtoull(argv[2], nullptr, 10);
  std::signal(SIGCHLD, SIG_IGN);
  const pid_t child = fork();
  if (child < 0) return 2;
  return Count(child == 0 ? path + ".child" : path, mib);
}
