// Sets of lanes of one block: what the groups of BlockRunner are made of.
//
// Nearly all sets are ranges, and those that are not become one again where threads meet, so ranges have no list.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "plugins/softgpu/ptx/lanes.h"
#include "plugins/softgpu/ptx/module.h"

namespace softgpu::ptx {

// Borrows the list, unless that is a range. REQUIRES: ascending
Lanes LanesOf(std::span<const std::uint16_t> list);

class LaneSet {
 public:
  LaneSet() = default;
  // Copies them.
  explicit LaneSet(const Lanes& lanes);

  std::uint32_t count() const { return count_; }
  bool empty() const { return count_ == 0; }
  // Valid until the set is changed or moved.
  Lanes lanes() const { return {first_, end_, count_, list_.empty() ? nullptr : list_.data()}; }

  // REQUIRES: the two have no lane in common.
  void Merge(const LaneSet& other);

 private:
  std::uint32_t first_ = 0;
  std::uint32_t end_ = 0;
  std::uint32_t count_ = 0;
  std::vector<std::uint16_t> list_;  // Empty: all of [first_, end_).
};

// Parts lanes by a predicate. What it returns is valid until it is asked again.
class LaneParter {
 public:
  struct Parts {
    Lanes chosen;  // Those for whom the predicate is not `unwanted`, 0 or 1.
    Lanes rest;
  };
  Parts Part(const std::uint8_t* predicate, std::uint8_t unwanted, const Lanes& lanes);

 private:
  // Eight lanes that agree are written at once, whatever room there is.
  using List = std::array<std::uint16_t, kMaxThreadsPerBlock + 8>;
  void PartRange(const std::uint8_t* predicate, std::uint8_t unwanted, const Lanes& lanes);
  void PartOne(const std::uint8_t* predicate, std::uint8_t unwanted, std::uint32_t lane) {
    const std::size_t is_chosen = predicate[lane] != unwanted;
    chosen_[chosen_count_] = static_cast<std::uint16_t>(lane);
    rest_[rest_count_] = static_cast<std::uint16_t>(lane);
    chosen_count_ += is_chosen;
    rest_count_ += 1 - is_chosen;
  }

  List chosen_;
  List rest_;
  std::size_t chosen_count_ = 0;
  std::size_t rest_count_ = 0;
};

}  // namespace softgpu::ptx
