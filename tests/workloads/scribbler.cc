// A workload that writes to its memory all the time, in all the ways there are, and notices any byte that is older or
// newer than it should be.
//
// usage: scribbler LOG MIB   appends "1\n", "2\n", ... to LOG, one line per round over MIB MiB; ends with code 9, and
//                            what was wrong as the last line, when a page is not as it was left
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kWords = kPage / 8;
constexpr std::size_t kBlockPages = 64;
constexpr int kWrong = 9;

int log_fd = -1;

std::uint64_t Mix(std::uint64_t value) {
  value ^= value >> 33;
  value *= 0xff51afd7ed558ccdULL;
  value ^= value >> 33;
  value *= 0xc4ceb9fe1a85ec53ULL;
  return value ^ (value >> 29);
}

// Blocks of pages, each a mapping of its own. What version each page has is kept beside them; version 0 is all zeros.
class Pages {
 public:
  explicit Pages(std::size_t count) : versions_(count) {
    for (std::size_t i = 0; i < count; i += kBlockPages) blocks_.push_back(Map());
  }

  std::size_t count() const { return versions_.size(); }

  void Check(std::size_t page) const {
    const std::uint64_t version = versions_[page];
    const std::uint64_t* words = At(page);
    for (std::size_t i = 0; i < kWords; ++i) {
      const std::uint64_t expected = version == 0 ? 0 : Mix((page << 24) ^ (version << 44) ^ i);
      if (words[i] == expected) continue;
      dprintf(log_fd, "page %zu at %p, word %zu: version %llu is not what is there\n", page,
              static_cast<const void*>(words), i, static_cast<unsigned long long>(version));
      _exit(kWrong);
    }
  }
  void Write(std::size_t page) {
    const std::uint64_t version = ++versions_[page];
    std::uint64_t* words = At(page);
    for (std::size_t i = 0; i < kWords; ++i) words[i] = Mix((page << 24) ^ (version << 44) ^ i);
  }
  // Of the block that `page` is in: what is left is zeros.
  void Drop(std::size_t page) {
    madvise(blocks_[page / kBlockPages], kBlockPages * kPage, MADV_DONTNEED);
    Forget(page);
  }
  void MapAnew(std::size_t page) {
    munmap(blocks_[page / kBlockPages], kBlockPages * kPage);
    blocks_[page / kBlockPages] = Map();
    Forget(page);
  }
  // Two blocks change places: what is at an address was written elsewhere.
  void Swap(std::size_t page, std::size_t other) {
    std::uint64_t*& a = blocks_[page / kBlockPages];
    std::uint64_t*& b = blocks_[other / kBlockPages];
    if (&a == &b) return;
    std::uint64_t* const between = Map();
    Move(a, between);
    Move(b, a);
    Move(between, b);
    // Each block is at the other's address now, so the pointers stay with their contents.
    std::swap(a, b);
  }

 private:
  static std::uint64_t* Map() {
    void* memory = mmap(nullptr, kBlockPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) _exit(8);
    return static_cast<std::uint64_t*>(memory);
  }
  static void Move(void* from, void* to) {
    if (mremap(from, kBlockPages * kPage, kBlockPages * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED)
      _exit(8);
  }
  std::uint64_t* At(std::size_t page) const { return blocks_[page / kBlockPages] + (page % kBlockPages) * kWords; }
  void Forget(std::size_t page) {
    for (std::size_t i = page / kBlockPages * kBlockPages, end = i + kBlockPages; i < end && i < count(); ++i)
      versions_[i] = 0;
  }

  std::vector<std::uint64_t> versions_;
  std::vector<std::uint64_t*> blocks_;
};

// A child that shares all pages for a while, so that writes break them apart.
void Fork(const Pages& pages) {
  const pid_t child = fork();
  if (child == 0) {
    for (std::size_t page = 0; page < pages.count(); page += 7) pages.Check(page);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) _exit(kWrong);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  log_fd = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log_fd < 0) return 2;
  Pages pages(static_cast<std::size_t>(std::atoi(argv[2])) * 256);
  std::uint64_t random = 1;
  const auto next = [&] { return Mix(random++) % pages.count(); };
  for (std::size_t page = 0; page < pages.count(); ++page) pages.Write(page);
  for (unsigned long long round = 1;; ++round) {
    for (int i = 0; i < 64; ++i) {
      const std::size_t page = next();
      pages.Check(page);
      pages.Write(page);
    }
    if (round % 5 == 0) pages.Drop(next());
    if (round % 7 == 0) pages.MapAnew(next());
    if (round % 9 == 0) pages.Swap(next(), next());
    if (round % 50 == 0) Fork(pages);
    if (round % 20 == 0) {
      for (std::size_t page = 0; page < pages.count(); ++page) pages.Check(page);
    }
    dprintf(log_fd, "%llu\n", round);
    usleep(2000);
  }
}
