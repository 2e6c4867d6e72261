// UniqueFd: owns one file descriptor.
#pragma once

#include <utility>

#include "core/base/result.h"

namespace gpumig {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int Release() { return std::exchange(fd_, -1); }
  void Reset();

  // Closes, and reports what close() says: a network file system may tell only then that a write failed.
  Result<void> Close();

 private:
  int fd_ = -1;
};

// Both close-on-exec.
struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};
Result<Pipe> MakePipe();

struct SocketPair {
  UniqueFd ours;
  UniqueFd theirs;
};
// `type` is SOCK_STREAM or SOCK_SEQPACKET; AF_UNIX, close-on-exec.
Result<SocketPair> MakeSocketPair(int type);

}  // namespace gpumig
