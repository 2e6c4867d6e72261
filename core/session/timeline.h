// Timeline: how long each named part of some work took, one after the other.
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "core/session/handoff_types.h"

namespace gpumig {

// Thread safety: one thread at a time.
class Timeline {
 public:
  using Clock = std::chrono::steady_clock;

  // Ends the part that runs, if any, and begins the next. Parts of one name add up.
  void Begin(std::string name) {
    End();
    current_ = std::move(name);
    since_ = Clock::now();
  }
  void End() {
    if (current_.empty()) return;
    Add({std::exchange(current_, std::string()),
         std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - since_)});
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
  std::string current_;
  Clock::time_point since_;
  std::vector<TimedPart> parts_;
};

}  // namespace gpumig
