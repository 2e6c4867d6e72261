// CodecPolicy: which way of encoding brings a chunk to the other end soonest, by what a probe of it promises and by the
// speeds measured so far of link, cores and encoders.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <optional>

#include "core/image/chunk_probe.h"

namespace gpumig {

// Encoding, sending and decoding run side by side, on so many cores at each end, so the slowest of them counts:
//
//   time = max((plain / encoder's rate + encoded * a sender's CPU time per byte) / cores, encoded / link's rate)
//
// Decoders are at least as fast as their encoders and are not asked. Raw is taken unless another way is 3 % faster. All
// figures come from what is learned; until then from a machine like that of bench/README.md.
//
// Times are the caller's, so a test can have its own. Thread safety: any number of threads.
class CodecPolicy {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  struct Limits {
    unsigned cores = 1;
    // The link, until it is measured.
    double assumed_bytes_per_second = 1.25e9;
    // What the link is held to, or what lies behind it.
    double most_bytes_per_second = std::numeric_limits<double>::infinity();
  };

  explicit CodecPolicy(const Limits& limits) : limits_(limits) {}

  CodecMethod Choose(const ChunkProbe& probe) const;

  // `encoded_bytes` became of `plain_bytes`, which looked like `probe`, in `duration`.
  void LearnEncoding(CodecMethod method, const ChunkProbe& probe, std::size_t plain_bytes, std::size_t encoded_bytes,
                     std::chrono::nanoseconds duration);

  // Around everything that goes through the link. Its rate is taken over the time in which something was on its way.
  // `arrived`: all of `bytes` did; `cpu`: what it took the caller of processor time.
  void SendBegins(std::uint64_t bytes, TimePoint now);
  void SendEnds(std::uint64_t bytes, bool arrived, TimePoint now, std::chrono::nanoseconds cpu);

  // As assumed until enough was sent, and never above what it is held to.
  double link_bytes_per_second() const;
  // None: too little was sent.
  std::optional<double> measured_link_bytes_per_second() const;
  std::array<std::uint64_t, kCodecMethodCount> chunks_by_method() const;

 private:
  // zstd is the faster the more it finds, byte planes the fewer of them are coded, so each has a rate for each range of
  // ratios or number of planes.
  static constexpr std::size_t kClasses = 5;
  struct Learned {
    std::optional<double> bytes_per_second;
    double ratio_factor = 1;  // what comes out, as a share of what was estimated
  };

  static std::size_t ClassOf(CodecMethod method, const CodecEstimate& estimate);
  static double UsualRate(CodecMethod method, std::size_t its_class);
  bool KnowsLink() const;
  double LinkRate() const;
  double TimeOf(CodecMethod method, const ChunkProbe& probe, double link) const;

  const Limits limits_;
  mutable std::mutex mutex_;  // guards what follows
  std::array<std::array<Learned, kClasses>, kCodecMethodCount> learned_;
  double machine_factor_ = 1;  // encoders here, as a multiple of the usual
  int encodings_ = 0;
  std::array<std::uint64_t, kCodecMethodCount> chunks_by_method_{};

  int sends_under_way_ = 0;
  std::uint64_t bytes_under_way_ = 0;
  TimePoint busy_since_{};  // up to where busy_seconds_ counts, while something is under way
  double busy_seconds_ = 0;
  double sent_bytes_ = 0;
  double sent_in_all_ = 0;
  std::uint64_t sends_ = 0;
  double sender_seconds_per_byte_ = 0;
};

}  // namespace gpumig
