#include "plugins/softgpu/ptx/block_runner.h"

#include <algorithm>
#include <limits>

namespace softgpu::ptx {
namespace {

constexpr std::size_t kNoGroup = std::numeric_limits<std::size_t>::max();
constexpr std::uint32_t kWarpLanes = 32;

}  // namespace

BlockRunner::BlockRunner(const Program& program, Block& block, const std::atomic<bool>* abort)
    : program_(program), block_(block), abort_(abort) {}

void BlockRunner::Run() {
  groups_.clear();
  barriers_.fill(Barrier{});
  block_.patterns.Forget();
  alive_.assign(block_.lane_count, true);
  alive_count_ = block_.lane_count;
  groups_.emplace_back().lanes = LaneSet(Lanes{0, block_.lane_count, block_.lane_count, nullptr});
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
  block_.SetFault(status, group.lanes.empty() ? 0 : group.lanes.lanes().first, 0);
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
    other.lanes.Merge(group.lanes);
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

// Chosen: those of `lanes` for whom the guard holds.
LaneParter::Parts BlockRunner::Guarded(const Instruction& instruction, const Lanes& lanes) {
  if (instruction.guard == kNoRow) return {lanes, {}};
  return parter_.Part(block_.Row<std::uint8_t>(instruction.guard), instruction.guard_negated ? 1 : 0, lanes);
}

bool BlockRunner::CountInstruction(const Group& group) {
  if (++since_abort_check_ < kAbortInterval) return true;
  since_abort_check_ = 0;
  if (abort_ == nullptr || !abort_->load(std::memory_order_relaxed)) return true;
  Stop(LaunchStatus::kAborted, "the launch was aborted", group);
  return false;
}

// False: a fault.
inline bool BlockRunner::Compute(const Instruction& instruction, const Lanes& lanes) {
  if (instruction.guard == kNoRow) [[likely]] {
    lane_instructions_ += lanes.count;
    instruction.handler(block_, instruction, lanes);
  } else {
    const Lanes active = Guarded(instruction, lanes).chosen;
    if (active.count == 0) return true;
    lane_instructions_ += active.count;
    instruction.handler(block_, instruction, active);
  }
  if (instruction.writes_address) block_.patterns.Forget();
  if (block_.fault == LaunchStatus::kDone) [[likely]]
    return true;
  line_ = instruction.line;
  return false;
}

// Runs group number `index` for at most `limit` instructions, up to where the groups change.
void BlockRunner::RunGroup(std::size_t index, std::uint32_t limit) {
  Group& group = groups_[index];
  group.last_run = ++turn_;
  if (MergeInto(index)) return;
  const std::uint32_t ahead = NearestAhead(group);
  const bool alone = groups_.size() == 1;
  const Lanes lanes = group.lanes.lanes();
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
        if (!Compute(instruction, lanes)) return;
        ++group.pc;
        break;
      case Instruction::Kind::kBranch: {
        const LaneParter::Parts parts = Guarded(instruction, lanes);
        lane_instructions_ += lanes.count;
        if (parts.chosen.count == 0) {
          ++group.pc;
          break;
        }
        if (parts.chosen.count == lanes.count) {
          group.pc = instruction.target;
          if (alone) break;
          return;
        }
        Split(index, parts, instruction.target);
        return;
      }
      case Instruction::Kind::kBranchIndexed:
        lane_instructions_ += lanes.count;
        BranchIndexed(index, instruction, lanes);
        return;
      case Instruction::Kind::kExit:
      case Instruction::Kind::kTrap: {
        const LaneParter::Parts parts = Guarded(instruction, lanes);
        lane_instructions_ += parts.chosen.count;
        if (parts.chosen.count == 0) {
          ++group.pc;
          break;
        }
        if (instruction.kind == Instruction::Kind::kTrap) {
          block_.SetFault(LaunchStatus::kTrap, parts.chosen.first, 0);
          line_ = instruction.line;
          reason_ = "trap";
          return;
        }
        Exit(index, parts);
        return;
      }
      case Instruction::Kind::kBarrier:
      case Instruction::Kind::kBarrierArrive: {
        const LaneParter::Parts parts = Guarded(instruction, lanes);
        lane_instructions_ += parts.chosen.count;
        if (parts.chosen.count == 0 || (alone && parts.rest.count == 0 && ArriveAlone(instruction, lanes))) {
          ++group.pc;
          break;
        }
        Arrive(index, instruction, parts);
        return;
      }
    }
  }
}

