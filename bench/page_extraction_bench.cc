// How fast pages of a stopped process are read and written past CRIU. The bound is BM_Memcpy: one copy of as many bytes
// within one process, by as many threads.
#include <benchmark/benchmark.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "bench/bench_bytes.h"
#include "core/base/check.h"
#include "core/host/memory_map.h"

namespace gpumig {
namespace {

constexpr std::size_t kBytes = std::size_t{256} << 20;
constexpr std::size_t kPieceBytes = std::size_t{4} << 20;

std::byte* NewMemory() {
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  GPUMIG_CHECK(memory != MAP_FAILED);
  std::memset(memory, 1, kBytes);
  return static_cast<std::byte*>(memory);
}

// A child with memory of its own, stopped.
class StoppedProcess {
 public:
  StoppedProcess() : memory_(NewMemory()), pages_(1, {{reinterpret_cast<std::uintptr_t>(memory_), kBytes}}) {
    pid_ = fork();
    GPUMIG_CHECK(pid_ >= 0);
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);  // else it would hold a reader of our output for ever
      std::memset(memory_, 2, kBytes);
      raise(SIGSTOP);
      _exit(0);
    }
    int status = 0;
    GPUMIG_CHECK(waitpid(pid_, &status, WUNTRACED) == pid_ && WIFSTOPPED(status));
  }
  StoppedProcess(const StoppedProcess&) = delete;
  StoppedProcess& operator=(const StoppedProcess&) = delete;
  ~StoppedProcess() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    munmap(memory_, kBytes);
  }
  pid_t pid() const { return pid_; }
  const ProcessPages& pages() const { return pages_; }

 private:
  std::byte* memory_;
  ProcessPages pages_;
  pid_t pid_ = 0;
};

StoppedProcess& Process() {
  static auto* process = new StoppedProcess();
  return *process;
}

// Every thread takes each n-th piece.
template <typename Work>
void ForEachPiece(benchmark::State& state, const Work& work) {
  std::vector<std::byte> buffer = RandomBytes(kPieceBytes, /*seed=*/1);
  const auto step = kPieceBytes * static_cast<std::size_t>(state.threads());
  for (auto _ : state) {
    for (std::size_t at = kPieceBytes * static_cast<std::size_t>(state.thread_index()); at < kBytes; at += step)
      work(at, std::span(buffer));
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kBytes) / state.threads());
}

void BM_ReadPages(benchmark::State& state) {
  const StoppedProcess& process = Process();
  ForEachPiece(state, [&](std::size_t at, std::span<std::byte> buffer) {
    GPUMIG_CHECK(process.pages().Read(process.pid(), at, buffer).has_value());
  });
}
BENCHMARK(BM_ReadPages)->Threads(1)->Threads(2)->UseRealTime()->Unit(benchmark::kMillisecond);

void BM_WritePages(benchmark::State& state) {
  const StoppedProcess& process = Process();
  ForEachPiece(state, [&](std::size_t at, std::span<std::byte> buffer) {
    GPUMIG_CHECK(process.pages().Write(process.pid(), at, buffer).has_value());
  });
}
BENCHMARK(BM_WritePages)->Threads(1)->Threads(2)->UseRealTime()->Unit(benchmark::kMillisecond);

void BM_Memcpy(benchmark::State& state) {
  static std::byte* const memory = NewMemory();
  ForEachPiece(state, [&](std::size_t at, std::span<std::byte> buffer) {
    std::memcpy(buffer.data(), memory + at, buffer.size());
    benchmark::ClobberMemory();
  });
}
BENCHMARK(BM_Memcpy)->Threads(1)->Threads(2)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace gpumig
