// Runs the threads of one block after another.
//
// The threads of a block are a set of groups, each with a place in the program of its own. The group that is furthest
// behind runs, and groups that meet become one: so what diverged comes together again without any mark in the program.
// An instruction that names the lanes it needs (shfl.sync, vote.sync ...) waits for them; if nothing else can run, it
// goes on with those that are there. Threads that wait for others in a loop would keep these from running, so after a
// while another group gets a turn.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "plugins/softgpu/ptx/lane_set.h"
#include "plugins/softgpu/ptx/launch.h"
#include "plugins/softgpu/ptx/program.h"

namespace softgpu::ptx {

// Ownership: borrows all it is given. Thread safety: one thread at a time.
class BlockRunner {
 public:
  // `block` has its memory; its lanes and fixed rows are filled.
  BlockRunner(const Program& program, Block& block, const std::atomic<bool>* abort);

  // Runs every thread to its end, or to a fault: then what stopped it is in Block::fault, and at line().
  void Run();

  std::uint64_t lane_instructions() const { return lane_instructions_; }
  int line() const { return line_; }
  std::string_view reason() const { return reason_; }

 private:
  enum class State { kReady, kConverging, kAtBarrier };
  struct Group {
    std::uint32_t pc = 0;
    State state = State::kReady;
    bool forced = false;  // To go on although lanes are missing.
    std::uint32_t barrier = 0;
    std::uint64_t last_run = 0;
    LaneSet lanes = {};
  };
  struct Barrier {
    std::uint32_t arrived = 0;
    std::uint32_t true_lanes = 0;
    std::uint32_t wanted = 0;  // 0: all that have not exited.
  };
  static constexpr std::size_t kBarriers = 16;
  // How long one group may keep another that could run waiting, and how long that then runs, in instructions.
  static constexpr std::uint32_t kPatience = 65536;
  static constexpr std::uint32_t kTurn = 4096;
  static constexpr std::uint32_t kAbortInterval = 2048;

  void Stop(LaunchStatus status, std::string_view reason, const Group& group);
  std::size_t Choose();
  std::size_t OldestOther(std::size_t chosen) const;
  bool MergeInto(std::size_t index);
  std::uint32_t NearestAhead(const Group& group) const;
  void RunGroup(std::size_t index, std::uint32_t limit);
  bool CountInstruction(const Group& group);
  LaneParter::Parts Guarded(const Instruction& instruction, const Lanes& lanes);
  bool Compute(const Instruction& instruction, const Lanes& lanes);
  bool HasAllLanes(const Instruction& instruction, const Group& group) const;
  void BranchIndexed(std::size_t index, const Instruction& instruction, const Lanes& lanes);
  void Split(std::size_t index, const LaneParter::Parts& parts, std::uint32_t target);
  void Exit(std::size_t index, const LaneParter::Parts& parts);
  bool ArriveAlone(const Instruction& instruction, const Lanes& lanes);
  void Arrive(std::size_t index, const Instruction& instruction, const LaneParter::Parts& parts);
  void ReleaseBarriers();
  void Remove(std::size_t index);

  const Program& program_;
  Block& block_;
  const std::atomic<bool>* abort_;
  std::vector<Group> groups_;
  std::array<Barrier, kBarriers> barriers_;
  std::vector<bool> alive_;
  std::uint32_t alive_count_ = 0;
  LaneParter parter_;
  std::uint64_t lane_instructions_ = 0;
  std::uint64_t turn_ = 0;
  std::uint32_t waited_ = 0;
  std::uint32_t since_abort_check_ = 0;
  int line_ = 0;
  std::string_view reason_;
};

}  // namespace softgpu::ptx
