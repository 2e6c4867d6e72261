#include "core/image/codec_policy.h"

#include <algorithm>
#include <bit>

#include "core/base/check.h"

namespace gpumig {
namespace {

constexpr double kLeastGain = 0.03;
// How much the newest figure counts.
constexpr double kNewShare = 1.0 / 8;
// What takes less time is mostly getting ready.
constexpr std::size_t kLeastToLearnFrom = 256 << 10;
// From here on what was sent says what the link does: some chunks that do not get smaller, or many that do.
constexpr double kBytesToKnowTheLink = 6 << 20;
constexpr std::uint64_t kSendsToKnowTheLink = 16;
// Older sendings count less and less, so that a link which changes is noticed.
constexpr double kMostBusySeconds = 2;
// Of two ways equally fast, the one that takes less work altogether.
constexpr double kWorkWeight = 0.02;

void MoveTowards(double& value, double newest) { value += kNewShare * (newest - value); }

std::size_t IndexOf(CodecMethod method) { return static_cast<std::size_t>(method); }

}  // namespace

std::size_t CodecPolicy::ClassOf(CodecMethod method, const CodecEstimate& estimate) {
  if (method == CodecMethod::kPlanes2 || method == CodecMethod::kPlanes4)
    return static_cast<std::size_t>(std::popcount(estimate.coded_planes));
  constexpr std::array<double, kClasses - 1> kBounds{1.1, 1.6, 2.5, 6};
  return static_cast<std::size_t>(std::ranges::upper_bound(kBounds, estimate.ratio) - kBounds.begin());
}

// Bytes of plaintext per second on one core of an AMD EPYC (2026).
double CodecPolicy::UsualRate(CodecMethod method, std::size_t its_class) {
  constexpr double kSplit = 15e9;
  constexpr double kLiterals = 0.85e9;
  constexpr std::array<double, kClasses> kFast{4e9, 0.6e9, 0.5e9, 0.6e9, 2.5e9};
  constexpr std::array<double, kClasses> kOne{0.6e9, 0.4e9, 0.35e9, 0.45e9, 1.5e9};
  constexpr std::array<double, kClasses> kThree{0.4e9, 0.2e9, 0.18e9, 0.22e9, 1.2e9};
  const auto planes = [&](double count) {
    return 1 / (1 / kSplit + static_cast<double>(its_class) / count / kLiterals);
  };
  switch (method) {
    case CodecMethod::kRaw:
      break;
    case CodecMethod::kZstdFast:
      return kFast[its_class];
    case CodecMethod::kZstd1:
      return kOne[its_class];
    case CodecMethod::kZstd3:
      return kThree[its_class];
    case CodecMethod::kLiterals:
      return kLiterals;
    case CodecMethod::kPlanes2:
      return planes(2);
    case CodecMethod::kPlanes4:
      return planes(4);
  }
  return kSplit;
}

bool CodecPolicy::KnowsLink() const {
  return busy_seconds_ > 0 && (sent_in_all_ >= kBytesToKnowTheLink || sends_ >= kSendsToKnowTheLink);
}

double CodecPolicy::LinkRate() const {
  double rate = limits_.assumed_bytes_per_second;
  if (busy_seconds_ > 0) {
    // While little has arrived, what is under way counts too: the link is no faster than that.
    const bool known = KnowsLink();
    const double most = (sent_bytes_ + (known ? 0 : static_cast<double>(bytes_under_way_))) / busy_seconds_;
    rate = known ? most : std::min(rate, most);
  }
  return std::min(std::max(rate, 1.0), limits_.most_bytes_per_second);
}

double CodecPolicy::TimeOf(CodecMethod method, const ChunkProbe& probe, double link) const {
  double encoding = 0;
  double encoded = 1;
  if (method != CodecMethod::kRaw) {
    const CodecEstimate estimate = EstimateOf(probe, method);
    const std::size_t its_class = ClassOf(method, estimate);
    const Learned& learned = learned_[IndexOf(method)][its_class];
    encoding = 1 / learned.bytes_per_second.value_or(machine_factor_ * UsualRate(method, its_class));
    encoded = std::min(1.0, learned.ratio_factor / estimate.ratio);
  }
  const double working = (encoding + encoded * sender_seconds_per_byte_) / limits_.cores;
  const double sending = encoded / link;
  return std::max(working, sending) + kWorkWeight * encoding / limits_.cores;
}

CodecMethod CodecPolicy::Choose(const ChunkProbe& probe) const {
  const std::lock_guard lock(mutex_);
  const double link = LinkRate();
  CodecMethod best = CodecMethod::kRaw;
  double best_time = (1 - kLeastGain) * TimeOf(CodecMethod::kRaw, probe, link);
  for (std::size_t i = 1; i < kCodecMethodCount; ++i) {
    const auto method = static_cast<CodecMethod>(i);
    const double time = TimeOf(method, probe, link);
    if (time < best_time) {
      best = method;
      best_time = time;
    }
  }
  return best;
}

void CodecPolicy::LearnEncoding(CodecMethod method, const ChunkProbe& probe, std::size_t plain_bytes,
                                std::size_t encoded_bytes, std::chrono::nanoseconds duration) {
  const std::lock_guard lock(mutex_);
  ++chunks_by_method_[IndexOf(method)];
  if (method == CodecMethod::kRaw || plain_bytes < kLeastToLearnFrom || duration.count() <= 0) return;
  const double rate = static_cast<double>(plain_bytes) / std::chrono::duration<double>(duration).count();
  const CodecEstimate estimate = EstimateOf(probe, method);
  const std::size_t its_class = ClassOf(method, estimate);
  Learned& learned = learned_[IndexOf(method)][its_class];
  // Means of durations, not of rates: one encoding that was held up must not weigh more than it took.
  const auto mean = [](double old_rate, double new_rate) {
    return 1 / ((1 - kNewShare) / old_rate + kNewShare / new_rate);
  };
  learned.bytes_per_second = learned.bytes_per_second ? mean(*learned.bytes_per_second, rate) : rate;
  MoveTowards(learned.ratio_factor,
              estimate.ratio * static_cast<double>(encoded_bytes) / static_cast<double>(plain_bytes));
  const double factor = rate / UsualRate(method, its_class);
  machine_factor_ = encodings_++ == 0 ? factor : mean(machine_factor_, factor);
}

void CodecPolicy::SendBegins(std::uint64_t bytes, TimePoint now) {
  const std::lock_guard lock(mutex_);
  if (sends_under_way_++ == 0) busy_since_ = now;
  bytes_under_way_ += bytes;
}

void CodecPolicy::SendEnds(std::uint64_t bytes, bool arrived, TimePoint now, std::chrono::nanoseconds cpu) {
  const std::lock_guard lock(mutex_);
  GPUMIG_CHECK(sends_under_way_ > 0 && bytes_under_way_ >= bytes);
  --sends_under_way_;
  bytes_under_way_ -= bytes;
  busy_seconds_ += std::max(0.0, std::chrono::duration<double>(now - busy_since_).count());
  busy_since_ = std::max(now, busy_since_);
  if (arrived) {
    sent_bytes_ += static_cast<double>(bytes);
    sent_in_all_ += static_cast<double>(bytes);
  }
  if (busy_seconds_ > kMostBusySeconds) {
    busy_seconds_ /= 2;
    sent_bytes_ /= 2;
  }
  if (!arrived || bytes == 0) return;
  const double cpu_per_byte = std::chrono::duration<double>(cpu).count() / static_cast<double>(bytes);
  if (sends_++ == 0) {
    sender_seconds_per_byte_ = cpu_per_byte;
  } else {
    MoveTowards(sender_seconds_per_byte_, cpu_per_byte);
  }
}

double CodecPolicy::link_bytes_per_second() const {
  const std::lock_guard lock(mutex_);
  return LinkRate();
}

std::optional<double> CodecPolicy::measured_link_bytes_per_second() const {
  const std::lock_guard lock(mutex_);
  if (!KnowsLink()) return std::nullopt;
  return sent_bytes_ / busy_seconds_;
}

std::array<std::uint64_t, kCodecMethodCount> CodecPolicy::chunks_by_method() const {
  const std::lock_guard lock(mutex_);
  return chunks_by_method_;
}

}  // namespace gpumig
