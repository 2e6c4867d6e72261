// A job for CRIU: runs on the software GPU, in a session of its own, and appends a hash of its device state per step to
// a file. Arguments: the file, the number of steps, milliseconds to rest between them.
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "tests/plugins/softgpu/job.h"

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const int log = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const int nothing = open("/dev/null", O_RDWR);
  if (log < 0 || nothing < 0) return 3;
  for (const int fd : {0, 1, 2}) dup2(nothing, fd);
  close(nothing);
  setsid();
  softgpu_test::Driver driver = softgpu_test::OpenSoftDriver();
  softgpu_test::Job job(driver);
  const int steps = std::atoi(argv[2]);
  const long rest_ms = std::atol(argv[3]);
  for (int step = 0; step < steps; ++step) {
    char line[64];
    const int length =
        std::snprintf(line, sizeof(line), "%d %016llx\n", step, static_cast<unsigned long long>(job.Step()));
    if (write(log, line, static_cast<std::size_t>(length)) != length) return 4;
    const timespec rest{rest_ms / 1000, rest_ms % 1000 * 1000000};
    nanosleep(&rest, nullptr);
  }
  return 0;
}
