// A job of three processes on four GPUs: a parent that works on two, and two children with one each, which add up what
// they find at each step. Its log depends on its arguments alone: not on time, not on the devices.
//
// The second child sees one GPU only (CUDA_VISIBLE_DEVICES), as launchers of real jobs arrange it.
//
// usage: ranks --steps N --step-ms N --device-mib N --log FILE
// Ends with 0 and "done", or with 1 and a message when a call fails or a byte is not what it was.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/workloads/gpu.h"

extern const char kTrainerPtx[];

namespace {

constexpr unsigned kBlocks = 64;

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
  std::exit(1);
}

struct Options {
  std::uint64_t steps = 100;
  std::uint64_t step_ms = 0;
  std::uint64_t device_mib = 4;
  const char* log = nullptr;
};

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--log") {
      options.log = argv[i + 1];
    } else if (name == "--steps") {
      options.steps = std::strtoull(argv[i + 1], nullptr, 10);
    } else if (name == "--step-ms") {
      options.step_ms = std::strtoull(argv[i + 1], nullptr, 10);
    } else if (name == "--device-mib") {
      options.device_mib = std::strtoull(argv[i + 1], nullptr, 10);
    } else {
      Die("unknown option " + name);
    }
  }
  if (options.log == nullptr) Die("needs --log");
  return options;
}

// A buffer on one GPU: each step must find it as it was left, and changes it by what the other ranks found.
class Shard {
 public:
  Shard(int ordinal, std::uint64_t mib, std::uint64_t seed) : gpu_(kTrainerPtx, ordinal), words_((mib << 20) / 8) {
    sum_ = gpu_.Allocate(8);
    buffer_ = gpu_.Allocate(words_ * 8);
    gpu_.Launch("fill_pattern", words_, kBlocks, buffer_, words_, seed);
    left_ = Checksum();
  }

  std::uint64_t Step(std::uint64_t step, std::uint64_t salt) {
    gpu_.Select();
    if (Checksum() != left_) Die("device memory is not what it was");
    const std::uint64_t from = step % 512, stride = 512;
    gpu_.Launch("mutate_pattern", words_ / stride, kBlocks, buffer_, words_, from, stride, salt);
    return left_ = Checksum();
  }

 private:
  std::uint64_t Checksum() {
    gpu_.Zero(sum_, 8);
    gpu_.Launch("checksum64", words_, kBlocks, buffer_, words_, sum_);
    std::uint64_t sum = 0;
    gpu_.Read(&sum, sum_, sizeof(sum));
    return sum;
  }

  Gpu gpu_;
  std::uint64_t words_;
  Gpu::Pointer buffer_ = 0;
  Gpu::Pointer sum_ = 0;
  std::uint64_t left_ = 0;
};

bool ReadAll(int fd, std::uint64_t* value) {
  ssize_t got = 0;
  do {
    got = read(fd, value, sizeof(*value));
  } while (got < 0 && errno == EINTR);
  return got == static_cast<ssize_t>(sizeof(*value));
}

bool WriteAll(int fd, const void* data, std::size_t bytes) {
  ssize_t put = 0;
  do {
    put = write(fd, data, bytes);
  } while (put < 0 && errno == EINTR);
  return put == static_cast<ssize_t>(bytes);
}

// Gets a salt per step, gives back a sum; ends when the parent has.
class Child {
 public:
  // Forks. REQUIRES: the driver was not called yet
  Child(int ordinal, const char* visible, std::uint64_t mib, std::uint64_t seed) {
    int to[2];
    int from[2];
    if (pipe(to) != 0 || pipe(from) != 0) Die(std::string("pipe: ") + std::strerror(errno));
    pid_ = fork();
    if (pid_ < 0) Die(std::string("fork: ") + std::strerror(errno));
    if (pid_ == 0) {
      close(to[1]);
      close(from[0]);
      if (visible != nullptr) setenv("CUDA_VISIBLE_DEVICES", visible, 1);
      Shard shard(ordinal, mib, seed);
      std::uint64_t salt = 0;
      for (std::uint64_t step = 1; ReadAll(to[0], &salt); ++step) {
        const std::uint64_t sum = shard.Step(step, salt);
        if (!WriteAll(from[1], &sum, sizeof(sum))) _exit(1);
      }
      _exit(0);
    }
    close(to[0]);
    close(from[1]);
    to_ = to[1];
    from_ = from[0];
  }

  void Ask(std::uint64_t salt) {
    if (!WriteAll(to_, &salt, sizeof(salt))) Die("a child is gone");
  }
  std::uint64_t Answer() {
    std::uint64_t sum = 0;
    if (!ReadAll(from_, &sum)) Die("a child is gone");
    return sum;
  }
  void Finish() {
    close(to_);
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) Die("a child failed");
  }

 private:
  pid_t pid_ = -1;
  int to_ = -1;
  int from_ = -1;
};

std::uint64_t Mix(std::uint64_t x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9ull;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  std::signal(SIGPIPE, SIG_IGN);
  Child second(2, nullptr, options.device_mib, 3);
  Child third(0, "3", options.device_mib, 4);
  Shard first(0, options.device_mib, 1);
  Shard other(1, options.device_mib, 2);
  const int log = open(options.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) Die(std::string("open the log: ") + std::strerror(errno));
  std::uint64_t trace = 1;
  for (std::uint64_t step = 1; step <= options.steps; ++step) {
    const std::uint64_t salt = Mix(trace ^ step);
    second.Ask(salt);
    third.Ask(salt);
    for (const std::uint64_t sum : {first.Step(step, salt), other.Step(step, salt), second.Answer(), third.Answer()}) {
      trace = Mix(trace ^ sum);
    }
    char line[64];
    const int length = std::snprintf(line, sizeof(line), "%llu %016llx\n", static_cast<unsigned long long>(step),
                                     static_cast<unsigned long long>(trace));
    if (!WriteAll(log, line, static_cast<std::size_t>(length))) Die("write the log");
    if (options.step_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(options.step_ms));
  }
  third.Finish();  // First: it holds the other one's pipe open.
  second.Finish();
  std::puts("done");
  return 0;
}
