#include "tests/plugins/softgpu/forbidden_calls.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>

namespace softgpu_test {

namespace {

std::atomic<pid_t> forbidden_tid{0};

[[maybe_unused]] void Check() {
  const pid_t tid = forbidden_tid.load(std::memory_order_relaxed);
  if (tid == 0 || tid != gettid()) return;
  constexpr char kText[] = "the restore thread used the heap or a lock\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kText, sizeof(kText) - 1);
  _exit(82);
}

}  // namespace

void ForbidHeapAndLocks(pid_t tid) { forbidden_tid.store(tid); }

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
bool CanForbidHeapAndLocks() { return false; }
#else
bool CanForbidHeapAndLocks() { return true; }
#endif

}  // namespace softgpu_test

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// In place of the C library's, in all of this program and the libraries it opens.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void __libc_free(void*);
// By its version, since new programs are not to link it.
int TheCLibrarysLock(pthread_mutex_t*);
__asm__(".symver TheCLibrarysLock, __pthread_mutex_lock@GLIBC_2.2.5");

void* malloc(std::size_t bytes) {
  softgpu_test::Check();
  return __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) {
  softgpu_test::Check();
  return __libc_calloc(count, bytes);
}
void* realloc(void* memory, std::size_t bytes) {
  softgpu_test::Check();
  return __libc_realloc(memory, bytes);
}
void free(void* memory) {
  softgpu_test::Check();
  __libc_free(memory);
}
int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept {
  softgpu_test::Check();
  return TheCLibrarysLock(mutex);
}
}
#endif
