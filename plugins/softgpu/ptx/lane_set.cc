#include "plugins/softgpu/ptx/lane_set.h"

#include <algorithm>
#include <cstring>

#include "plugins/softgpu/ptx/program.h"

namespace softgpu::ptx {
namespace {

constexpr std::uint32_t kChunk = 8;  // Predicates in a word.

// Do all of them have predicates that are `value`?
bool AllAre(const std::uint8_t* predicate, std::uint8_t value, const Lanes& lanes) {
  std::uint8_t different = 0;
  ForEachLane(lanes,
              [&](std::size_t lane) { different = static_cast<std::uint8_t>(different | (predicate[lane] ^ value)); });
  return different == 0;
}

void AppendChunk(std::uint32_t lane, std::uint16_t* list, std::size_t* count) {
  for (std::uint32_t i = 0; i < kChunk; ++i) list[*count + i] = static_cast<std::uint16_t>(lane + i);
  *count += kChunk;
}

}  // namespace

Lanes LanesOf(std::span<const std::uint16_t> list) {
  if (list.empty()) return {};
  Lanes lanes{list.front(), list.back() + 1u, static_cast<std::uint32_t>(list.size()), nullptr};
  if (lanes.end - lanes.first != lanes.count) lanes.index = list.data();
  return lanes;
}

LaneSet::LaneSet(const Lanes& lanes) : first_(lanes.first), end_(lanes.end), count_(lanes.count) {
  if (lanes.index != nullptr) list_.assign(lanes.index, lanes.index + lanes.count);
}

void LaneSet::Merge(const LaneSet& other) {
  if (other.empty()) return;
  if (empty()) {
    *this = other;
    return;
  }
  const std::uint32_t first = std::min(first_, other.first_);
  const std::uint32_t end = std::max(end_, other.end_);
  const std::uint32_t count = count_ + other.count_;
  std::vector<std::uint16_t> merged;
  if (end - first != count) {
    merged.reserve(count);
    const Lanes a = lanes();
    const Lanes b = other.lanes();
    std::uint32_t i = 0;
    std::uint32_t j = 0;
    while (i < a.count || j < b.count) {
      const bool takes_a = j == b.count || (i < a.count && LaneAt(a, i) < LaneAt(b, j));
      merged.push_back(static_cast<std::uint16_t>(takes_a ? LaneAt(a, i++) : LaneAt(b, j++)));
    }
  }
  first_ = first;
  end_ = end;
  count_ = count;
  list_ = std::move(merged);
}

LaneParter::Parts LaneParter::Part(const std::uint8_t* predicate, std::uint8_t unwanted, const Lanes& lanes) {
  if (AllAre(predicate, unwanted, lanes)) return {{}, lanes};
  if (AllAre(predicate, unwanted ^ 1, lanes)) return {lanes, {}};
  chosen_count_ = 0;
  rest_count_ = 0;
  if (lanes.index == nullptr) {
    PartRange(predicate, unwanted, lanes);
  } else {
    for (std::uint32_t i = 0; i < lanes.count; ++i) PartOne(predicate, unwanted, lanes.index[i]);
  }
  return {LanesOf(std::span(chosen_).first(chosen_count_)), LanesOf(std::span(rest_).first(rest_count_))};
}

void LaneParter::PartRange(const std::uint8_t* predicate, std::uint8_t unwanted, const Lanes& lanes) {
  constexpr std::uint64_t kOnes = 0x0101010101010101;
  const std::uint64_t none = unwanted * kOnes;
  std::uint32_t lane = lanes.first;
  for (; lane + kChunk <= lanes.end; lane += kChunk) {
    std::uint64_t word = 0;
    std::memcpy(&word, predicate + lane, sizeof(word));
    if (word == none) {
      AppendChunk(lane, rest_.data(), &rest_count_);
    } else if (word == (none ^ kOnes)) {
      AppendChunk(lane, chosen_.data(), &chosen_count_);
    } else {
      for (std::uint32_t i = 0; i < kChunk; ++i) PartOne(predicate, unwanted, lane + i);
    }
  }
  for (; lane < lanes.end; ++lane) PartOne(predicate, unwanted, lane);
}

}  // namespace softgpu::ptx
