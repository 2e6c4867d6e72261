#include "plugins/softgpu/ptx/block_runner.h"

#include <algorithm>
#include <iterator>
#include <limits>

namespace softgpu::ptx {
namespace {

constexpr std::size_t kNoGroup = std::numeric_limits<std::size_t>::max();
constexpr std::uint32_t kWarpLanes = 32;

std::uint32_t LaneAt(const Lanes& lanes, std::uint32_t i) {
  return lanes.index == nullptr ? lanes.first + i : lanes.index[i];
}

}  // namespace

BlockRunner::BlockRunner(const Program& program, Block& block, const std::atomic<bool>* abort)
    : program_(program), block_(block), abort_(abort) {
  guarded_.reserve(kMaxThreadsPerBlock);
}

void BlockRunner::Run() {
  groups_.clear();
  barriers_.fill(Barrier{});
  alive_.assign(block_.lane_count, true);
  alive_count_ = block_.lane_count;
  Group& all = groups_.emplace_back();
  for (std::uint32_t lane = 0; lane < block_.lane_count; ++lane) all.lanes.push_back(static_cast<std::uint16_t>(lane));
  while (!groups_.empty() && block_.fault == LaunchStatus::kDone) {
    std::size_t chosen = Choose();
    if (chosen == kNoGroup) {
      Stop(LaunchStatus::kIllegalInstruction, "the threads of the block wait at barriers for each other for ever",
           groups_.front());
      return;
    }
    std::uint32_t limit = std::numeric_limits<std::uint32_t>::max();
    const std::size_t other = groups_.size() > 1 ? OldestOther(chosen) : kNoGroup;
    if (other == kNoGroup) {
      waited_ = 0;
    } else if (waited_ >= kPatience) {
      waited_ = 0;
      limit = kTurn;
      chosen = other;
    } else {
      limit = kPatience - waited_;
    }
    RunGroup(chosen, limit);
  }
}

void BlockRunner::Stop(LaunchStatus status, std::string_view reason, const Group& group) {
  block_.SetFault(status, group.lanes.empty() ? 0 : group.lanes.front(), 0);
  line_ = program_.instructions[group.pc].line;
  reason_ = reason;
}

// The ready group that is furthest behind; else of those that wait for lanes, which then go on without.
std::size_t BlockRunner::Choose() {
  std::size_t ready = kNoGroup;
  std::size_t converging = kNoGroup;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    const Group& group = groups_[i];
    if (group.state == State::kReady && (ready == kNoGroup || group.pc < groups_[ready].pc)) ready = i;
    if (group.state == State::kConverging && (converging == kNoGroup || group.pc < groups_[converging].pc))
      converging = i;
  }
  if (ready != kNoGroup || converging == kNoGroup) return ready;
  groups_[converging].state = State::kReady;
  groups_[converging].forced = true;
  return converging;
}

std::size_t BlockRunner::OldestOther(std::size_t chosen) const {
  std::size_t oldest = kNoGroup;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    if (i == chosen || groups_[i].state != State::kReady) continue;
    if (oldest == kNoGroup || groups_[i].last_run < groups_[oldest].last_run) oldest = i;
  }
  return oldest;
}

// True: another group is at the same place, and has taken this one's lanes.
bool BlockRunner::MergeInto(std::size_t index) {
  Group& group = groups_[index];
  for (Group& other : groups_) {
    if (&other == &group || other.pc != group.pc || other.state == State::kAtBarrier) continue;
    std::vector<std::uint16_t> merged;
    merged.reserve(other.lanes.size() + group.lanes.size());
    std::ranges::merge(other.lanes, group.lanes, std::back_inserter(merged));
    other.lanes = std::move(merged);
    other.state = State::kReady;
    other.forced = false;
    Remove(index);
    return true;
  }
  return false;
}

void BlockRunner::Remove(std::size_t index) {
  if (index + 1 != groups_.size()) groups_[index] = std::move(groups_.back());
  groups_.pop_back();
}

