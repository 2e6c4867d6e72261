// ParallelFor: work on many equal pieces of an image, shared out among threads, with progress and a way to stop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stop_token>

#include "core/base/result.h"

namespace gpumig {

// Called by the thread that called us, a few times a second and once at the end; bytes_done never falls.
using ProgressFn = std::function<void(std::uint64_t bytes_done, std::uint64_t bytes_total)>;

struct ParallelOptions {
  std::size_t workers = 1;  // REQUIRES: > 0
  std::stop_token stop;
  ProgressFn progress;  // may be empty
};

// Calls work(i) for each i of [0, count) once, from several threads at once. Every thread has a `work` of its own, got
// from `make_worker` in that thread, so buffers can be kept from one piece to the next. work(i) gives the bytes that
// piece i adds to the progress. Errors: the first of any piece, after which no piece is begun; kCancelled, `stop` was
// requested before all were done.
using PieceWork = std::function<Result<std::uint64_t>(std::size_t index)>;
Result<void> ParallelFor(std::size_t count, std::uint64_t bytes_total, const ParallelOptions& options,
                         const std::function<PieceWork()>& make_worker);

}  // namespace gpumig
