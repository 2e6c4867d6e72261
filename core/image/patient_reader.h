// PatientReader: reads that may never come back, as those of a dead network file system do, and a wait that does.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "core/base/result.h"

namespace gpumig {

// Runs reads in threads of its own. Nothing can end a thread that the kernel holds in a read, so one that hangs is left
// to itself when this goes, and whatever its read uses must belong to the read.
//
// Thread safety: Read() from any number of threads at once.
class PatientReader {
 public:
  using Bytes = std::vector<std::byte>;

  explicit PatientReader(std::size_t thread_count);
  PatientReader(const PatientReader&) = delete;
  PatientReader& operator=(const PatientReader&) = delete;
  ~PatientReader();

  // What `read` gives. Errors: kDeadlineExceeded, it did not within `limit`, and may go on for ever.
  Result<Bytes> Read(std::function<Result<Bytes>()> read, std::chrono::milliseconds limit);

 private:
  struct Shared;

  std::shared_ptr<Shared> shared_;  // with the threads, which may outlive us
  std::vector<std::thread> threads_;
};

}  // namespace gpumig