std::uint32_t BlockRunner::NearestAhead(const Group& group) const {
  std::uint32_t nearest = std::numeric_limits<std::uint32_t>::max();
  for (const Group& other : groups_) {
    if (&other != &group && other.state != State::kAtBarrier && other.pc > group.pc)
      nearest = std::min(nearest, other.pc);
  }
  return nearest;
}

Lanes BlockRunner::LanesOf(const std::vector<std::uint16_t>& lanes) const {
  Lanes result{lanes.front(), lanes.back() + 1u, static_cast<std::uint32_t>(lanes.size()), nullptr};
  if (result.end - result.first != result.count) result.index = lanes.data();
  return result;
}

// Those of `lanes` for whom the guard holds.
Lanes BlockRunner::Guarded(const Instruction& instruction, const Lanes& lanes) {
  if (instruction.guard == kNoRow) return lanes;
  const std::uint8_t* const guard = block_.Row<std::uint8_t>(instruction.guard);
  const std::uint8_t unwanted = instruction.guard_negated ? 1 : 0;
  std::uint32_t count = 0;
  if (lanes.index == nullptr) {
    for (std::size_t lane = lanes.first; lane < lanes.end; ++lane) count += guard[lane] != unwanted;
  } else {
    for (std::size_t i = 0; i < lanes.count; ++i) count += guard[lanes.index[i]] != unwanted;
  }
  if (count == lanes.count) return lanes;
  if (count == 0) return Lanes{};
  guarded_.clear();
  for (std::uint32_t i = 0; i < lanes.count; ++i) {
    const std::uint32_t lane = LaneAt(lanes, i);
    if (guard[lane] != unwanted) guarded_.push_back(static_cast<std::uint16_t>(lane));
  }
  return LanesOf(guarded_);
}

bool BlockRunner::CountInstruction(const Group& group) {
  if (++since_abort_check_ < kAbortInterval) return true;
  since_abort_check_ = 0;
  if (abort_ == nullptr || !abort_->load(std::memory_order_relaxed)) return true;
  Stop(LaunchStatus::kAborted, "the launch was aborted", group);
  return false;
}

void BlockRunner::Compute(const Instruction& instruction, const Lanes& lanes) {
  const Lanes active = Guarded(instruction, lanes);
  if (active.count == 0) return;
  lane_instructions_ += active.count;
  instruction.handler(block_, instruction, active);
}

// Runs group number `index` for at most `limit` instructions, up to where the groups change.
void BlockRunner::RunGroup(std::size_t index, std::uint32_t limit) {
  Group& group = groups_[index];
  group.last_run = ++turn_;
  if (MergeInto(index)) return;
  const std::uint32_t ahead = NearestAhead(group);
  const bool alone = groups_.size() == 1;
  const Lanes lanes = LanesOf(group.lanes);
  for (std::uint32_t done = 0; done < limit; ++done) {
    if (group.pc == ahead) break;
    const Instruction& instruction = program_.instructions[group.pc];
    if (!CountInstruction(group)) return;
    if (!alone) ++waited_;
    switch (instruction.kind) {
      case Instruction::Kind::kConverge:
        if (!alone && !group.forced && !HasAllLanes(instruction, group)) {
          group.state = State::kConverging;
          return;
        }
        group.forced = false;
        [[fallthrough]];
      case Instruction::Kind::kCompute:
        Compute(instruction, lanes);
        if (block_.fault != LaunchStatus::kDone) [[unlikely]] {
          line_ = instruction.line;
          return;
        }
        ++group.pc;
        break;
      case Instruction::Kind::kBranch: {
        const Lanes taken = Guarded(instruction, lanes);
        lane_instructions_ += lanes.count;
        if (taken.count == 0) {
          ++group.pc;
          break;
        }
        if (taken.count == lanes.count) {
          group.pc = instruction.target;
          if (alone) break;
          return;
        }
        Split(index, taken, instruction.target);
        return;
      }
      case Instruction::Kind::kBranchIndexed:
        lane_instructions_ += lanes.count;
        BranchIndexed(index, instruction, lanes);
        return;
      case Instruction::Kind::kExit:
      case Instruction::Kind::kTrap: {
        const Lanes leaving = Guarded(instruction, lanes);
        lane_instructions_ += leaving.count;
        if (leaving.count == 0) {
          ++group.pc;
          break;
        }
        if (instruction.kind == Instruction::Kind::kTrap) {
          block_.SetFault(LaunchStatus::kTrap, LaneAt(leaving, 0), 0);
          line_ = instruction.line;
          reason_ = "trap";
          return;
        }
        Exit(index, leaving);
        return;
      }
      case Instruction::Kind::kBarrier:
      case Instruction::Kind::kBarrierArrive: {
        const Lanes arriving = Guarded(instruction, lanes);
        lane_instructions_ += arriving.count;
        if (arriving.count == 0) {
          ++group.pc;
          break;
        }
        Arrive(index, instruction, arriving);
        return;
      }
    }
  }
}

