// A workload with memory of every kind that a process may have, which checks all of it over and over.
//
// usage: memories LOG        appends "1\n", "2\n", ... to LOG, one line per check; ends with code 9, and the kind's
// name as
//                            the last line, when a byte is not as it was
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr int kWrong = 9;

int log_fd = -1;

[[noreturn]] void Wrong(const char* kind) {
  dprintf(log_fd, "%s\n", kind);
  _exit(kWrong);
}

std::uint64_t Word(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t value = (seed << 40) + index;
  value ^= value >> 33;
  value *= 0xff51afd7ed558ccdULL;
  value ^= value >> 33;
  value *= 0xc4ceb9fe1a85ec53ULL;
  return value ^ (value >> 29);
}

void Fill(void* memory, std::size_t bytes, std::uint64_t seed) {
  auto* words = static_cast<std::uint64_t*>(memory);
  for (std::size_t i = 0; i < bytes / 8; ++i) words[i] = Word(seed, i);
}

bool Holds(const void* memory, std::size_t bytes, std::uint64_t seed) {
  const auto* words = static_cast<const std::uint64_t*>(memory);
  for (std::size_t i = 0; i < bytes / 8; ++i) {
    if (words[i] != Word(seed, i)) return false;
  }
  return true;
}

bool IsZero(const void* memory, std::size_t bytes) {
  const auto* words = static_cast<const std::uint64_t*>(memory);
  for (std::size_t i = 0; i < bytes / 8; ++i) {
    if (words[i] != 0) return false;
  }
  return true;
}

