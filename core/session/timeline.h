// Timeline: how long each named part of some work took, one after the other.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/session/handoff_types.h"

namespace gpumig {

// Hears when a part begins, and, with its duration, when it has ended. Called from the thread that does the work.
using PartFn = std::function<void(std::string_view part, std::optional<std::chrono::microseconds> took)>;

// Thread safety: one thread at a time.
class Timeline {
 public:
  using Clock = std::chrono::steady_clock;

  // `on_part` may be empty.
  explicit Timeline(PartFn on_part = nullptr) : on_part_(std::move(on_part)) {}

  // Ends the part that runs, if any, and begins the next. Parts of one name add up.
  void Begin(std::string name) {
    End();
    current_ = std::move(name);
    since_ = Clock::now();
    if (on_part_) on_part_(current_, std::nullopt);
  }
  void End() {
    if (current_.empty()) return;
    const TimedPart ended{std::exchange(current_, std::string()),
                          std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - since_)};
    Add(ended);
    if (on_part_) on_part_(ended.name, ended.duration);
  }
  void Add(TimedPart part) {
    for (TimedPart& known : parts_) {
      if (known.name == part.name) {
        known.duration += part.duration;
        return;
      }
    }
    parts_.push_back(std::move(part));
  }
  const std::vector<TimedPart>& parts() const { return parts_; }

 private:
  PartFn on_part_;
  std::string current_;
  Clock::time_point since_;
  std::vector<TimedPart> parts_;
};

}  // namespace gpumig
