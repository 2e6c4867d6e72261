// The process that scripts/bench moves around: memory of a kind, and a log of when it ran, so that whoever reads the
// log sees from outside for how long it stood still and when it ran at full speed again.
//
// usage: bench_job LOG MIB KIND [DIRTY-PERCENT [TOUCHES]]
//        bench_job touch MIB
//
// Appends the time (CLOCK_REALTIME in ns, for CRIU restores into a time namespace of its own) to LOG about every
// millisecond, once its memory is filled. KIND: random; bf16, as weights of a network are distributed; half-zero, where
// every second 64 KiB were written with zeros; sparse, where one page in 16 was written at all. Each second it writes
// to DIRTY-PERCENT of its pages, and before each line it reads a word of TOUCHES pages, everywhere: so pages that are
// not there yet slow the lines down.
//
// `touch` gets MIB of fresh memory and gives it back: a host that takes idle memory from its guests has to give it
// first, and that time would be counted as that of whoever is measured next.
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kBlock = 64 << 10;

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ULL + 1) {}
  std::uint64_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

 private:
  std::uint64_t state_;
};

// 65536 values of a normal distribution around 0 with deviation 0.02, each as likely as any other, as bf16.
std::vector<std::uint16_t> WeightTable() {
  std::vector<std::uint16_t> table(1 << 16);
  Random random(7);
  constexpr double kTwoPi = 6.283185307179586;
  for (std::uint16_t& value : table) {
    const double a = static_cast<double>((random.Next() >> 11) + 1) / 9007199254740993.0;
    const double b = static_cast<double>(random.Next() >> 11) / 9007199254740992.0;
    const auto weight = static_cast<float>(0.02 * std::sqrt(-2 * std::log(a)) * std::cos(kTwoPi * b));
    std::uint32_t bits = 0;
    std::memcpy(&bits, &weight, sizeof(bits));
    value = static_cast<std::uint16_t>(bits >> 16);
  }
  return table;
}

void FillRandom(char* memory, std::size_t bytes, Random& random) {
  auto* words = reinterpret_cast<std::uint64_t*>(memory);
  for (std::size_t i = 0; i < bytes / 8; ++i) words[i] = random.Next();
}

void FillWeights(char* memory, std::size_t bytes, Random& random) {
  const std::vector<std::uint16_t> table = WeightTable();
  auto* values = reinterpret_cast<std::uint16_t*>(memory);
  for (std::size_t i = 0; i < bytes / 2; i += 4) {
    const std::uint64_t word = random.Next();
    for (unsigned part = 0; part < 4; ++part) values[i + part] = table[(word >> (16 * part)) & 0xffff];
  }
}

bool Fill(char* memory, std::size_t bytes, std::string_view kind) {
  Random random(1);
  if (kind == "random") {
    FillRandom(memory, bytes, random);
  } else if (kind == "bf16") {
    FillWeights(memory, bytes, random);
  } else if (kind == "half-zero") {
    for (std::size_t at = 0; at < bytes; at += kBlock) {
      if (at / kBlock % 2 == 0) {
        FillRandom(memory + at, kBlock, random);
      } else {
        std::memset(memory + at, 0, kBlock);
      }
    }
  } else if (kind == "sparse") {
    for (std::size_t at = 0; at < bytes; at += 16 * kPage) FillRandom(memory + at, kPage, random);
  } else {
    return false;
  }
  return true;
}

char* NewMemory(std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("bench_job: mmap");
    std::exit(1);
  }
  return static_cast<char*>(memory);
}

int Touch(std::size_t bytes) {
  char* memory = NewMemory(bytes);
  madvise(memory, bytes, MADV_HUGEPAGE);
  for (std::size_t at = 0; at < bytes; at += kPage) memory[at] = 1;
  return 0;
}

[[noreturn]] void Tick(int log, char* memory, std::size_t bytes, double dirty_percent, std::uint64_t touches) {
  const std::size_t pages = bytes / kPage;
  const double dirty_each_tick = static_cast<double>(pages) * dirty_percent / 100 / 1000;
  double dirty_due = 0;
  volatile std::uint64_t sum = 0;
  Random random(2);
  while (true) {
    for (dirty_due += dirty_each_tick; dirty_due >= 1; dirty_due -= 1) {
      char* page = memory + random.Next() % pages * kPage;
      const std::uint64_t value = random.Next();
      std::memcpy(page + 128, &value, sizeof(value));
    }
    for (std::uint64_t i = 0; i < touches; ++i) {
      sum = sum + static_cast<unsigned char>(memory[random.Next() % pages * kPage]);
    }
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    char line[32];
    const int length =
        std::snprintf(line, sizeof(line), "%lld%09ld\n", static_cast<long long>(now.tv_sec), now.tv_nsec);
    if (write(log, line, static_cast<std::size_t>(length)) != length) std::exit(9);
    const timespec pause{0, 1'000'000};
    nanosleep(&pause, nullptr);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string_view(argv[1]) == "touch") return Touch(std::strtoull(argv[2], nullptr, 10) << 20);
  if (argc < 4) return 2;
  const std::size_t bytes = std::strtoull(argv[2], nullptr, 10) << 20;
  const int log = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (log < 0 || bytes == 0) return 2;
  char* memory = NewMemory(bytes);
  if (!Fill(memory, bytes, argv[3])) return 2;
  Tick(log, memory, bytes, argc > 4 ? std::strtod(argv[4], nullptr) : 0,
       argc > 5 ? std::strtoull(argv[5], nullptr, 10) : 0);
}
