// A CPU-only workload that cannot be restored half: a parent and a child that count together over a pair of pipes, a
// worker thread that must keep up, shared memory, and a log opened once in append mode.
//
// usage: counter LOG [TICK-MS] [MIB]     appends "1\n", "2\n", ... to LOG; ends with code 9 when anything is not as it
// was
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int kWrong = 9;

struct Shared {
  std::atomic<std::uint64_t> child_count;
};

// Answers every number with the number it has counted itself.
[[noreturn]] void Child(int requests, int answers, Shared* shared) {
  std::uint64_t count = 0;
  std::uint64_t request = 0;
  while (read(requests, &request, sizeof(request)) == sizeof(request)) {
    ++count;
    shared->child_count = count;
    if (write(answers, &count, sizeof(count)) != sizeof(count)) _exit(kWrong);
  }
  _exit(0);
}

std::uint64_t Mix(std::uint64_t value) {
  value ^= value >> 33;
  value *= 0xff51afd7ed558ccdULL;
  value ^= value >> 33;
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const auto tick = std::chrono::milliseconds(argc > 2 ? std::atoi(argv[2]) : 5);
  const std::size_t words = static_cast<std::size_t>(argc > 3 ? std::atoi(argv[3]) : 1) << 17;
  const int log = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0600);
  auto* shared =
      static_cast<Shared*>(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  int requests[2];
  int answers[2];
  if (log < 0 || shared == MAP_FAILED || pipe(requests) != 0 || pipe(answers) != 0) return 2;
  const pid_t child = fork();
  if (child == 0) {
    close(requests[1]);
    close(answers[0]);
    Child(requests[0], answers[1], shared);
  }
  close(requests[0]);
  close(answers[1]);

  std::vector<std::uint64_t> memory(words);
  for (std::size_t i = 0; i < words; ++i) memory[i] = Mix(i + 1);
  std::atomic<std::uint64_t> asked = 0;
  std::atomic<std::uint64_t> worked = 0;
  std::thread([&] {
    while (true) {
      const std::uint64_t wanted = asked.load();
      asked.wait(worked.load());
      if (wanted > worked.load()) {
        worked = wanted;
        worked.notify_all();
      }
    }
  }).detach();

  for (std::uint64_t count = 1;; ++count) {
    asked = count;
    asked.notify_all();
    while (worked.load() < count) worked.wait(count - 1);
    std::uint64_t answer = 0;
    if (write(requests[1], &count, sizeof(count)) != sizeof(count) ||
        read(answers[0], &answer, sizeof(answer)) != sizeof(answer) || answer != count ||
        shared->child_count != count) {
      return kWrong;
    }
    const std::size_t index = Mix(count) % words;
    if (memory[index] != Mix(index + 1)) return kWrong;
    const std::string line = std::to_string(count) + "\n";
    if (write(log, line.data(), line.size()) != static_cast<ssize_t>(line.size())) return kWrong;
    std::this_thread::sleep_for(tick);
  }
}