char* Map(std::size_t bytes, int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1, void* at = nullptr) {
  void* memory = mmap(at, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (memory == MAP_FAILED) _exit(2);
  return static_cast<char*>(memory);
}

struct Check {
  const char* kind;
  std::function<bool()> holds;
};

std::vector<Check> MakeMemories(const char* own_program, bool with_hugetlb) {
  std::vector<Check> checks;
  const auto add = [&](const char* kind, std::function<bool()> holds) { checks.push_back({kind, std::move(holds)}); };

  char* plain = Map(8 * kMiB);
  Fill(plain, 8 * kMiB, 1);
  add("plain", [=] { return Holds(plain, 8 * kMiB, 1); });

  char* reserve = Map(12 * kMiB);
  char* huge = reserve + (2 * kMiB - reinterpret_cast<std::uintptr_t>(reserve) % (2 * kMiB)) % (2 * kMiB);
  madvise(huge, 8 * kMiB, MADV_HUGEPAGE);
  Fill(huge, 8 * kMiB, 2);
  add("huge pages", [=] { return Holds(huge, 8 * kMiB, 2); });

  // Most pages untouched, some alone, and one run that is long enough to travel by itself.
  char* sparse = Map(64 * kMiB, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  for (std::size_t page = 0; page < 4000; page += 33) Fill(sparse + page * kPage, kPage, 100 + page);
  Fill(sparse + 40 * kMiB, 200 * 1024, 3);
  add("sparse", [=] {
    for (std::size_t page = 0; page < 4000; page += 33) {
      if (!Holds(sparse + page * kPage, kPage, 100 + page) || !IsZero(sparse + (page + 1) * kPage, kPage)) return false;
    }
    return Holds(sparse + 40 * kMiB, 200 * 1024, 3) && IsZero(sparse + 50 * kMiB, kMiB);
  });

  // Side by side, with different rights: their pages are one run, and only some of them may be written from outside.
  char* side_by_side = Map(5 * kMiB);
  Fill(side_by_side, 5 * kMiB, 4);
  mprotect(side_by_side + kMiB, kMiB, PROT_READ);
  mprotect(side_by_side + 3 * kMiB, kMiB, PROT_NONE);
  add("side by side", [=] {
    mprotect(side_by_side + 3 * kMiB, kMiB, PROT_READ);
    const bool holds = Holds(side_by_side, 5 * kMiB, 4);
    mprotect(side_by_side + 3 * kMiB, kMiB, PROT_NONE);
    return holds;
  });

  const int program = open(own_program, O_RDONLY);
  char* file = Map(16 * kPage, MAP_PRIVATE, program);
  std::string original(file, 16 * kPage);
  Fill(file + 4 * kPage, 8 * kPage, 5);
  add("private file pages",
      [=] { return Holds(file + 4 * kPage, 8 * kPage, 5) && std::memcmp(file, original.data(), 4 * kPage) == 0; });
  close(program);

  char* shared = Map(kMiB, MAP_SHARED | MAP_ANONYMOUS);
  Fill(shared, kMiB, 6);
  add("shared", [=] { return Holds(shared, kMiB, 6); });

  const int memory_file = memfd_create("memories", 0);
  if (memory_file < 0 || ftruncate(memory_file, kMiB) != 0) _exit(2);
  char* of_file = Map(kMiB, MAP_SHARED, memory_file);
  char* copy_of_file = Map(kMiB, MAP_PRIVATE, memory_file);
  Fill(of_file, kMiB, 7);
  Fill(copy_of_file, kMiB / 2, 8);
  add("memfd", [=] {
    return Holds(of_file, kMiB, 7) && Holds(copy_of_file, kMiB / 2, 8) &&
           std::memcmp(of_file + kMiB / 2, copy_of_file + kMiB / 2, kMiB / 2) == 0;
  });

  char* locked = Map(kMiB);
  Fill(locked, kMiB, 9);
  mlock(locked, kMiB);
  add("locked", [=] { return Holds(locked, kMiB, 9); });

  char* dropped = Map(4 * kMiB);
  Fill(dropped, 4 * kMiB, 10);
  madvise(dropped + kMiB, 2 * kMiB, MADV_DONTNEED);
  add("dropped", [=] {
    const auto* last = reinterpret_cast<const std::uint64_t*>(dropped + 3 * kMiB);
    return Holds(dropped, kMiB, 10) && IsZero(dropped + kMiB, 2 * kMiB) && *last == Word(10, 3 * kMiB / 8);
  });

  auto* heap = static_cast<char*>(sbrk(3 * kMiB));
  heap += kPage - reinterpret_cast<std::uintptr_t>(heap) % kPage;
  Fill(heap, 2 * kMiB, 11);
  add("heap", [=] { return Holds(heap, 2 * kMiB, 11); });

  if (with_hugetlb) {
    char* pool = Map(4 * kMiB, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB);
    char* shared_pool = Map(4 * kMiB, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB);
    Fill(pool, 4 * kMiB, 12);
    Fill(shared_pool, 4 * kMiB, 13);
    add("hugetlb", [=] { return Holds(pool, 4 * kMiB, 12) && Holds(shared_pool, 4 * kMiB, 13); });
  }
  return checks;
}

// A thread whose stack is deep, so that its thread-local memory is part of one long run with it.
std::atomic<int> deep_requests{0};
std::atomic<int> deep_answers{0};
thread_local std::uint64_t own = 77;
void DeepThread() {
  volatile char room[kMiB];
  for (std::size_t i = 0; i < kMiB; ++i) room[i] = static_cast<char>(i * 7);
  for (int request = 1;; ++request) {
    while (deep_requests.load() < request) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    for (std::size_t i = 0; i < kMiB; ++i) {
      if (room[i] != static_cast<char>(i * 7)) Wrong("stack");
    }
    if (own != 77 || sched_getcpu() >= static_cast<int>(std::thread::hardware_concurrency())) Wrong("thread memory");
    deep_answers = request;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  log_fd = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (log_fd < 0) return 2;
  // A child that shares most of this with its parent, and has written to some.
  // The guards keep it a mapping of its own in both: only then are its pages shared again after a restore.
  char* inherited = Map(8 * kMiB + 2 * kPage) + kPage;
  mprotect(inherited - kPage, kPage, PROT_NONE);
  mprotect(inherited + 8 * kMiB, kPage, PROT_NONE);
  Fill(inherited, 8 * kMiB, 20);
  const pid_t child = fork();
  if (child == 0) {
    Fill(inherited, kMiB, 21);
    while (getppid() != 1) {
      if (!Holds(inherited, kMiB, 21)) Wrong("written by the child");
      const auto* rest = reinterpret_cast<const std::uint64_t*>(inherited + kMiB);
      for (std::size_t i = 0; i < 7 * kMiB / 8; ++i) {
        if (rest[i] != Word(20, kMiB / 8 + i)) Wrong("inherited by the child");
      }
      usleep(2000);
    }
    _exit(0);
  }
  const std::vector<Check> checks = MakeMemories(argv[0], argc > 2 && std::strcmp(argv[2], "hugetlb") == 0);
  std::thread(DeepThread).detach();

  for (int count = 1;; ++count) {
    for (const Check& check : checks) {
      if (!check.holds()) Wrong(check.kind);
    }
    if (!Holds(inherited, 8 * kMiB, 20)) Wrong("inherited");
    deep_requests = count;
    while (deep_answers.load() < count) usleep(500);
    if (waitpid(child, nullptr, WNOHANG) != 0) Wrong("the child ended");
    dprintf(log_fd, "%d\n", count);
    usleep(2000);
  }
}
