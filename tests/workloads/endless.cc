// A job whose kernel never ends: its GPU never comes to rest, while its host part counts on.
//
// usage: endless LOG     appends "1\n", "2\n", ... to LOG
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>

#include "tests/workloads/gpu.h"

namespace {

// Written by hand: it reads its argument for ever, so that no compiler or interpreter may leave the loop out.
constexpr char kPtx[] = R"(
.version 7.5
.target sm_80
.address_size 64
.visible .entry spin(.param .u64 spin_flag)
{
  .reg .pred %p<2>;
  .reg .b32 %r<2>;
  .reg .b64 %rd<3>;
  ld.param.u64 %rd1, [spin_flag];
  cvta.to.global.u64 %rd2, %rd1;
again:
  ld.volatile.global.u32 %r1, [%rd2];
  setp.eq.s32 %p1, %r1, 0;
  @%p1 bra again;
  ret;
}
)";

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const int log = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (log < 0) return 2;
  Gpu gpu(kPtx);
  const Gpu::Pointer flag = gpu.Allocate(8);
  gpu.Zero(flag, 8);
  gpu.Launch("spin", 1, 1, flag);
  for (int count = 1;; ++count) {
    const std::string line = std::to_string(count) + "\n";
    if (write(log, line.data(), line.size()) < 0) return 3;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}
