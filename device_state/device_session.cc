#include "device_state/device_session.h"

#include <algorithm>

#include "core/base/check.h"
#include "core/host/process.h"
#include "device_state/gpu_map.h"
#include "device_state/restore_thread.h"

namespace gpumig {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// For a process that must be locked again after an unlock: it ran for moments only.
constexpr milliseconds kRelockLimit{10'000};

std::vector<pid_t> Ascending(std::span<const pid_t> processes) {
  std::vector<pid_t> order(processes.begin(), processes.end());
  std::ranges::sort(order);
  const auto doubles = std::ranges::unique(order);
  order.erase(doubles.begin(), doubles.end());
  return order;
}

Error WrongState(pid_t process, GpuState state, std::string_view verb, GpuState wanted) {
  if (state == GpuState::kFailed) {
    return MakeError(ErrorCode::kLost, "{} process {}: the driver has given its GPU state up", verb, process)
        .WithNextStep("only an earlier image can bring the job back; a reset of the process is not possible");
  }
  return MakeError(ErrorCode::kFailedPrecondition, "{} process {}: its GPU state is {}, and must be {}", verb, process,
                   GpuStateName(state), GpuStateName(wanted));
}

const GpuFacts* Find(std::span<const GpuFacts> gpus, const std::string& uuid) {
  const auto found = std::ranges::find(gpus, uuid, &GpuFacts::uuid);
  return found == gpus.end() ? nullptr : &*found;
}

}  // namespace

Result<DeviceSession::Known*> DeviceSession::Enter(pid_t process, Entry entry) {
  const auto found = known_.find(process);
  if (found != known_.end()) {
    const Result<void> same = found->second.guard.Check();
    if (same) return &found->second;
    known_.erase(found);
    if (entry == Entry::kLater) return same.error();
  }
  ProcessGuard guard = GPUMIG_TRY(ProcessGuard::Open(process));
  return &known_.emplace(process, Known{std::move(guard), {}, false}).first->second;
}

Result<GpuState> DeviceSession::GuardedState(const ProcessGuard& guard) {
  GPUMIG_TRY(guard.Check());
  Result<GpuState> state = backend_->State(guard.pid());
  GPUMIG_TRY(guard.Check());
  return state;
}

Result<GpuState> DeviceSession::State(pid_t process) {
  const ProcessGuard guard = GPUMIG_TRY(ProcessGuard::Open(process), "GPU state of process {}", process);
  return GPUMIG_TRY(GuardedState(guard), "GPU state of process {}", process);
}

Result<std::vector<pid_t>> DeviceSession::GpuProcesses(std::span<const pid_t> tree) {
  std::vector<pid_t> users;
  for (const pid_t process : tree) {
    const Result<GpuState> state = State(process);
    if (!state && state.error().code() == ErrorCode::kNotFound) continue;  // it ended since the tree was read
    if (!state) return state.error();
    if (*state != GpuState::kNone) users.push_back(process);
  }
  return users;
}

std::optional<std::uint64_t> DeviceSession::HeldBytes(std::span<const pid_t> processes) {
  std::uint64_t sum = 0;
  for (const pid_t process : processes) {
    const std::optional<std::uint64_t> held = backend_->HeldBytes(process);
    if (!held) return std::nullopt;
    sum += *held;
  }
  return sum;
}

Result<void> DeviceSession::RunOne(Known& known, const Step& step, bool& changed) {
  changed = false;
  GPUMIG_TRY(known.guard.Check());
  const Result<void> ran = step.run(known);
  if (!ran && ran.error().code() == ErrorCode::kUnavailable) {
    [[maybe_unused]] const Result<void> settled = step.settle ? step.settle(known) : step.run(known);
  }
  const GpuState state = GPUMIG_TRY(GuardedState(known.guard));
  changed = state == step.to;
  if (state == GpuState::kFailed) {
    return MakeError(ErrorCode::kLost, "the driver gave its GPU state up{}{}", ran ? "" : ": ",
                     ran ? "" : ran.error().message())
        .WithNextStep("only an earlier image can bring the job back");
  }
  // It had state a moment ago: its descriptors are closed already, and its end is not told yet.
  if (!ran && state == GpuState::kNone) {
    return MakeError(ErrorCode::kNotFound, "it has ended meanwhile: {}", ran.error().message());
  }
  if (!ran) return ran;
  if (!changed) {
    return MakeError(ErrorCode::kInternal, "the driver reports success, but the state is {} and not {}",
                     GpuStateName(state), GpuStateName(step.to));
  }
  return Ok();
}

Error DeviceSession::RolledBack(Error error, const std::vector<Known*>& done, const Step& step) {
  for (auto entry = done.rbegin(); entry != done.rend(); ++entry) {
    Known& known = **entry;
    Result<void> undone = known.guard.Check();
    if (!undone) continue;  // it has ended: nothing to take back
    undone = step.undo(known);
    // The driver's process died under it: another one may bring it to its end.
    if (!undone && undone.error().code() == ErrorCode::kUnavailable) undone = step.undo(known);
    const Result<GpuState> state = GuardedState(known.guard);
    if (state && *state == step.from) continue;
    // It is gone, or on its way: nothing to take back.
    if (!state && state.error().code() == ErrorCode::kNotFound) continue;
    if (state && *state == GpuState::kNone) continue;
    const bool lost = state && *state == GpuState::kFailed;
    const std::string why = undone ? "the driver reported success" : undone.error().message();
    std::string left = fmt::format("its GPU state is {}", state ? GpuStateName(*state) : "not known");
    if (!state) left += fmt::format(" ({})", state.error().message());
    const std::string next_step = lost ? "only an earlier image can bring the job back" : error.next_step();
    error = Error(lost ? ErrorCode::kLost : error.code(),
                  fmt::format("{}; taking that back, process {} did not become {} again, {}: {}", error.message(),
                              known.guard.pid(), GpuStateName(step.from), left, why))
                .WithNextStep(next_step);
  }
  return error;
}

Result<void> DeviceSession::AllOrNone(const std::vector<pid_t>& order, Entry entry, const Step& step) {
  std::vector<Known*> all;
  for (const pid_t process : order) {
    Known* known = GPUMIG_TRY(Enter(process, entry), "{} process {}", step.verb, process);
    const GpuState state = GPUMIG_TRY(GuardedState(known->guard), "{} process {}", step.verb, process);
    if (state != step.from) return WrongState(process, state, step.verb, step.from);
    all.push_back(known);
  }
  std::vector<Known*> done;
  for (Known* known : all) {
    bool changed = false;
    Result<void> ran = RunOne(*known, step, changed);
    if (changed) done.push_back(known);
    if (ran) continue;
    Error error = std::move(ran).error();
    error.AddContext(fmt::format("{} process {}", step.verb, known->guard.pid()));
    if (error.code() == ErrorCode::kLost) return error;
    return RolledBack(std::move(error), done, step);
  }
  return Ok();
}

Result<void> DeviceSession::Lock(std::span<const pid_t> processes, milliseconds limit) {
  GPUMIG_CHECK(limit > milliseconds(0));
  // Jobs that were captured here and ended elsewhere leave their entries behind.
  std::erase_if(known_, [](const auto& entry) { return !entry.second.guard.Check(); });
  const auto deadline = steady_clock::now() + limit;
  Step step{"lock", GpuState::kRunning, GpuState::kLocked, nullptr, nullptr, nullptr};
  step.run = [&](Known& known) -> Result<void> {
    // Rounded up and never 0, which would mean "for ever" to a driver.
    const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
    if (left <= milliseconds(0)) {
      return MakeError(ErrorCode::kDeadlineExceeded, "the {} ms were used up by the processes before it",
                       limit.count());
    }
    return backend_->Lock(known.guard.pid(), left);
  };
  step.undo = [&](Known& known) { return backend_->Unlock(known.guard.pid()); };
  // Not less than the call had that is to be waited for.
  step.settle = [&](Known& known) { return backend_->Lock(known.guard.pid(), limit); };
  return AllOrNone(Ascending(processes), Entry::kFirst, step);
}

Result<std::vector<pid_t>> DeviceSession::RestoreThreads(std::span<const pid_t> processes) {
  std::vector<pid_t> threads;
  for (const pid_t process : processes) {
    const ProcessGuard guard = GPUMIG_TRY(ProcessGuard::Open(process), "restore thread of process {}", process);
    const Result<pid_t> told = backend_->RestoreThread(process);
    GPUMIG_TRY(guard.Check(), "restore thread of process {}", process);
    if (!told) return Error(told.error()).AddContext(fmt::format("restore thread of process {}", process));
    threads.push_back(GPUMIG_TRY(ThreadInOurNamespace(process, *told)));
  }
  return threads;
}

Result<void> DeviceSession::CheckpointOne(Known& known, std::uint64_t* bytes) {
  const pid_t process = known.guard.pid();
  // For the room it wants only. Where they cannot be had the driver is asked all the same: what it says of the process
  // is final, and a guess of ours that all is well would not be.
  const Result<std::vector<GpuFacts>> gpus_before = backend_->Devices();
  const std::uint64_t before = MemoryOf({process}).anonymous_bytes;
  GPUMIG_TRY(backend_->Checkpoint(process));
  const std::uint64_t after = MemoryOf({process}).anonymous_bytes;
  if (bytes != nullptr && after > before) *bytes += after - before;
  known.held_bytes.clear();
  const Result<std::vector<GpuFacts>> gpus_after = backend_->Devices();
  if (!gpus_before || !gpus_after) return Ok();  // captured it is; we only know less of the room it wants
  for (const GpuFacts& gpu : *gpus_before) {
    const GpuFacts* now = Find(*gpus_after, gpu.uuid);
    if (now != nullptr && now->free_bytes > gpu.free_bytes)
      known.held_bytes[gpu.uuid] = now->free_bytes - gpu.free_bytes;
  }
  return Ok();
}

Result<void> DeviceSession::CheckRoom(const std::vector<Known*>& processes, std::span<const GpuPair> map,
                                      std::span<const GpuFacts> gpus) const {
  for (const GpuPair& pair : map) {
    std::uint64_t wanted = 0;
    for (const Known* known : processes) {
      const auto held = known->held_bytes.find(pair.old_uuid);
      if (held != known->held_bytes.end()) wanted += held->second;
    }
    const GpuFacts* gpu = Find(gpus, pair.new_uuid);
    if (gpu != nullptr && gpu->free_bytes < wanted) {
      return MakeError(ErrorCode::kResourceExhausted, "{} of {} must fit on {}, which has {} free", Gibibytes(wanted),
                       pair.old_uuid, pair.new_uuid, Gibibytes(gpu->free_bytes))
          .WithNextStep(fmt::format("nothing was tried; free memory on {}, or map to another GPU", pair.new_uuid));
    }
  }
  return Ok();
}

Result<void> DeviceSession::CheckLanding(const Known& known, std::span<const GpuPair> map,
                                         std::span<const GpuFacts> before) {
  const std::vector<GpuFacts> after = GPUMIG_TRY(backend_->Devices());
  for (const GpuPair& pair : map) {
    const auto held = known.held_bytes.find(pair.old_uuid);
    const GpuFacts* then = Find(before, pair.new_uuid);
    const GpuFacts* now = Find(after, pair.new_uuid);
    if (held == known.held_bytes.end() || then == nullptr || now == nullptr) continue;
    // Others come and go meanwhile; half of it is beyond doubt.
    if (now->free_bytes + held->second / 2 <= then->free_bytes) continue;
    return MakeError(ErrorCode::kInternal,
                     "{} of {} were to go to {}, whose free memory is as before: the driver ignored the map",
                     Gibibytes(held->second), pair.old_uuid, pair.new_uuid)
        .WithNextStep("restore onto the same GPUs, or with another driver");
  }
  return Ok();
}

Result<void> DeviceSession::RestoreOne(Known& known, std::span<const GpuPair> map) {
  const bool moves = std::ranges::any_of(map, [&](const GpuPair& pair) {
    return pair.old_uuid != pair.new_uuid && known.held_bytes.contains(pair.old_uuid);
  });
  std::vector<GpuFacts> before;
  if (moves) before = GPUMIG_TRY(backend_->Devices());
  Result<void> restored = backend_->Restore(known.guard.pid(), map);
  if (restored) {
    known.ran_out_of_memory = false;
    return moves ? CheckLanding(known, map, before) : restored;
  }
  const ErrorCode code = restored.error().code();
  // Source: cuda-checkpoint issue 44: after one restore that ran out of memory, each further one fails, for ever.
  if (known.ran_out_of_memory && code == ErrorCode::kIo) {
    return MakeError(ErrorCode::kLost, "{}, as does every restore after one that ran out of device memory",
                     restored.error().message())
        .WithNextStep("restore the job from its image, into new processes");
  }
  known.ran_out_of_memory = known.ran_out_of_memory || code == ErrorCode::kResourceExhausted;
  return restored;
}

Result<void> DeviceSession::RestoreInPlace(Known& known) {
  const std::vector<GpuFacts> gpus = GPUMIG_TRY(backend_->Devices());
  std::vector<GpuPair> map;
  for (const GpuFacts& gpu : gpus) map.push_back({gpu.uuid, gpu.uuid, "back where it was"});
  GPUMIG_TRY(CheckRoom({&known}, map, gpus));
  return RestoreOne(known, map);
}

Result<std::uint64_t> DeviceSession::Checkpoint(std::span<const pid_t> processes) {
  std::uint64_t bytes = 0;
  Step step{"checkpoint", GpuState::kLocked, GpuState::kCheckpointed, nullptr, nullptr, nullptr};
  step.run = [&](Known& known) { return CheckpointOne(known, &bytes); };
  step.undo = [&](Known& known) { return RestoreInPlace(known); };
  GPUMIG_TRY(AllOrNone(Ascending(processes), Entry::kLater, step));
  return bytes;
}

Result<void> DeviceSession::Restore(std::span<const pid_t> processes, std::span<const GpuPair> map) {
  if (processes.empty()) return Ok();
  const std::vector<pid_t> order = Ascending(processes);
  const std::vector<GpuFacts> gpus = GPUMIG_TRY(backend_->Devices());
  GPUMIG_TRY(CheckGpuMap(map, gpus));
  std::vector<Known*> all;
  for (const pid_t process : order)
    all.push_back(GPUMIG_TRY(Enter(process, Entry::kFirst), "restore process {}", process));
  GPUMIG_TRY(CheckRoom(all, map, gpus), "restore");
  Step step{"restore", GpuState::kCheckpointed, GpuState::kLocked, nullptr, nullptr, nullptr};
  step.run = [&](Known& known) { return RestoreOne(known, map); };
  step.undo = [&](Known& known) { return CheckpointOne(known, nullptr); };
  return AllOrNone(order, Entry::kFirst, step);
}

Result<void> DeviceSession::Unlock(std::span<const pid_t> processes) {
  std::vector<pid_t> order = Ascending(processes);
  std::ranges::reverse(order);
  Step step{"unlock", GpuState::kLocked, GpuState::kRunning, nullptr, nullptr, nullptr};
  step.run = [&](Known& known) { return backend_->Unlock(known.guard.pid()); };
  step.undo = [&](Known& known) { return backend_->Lock(known.guard.pid(), kRelockLimit); };
  GPUMIG_TRY(AllOrNone(order, Entry::kLater, step));
  for (const pid_t process : order) known_.erase(process);
  return Ok();
}

Result<std::vector<GpuPair>> DeviceSession::SolveMap(std::span<const GpuFacts> wanted, std::span<const GpuPair> asked) {
  return SolveGpuMap(wanted, GPUMIG_TRY(backend_->Devices()), asked);
}

}  // namespace gpumig