// Are all lanes that the instruction names, of those that have not exited, in this group?
bool BlockRunner::HasAllLanes(const Instruction& instruction, const Group& group) const {
  if (group.lanes.size() == alive_count_) return true;
  const std::uint32_t* const mask = block_.Row<std::uint32_t>(instruction.rows[instruction.mask_row]);
  for (std::size_t i = 0; i < group.lanes.size();) {
    const std::uint32_t first = group.lanes[i] / kWarpLanes * kWarpLanes;
    const std::uint32_t wanted = mask[group.lanes[i]];
    std::uint32_t present = 0;
    for (; i < group.lanes.size() && group.lanes[i] - first < kWarpLanes; ++i)
      present |= std::uint32_t{1} << (group.lanes[i] - first);
    for (std::uint32_t lane = 0; lane < kWarpLanes && first + lane < block_.lane_count; ++lane) {
      const std::uint32_t bit = std::uint32_t{1} << lane;
      if ((wanted & bit) != 0 && (present & bit) == 0 && alive_[first + lane]) return false;
    }
  }
  return true;
}

// `leaving` go to `target`, the rest of the group to its next instruction.
void BlockRunner::Split(std::size_t index, const Lanes& leaving, std::uint32_t target) {
  Group away;
  away.pc = target;
  away.last_run = turn_;
  for (std::uint32_t i = 0; i < leaving.count; ++i)
    away.lanes.push_back(static_cast<std::uint16_t>(LaneAt(leaving, i)));
  std::vector<std::uint16_t> staying;
  std::ranges::set_difference(groups_[index].lanes, away.lanes, std::back_inserter(staying));
  groups_[index].lanes = std::move(staying);
  ++groups_[index].pc;
  groups_.push_back(std::move(away));
  MergeInto(groups_.size() - 1);
}

// An index beyond the table: PTX leaves it open, so the first target will do.
void BlockRunner::BranchIndexed(std::size_t index, const Instruction& instruction, const Lanes& lanes) {
  const std::vector<std::uint32_t>& table = program_.branch_tables[instruction.target];
  const std::uint32_t* const row = block_.Row<std::uint32_t>(instruction.rows[0]);
  const Lanes active = Guarded(instruction, lanes);
  const auto target_of = [&](std::uint32_t lane) { return table[row[lane] < table.size() ? row[lane] : 0]; };
  Group rest = std::move(groups_[index]);
  Remove(index);
  std::vector<Group> leaving;
  std::vector<std::uint16_t> staying;
  std::uint32_t next = 0;
  for (const std::uint16_t lane : rest.lanes) {
    const bool goes = next < active.count && LaneAt(active, next) == lane;
    if (!goes) {
      staying.push_back(lane);
      continue;
    }
    ++next;
    const auto found = std::ranges::find(leaving, target_of(lane), &Group::pc);
    if (found != leaving.end()) {
      found->lanes.push_back(lane);
    } else {
      leaving.push_back(Group{.pc = target_of(lane), .last_run = turn_, .lanes = {lane}});
    }
  }
  if (!staying.empty()) leaving.push_back(Group{.pc = rest.pc + 1, .last_run = turn_, .lanes = std::move(staying)});
  for (Group& group : leaving) {
    groups_.push_back(std::move(group));
    MergeInto(groups_.size() - 1);
  }
}

