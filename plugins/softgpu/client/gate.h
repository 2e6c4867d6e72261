// Every driver call passes it; a lock closes it and waits until nobody is inside.
//
// One word and futexes, so that a thread stopped at any instruction holds nothing that another needs. Works across
// CRIU: waiting threads come back from the system call and look at the word again.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

namespace softgpu {

// Waits while `word` is `value`, at most until `deadline` (CLOCK_MONOTONIC; null: no limit). May return early.
inline void FutexWait(const std::atomic<std::uint32_t>& word, std::uint32_t value, const timespec* deadline) {
  syscall(SYS_futex, &word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, value, deadline, nullptr, FUTEX_BITSET_MATCH_ANY);
}
inline void FutexWakeAll(const std::atomic<std::uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 0x7fffffff, nullptr, nullptr, 0);
}
inline bool HasPassed(const timespec* deadline) {
  if (deadline == nullptr) return false;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec > deadline->tv_sec || (now.tv_sec == deadline->tv_sec && now.tv_nsec >= deadline->tv_nsec);
}

class Gate {
 public:
  // Inside while it lives. Waits while the gate is closed.
  class Pass {
   public:
    explicit Pass(Gate& gate) : gate_(gate) { gate_.Enter(); }
    ~Pass() { gate_.Leave(); }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;

   private:
    Gate& gate_;
  };

  // False: somebody was still inside at `deadline`, and the gate is open again.
  bool Close(const timespec* deadline) {
    word_.fetch_or(kClosed);
    for (;;) {
      const std::uint32_t word = word_.load();
      if ((word & ~kClosed) == 0) return true;
      if (HasPassed(deadline)) {
        Open();
        return false;
      }
      FutexWait(word_, word, deadline);
    }
  }

  void Open() {
    word_.fetch_and(~kClosed);
    FutexWakeAll(word_);
  }

 private:
  static constexpr std::uint32_t kClosed = 0x80000000U;

  void Enter() {
    std::uint32_t word = word_.load();
    for (;;) {
      if ((word & kClosed) != 0) {
        FutexWait(word_, word, nullptr);
        word = word_.load();
      } else if (word_.compare_exchange_weak(word, word + 1)) {
        return;
      }
    }
  }
  void Leave() {
    if (word_.fetch_sub(1) == (kClosed | 1)) FutexWakeAll(word_);
  }

  std::atomic<std::uint32_t> word_{0};  // How many are inside; the top bit: closed.
};

}  // namespace softgpu