// Are all lanes that the instruction names, of those that have not exited, in this group?
bool BlockRunner::HasAllLanes(const Instruction& instruction, const Group& group) const {
  if (group.lanes.count() == alive_count_) return true;
  const std::uint32_t* const mask = block_.Row<std::uint32_t>(instruction.rows[instruction.mask_row]);
  const Lanes lanes = group.lanes.lanes();
  for (std::uint32_t i = 0; i < lanes.count;) {
    const std::uint32_t first = LaneAt(lanes, i) / kWarpLanes * kWarpLanes;
    const std::uint32_t wanted = mask[LaneAt(lanes, i)];
    std::uint32_t present = 0;
    for (; i < lanes.count && LaneAt(lanes, i) - first < kWarpLanes; ++i)
      present |= std::uint32_t{1} << (LaneAt(lanes, i) - first);
    for (std::uint32_t lane = 0; lane < kWarpLanes && first + lane < block_.lane_count; ++lane) {
      const std::uint32_t bit = std::uint32_t{1} << lane;
      if ((wanted & bit) != 0 && (present & bit) == 0 && alive_[first + lane]) return false;
    }
  }
  return true;
}

// The chosen go to `target`, the rest of the group to its next instruction.
void BlockRunner::Split(std::size_t index, const LaneParter::Parts& parts, std::uint32_t target) {
  groups_[index].lanes = LaneSet(parts.rest);
  ++groups_[index].pc;
  groups_.push_back(Group{.pc = target, .last_run = turn_, .lanes = LaneSet(parts.chosen)});
  MergeInto(groups_.size() - 1);
}

// An index beyond the table: PTX leaves it open, so the first target will do.
void BlockRunner::BranchIndexed(std::size_t index, const Instruction& instruction, const Lanes& lanes) {
  const std::vector<std::uint32_t>& table = program_.branch_tables[instruction.target];
  const std::uint32_t* const row = block_.Row<std::uint32_t>(instruction.rows[0]);
  const LaneParter::Parts parts = Guarded(instruction, lanes);
  const auto target_of = [&](std::uint32_t lane) { return table[row[lane] < table.size() ? row[lane] : 0]; };
  struct Destination {
    std::uint32_t pc = 0;
    std::vector<std::uint16_t> lanes = {};
  };
  std::vector<Destination> destinations;
  for (std::uint32_t i = 0; i < parts.chosen.count; ++i) {
    const std::uint32_t lane = LaneAt(parts.chosen, i);
    auto found = std::ranges::find(destinations, target_of(lane), &Destination::pc);
    if (found == destinations.end()) found = destinations.insert(found, Destination{.pc = target_of(lane)});
    found->lanes.push_back(static_cast<std::uint16_t>(lane));
  }
  std::vector<Group> leaving;
  for (const Destination& destination : destinations)
    leaving.push_back(Group{.pc = destination.pc, .last_run = turn_, .lanes = LaneSet(LanesOf(destination.lanes))});
  if (parts.rest.count != 0)
    leaving.push_back(Group{.pc = groups_[index].pc + 1, .last_run = turn_, .lanes = LaneSet(parts.rest)});
  Remove(index);
  for (Group& group : leaving) {
    groups_.push_back(std::move(group));
    MergeInto(groups_.size() - 1);
  }
}

void BlockRunner::Exit(std::size_t index, const LaneParter::Parts& parts) {
  if (parts.chosen.count == alive_count_) {
    alive_count_ = 0;
    groups_.clear();
    return;
  }
  for (std::uint32_t i = 0; i < parts.chosen.count; ++i) alive_[LaneAt(parts.chosen, i)] = false;
  alive_count_ -= parts.chosen.count;
  if (parts.rest.count == 0) {
    Remove(index);
  } else {
    groups_[index].lanes = LaneSet(parts.rest);
    ++groups_[index].pc;
  }
  // Who waits for the lanes that are gone need not any more.
  for (Group& other : groups_) {
    if (other.state == State::kConverging) other.state = State::kReady;
  }
  ReleaseBarriers();
}

// As Arrive() if all threads that are left arrive at once, as they do nearly always: the barrier opens without anybody
// having waited. False: what is special about this one is left to Arrive().
bool BlockRunner::ArriveAlone(const Instruction& instruction, const Lanes& lanes) {
  if (instruction.kind != Instruction::Kind::kBarrier || instruction.handler != nullptr) return false;
  const std::uint32_t number = block_.Row<std::uint32_t>(instruction.rows[0])[lanes.first];
  if (number >= kBarriers) return false;
  // Also of those that had arrived before without waiting: no barrier wants more than all.
  barriers_[number] = Barrier{};
  return true;
}

void BlockRunner::Arrive(std::size_t index, const Instruction& instruction, const LaneParter::Parts& parts) {
  const Lanes& lanes = parts.chosen;
  const std::uint32_t lane = lanes.first;
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
  Group waiting{.pc = groups_[index].pc,
                .state = State::kAtBarrier,
                .barrier = number,
                .last_run = turn_,
                .lanes = LaneSet(lanes)};
  if (instruction.kind == Instruction::Kind::kBarrierArrive || parts.rest.count != 0) {
    if (instruction.kind != Instruction::Kind::kBarrierArrive) {
      groups_[index].lanes = LaneSet(parts.rest);
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
      if (instruction.handler != nullptr) instruction.handler(block_, instruction, group.lanes.lanes());
      if (instruction.writes_address) block_.patterns.Forget();
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