void BlockRunner::Exit(std::size_t index, const Lanes& lanes) {
  for (std::uint32_t i = 0; i < lanes.count; ++i) alive_[LaneAt(lanes, i)] = false;
  alive_count_ -= lanes.count;
  Group& group = groups_[index];
  std::erase_if(group.lanes, [this](std::uint16_t lane) { return !alive_[lane]; });
  if (group.lanes.empty()) {
    Remove(index);
  } else {
    ++group.pc;
  }
  // Who waits for the lanes that are gone need not any more.
  for (Group& other : groups_) {
    if (other.state == State::kConverging) other.state = State::kReady;
  }
  ReleaseBarriers();
}

void BlockRunner::Arrive(std::size_t index, const Instruction& instruction, const Lanes& lanes) {
  const std::uint32_t lane = LaneAt(lanes, 0);
  const std::uint32_t number = block_.Row<std::uint32_t>(instruction.rows[0])[lane];
  if (number >= kBarriers) {
    Stop(LaunchStatus::kIllegalInstruction, "there is no barrier of this number", groups_[index]);
    return;
  }
  Barrier& barrier = barriers_[number];
  const bool has_count = instruction.rows[1] != kNoRow;
  barrier.wanted = has_count ? block_.Row<std::uint32_t>(instruction.rows[1])[lane] : 0;
  barrier.arrived += lanes.count;
  if (instruction.handler != nullptr) {
    const std::uint8_t* const predicate = block_.Row<std::uint8_t>(instruction.rows[3]);
    for (std::uint32_t i = 0; i < lanes.count; ++i) barrier.true_lanes += predicate[LaneAt(lanes, i)] != 0;
  }
  Group waiting{.pc = groups_[index].pc, .state = State::kAtBarrier, .barrier = number, .last_run = turn_};
  for (std::uint32_t i = 0; i < lanes.count; ++i) waiting.lanes.push_back(static_cast<std::uint16_t>(LaneAt(lanes, i)));
  std::vector<std::uint16_t> staying;
  std::ranges::set_difference(groups_[index].lanes, waiting.lanes, std::back_inserter(staying));
  if (instruction.kind == Instruction::Kind::kBarrierArrive || !staying.empty()) {
    if (instruction.kind != Instruction::Kind::kBarrierArrive) {
      groups_[index].lanes = std::move(staying);
      groups_.push_back(std::move(waiting));
    }
    ++groups_[index].pc;
  } else {
    groups_[index] = std::move(waiting);
  }
  ReleaseBarriers();
}

void BlockRunner::ReleaseBarriers() {
  for (std::uint32_t number = 0; number < kBarriers; ++number) {
    Barrier& barrier = barriers_[number];
    const std::uint32_t wanted = barrier.wanted == 0 ? alive_count_ : std::min(barrier.wanted, alive_count_);
    if (barrier.arrived == 0 || barrier.arrived < wanted) continue;
    block_.barrier_lanes = barrier.arrived;
    block_.barrier_true_lanes = barrier.true_lanes;
    barrier = Barrier{};
    for (Group& group : groups_) {
      if (group.state != State::kAtBarrier || group.barrier != number) continue;
      const Instruction& instruction = program_.instructions[group.pc];
      if (instruction.handler != nullptr) instruction.handler(block_, instruction, LanesOf(group.lanes));
      group.state = State::kReady;
      ++group.pc;
    }
  }
  // Released groups that are at one place.
  for (std::size_t i = 0; i < groups_.size();) {
    if (groups_[i].state != State::kReady || !MergeInto(i)) ++i;
  }
}

}  // namespace softgpu::ptx
