// Session: taken out of one daemon and put into another.
#include <algorithm>
#include <set>

#include "plugins/softgpu/daemon/session.h"

namespace softgpu {

using cuda_abi::CUresult;

Scheduler::Clock::time_point Session::ToClock(std::int64_t session_ns) const {
  return epoch_ + std::chrono::duration_cast<Scheduler::Clock::duration>(std::chrono::nanoseconds(session_ns));
}

std::int64_t Session::ToSession(Scheduler::Clock::time_point time) const {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time - epoch_).count();
}

CUresult Session::Export(SessionState& state) {
  scheduler_.WaitAll(std::nullopt);
  const std::lock_guard lock(mutex_);
  // What other processes have, too, cannot be taken away and given back behind their backs.
  if (space_.has_shared()) return cuda_abi::CUDA_ERROR_NOT_SUPPORTED;
  state.next_id = next_id_;
  state.now_ns = ToSession(Scheduler::Clock::now());
  for (const auto& [id, context] : contexts_) {
    state.contexts.push_back({id, context.ordinal, context.flags, context.is_primary ? 1U : 0U, context.retain_count,
                              static_cast<std::uint32_t>(scheduler_.Error(id))});
  }
  for (const auto& [id, info] : scheduler_.Streams()) {
    if (!info.is_default) state.streams.push_back({id, info.context, info.flags, info.priority});
  }
  for (const auto& [id, event] : events_) {
    const bool recorded = event.recorded != nullptr;
    state.events.push_back(
        {id, event.context, event.flags, recorded ? 1U : 0U, recorded ? ToSession(event.recorded->finished_at) : 0});
  }
  for (const auto& [id, module] : modules_) {
    state.modules.push_back({id, module.context, module.variables_base, module.text});
  }
  for (const auto& [id, function] : functions_) {
    state.functions.push_back({id, function.module, function.max_dynamic_shared_bytes, function.name});
  }
  for (const auto& arena : arenas_) {
    for (const auto& [base, allocation] : arena->allocations()) state.allocations.push_back(allocation);
  }
  space_.Save(state);
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Session::Import(SessionState state) {
  constexpr CUresult kBad = cuda_abi::CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard lock(mutex_);
  if (state.next_id == 0 || state.now_ns < 0) return kBad;
  next_id_ = state.next_id;
  epoch_ = Scheduler::Clock::now() -
           std::chrono::duration_cast<Scheduler::Clock::duration>(std::chrono::nanoseconds(state.now_ns));
  std::set<Id> ids;
  const auto is_new = [&](Id id) { return id != 0 && id < state.next_id && ids.insert(id).second; };

  for (const SessionState::Context& context : state.contexts) {
    if (!is_new(context.id) || context.ordinal >= arenas_.size()) return kBad;
    const CUresult added =
        AddContext(context.id, {context.ordinal, context.flags, context.is_primary != 0, context.retain_count});
    if (added != cuda_abi::CUDA_SUCCESS) return added;
    if (context.is_primary != 0) primary_flags_[context.ordinal] = context.flags;
    if (context.error != 0) scheduler_.SetError(context.id, static_cast<CUresult>(context.error));
  }
  for (const SessionState::Stream& stream : state.streams) {
    if (!is_new(stream.id) || !contexts_.contains(stream.context)) return kBad;
    const CUresult added = scheduler_.AddStream(stream.id, {stream.context, stream.flags, stream.priority, false});
    if (added != cuda_abi::CUDA_SUCCESS) return added;
  }
  for (const SessionState::Event& event : state.events) {
    if (!is_new(event.id) || !contexts_.contains(event.context) || events_.size() >= kMaxEvents) return kBad;
    CompletionPtr recorded;
    if (event.is_recorded != 0) {
      recorded = std::make_shared<Completion>();
      recorded->done = true;
      recorded->finished_at = ToClock(event.recorded_at_ns);
    }
    events_.emplace(event.id, Event{event.context, event.flags, std::move(recorded)});
  }
  for (const Allocation& allocation : state.allocations) {
    Arena* arena = ArenaOf(allocation.base);
    if (arena == nullptr || allocation.is_moved) return kBad;
    if (!allocation.is_physical && !contexts_.contains(allocation.context)) return kBad;
    if (const CUresult added = arena->AllocateAt(allocation); added != cuda_abi::CUDA_SUCCESS) return added;
  }
  if (const CUresult loaded = space_.Load(state, is_new); loaded != cuda_abi::CUDA_SUCCESS) return loaded;
  for (SessionState::Module& saved : state.modules) {
    if (!is_new(saved.id) || !contexts_.contains(saved.context) || modules_.size() >= kMaxModules) return kBad;
    Module module;
    module.context = saved.context;
    module.variables_base = saved.variables_base;
    auto parsed = ptx::Module::Parse(saved.text);
    if (std::holds_alternative<ptx::ParseError>(parsed)) return cuda_abi::CUDA_ERROR_INVALID_PTX;
    module.code = std::get<std::unique_ptr<ptx::Module>>(std::move(parsed));
    module.text = std::move(saved.text);
    if (const CUresult placed = PlaceVariables(module, /*restore=*/true); placed != cuda_abi::CUDA_SUCCESS) {
      return placed;
    }
    // What ModuleUnload() will free must be the module's own.
    const Arena* arena = ArenaOf(module.variables_base);
    const Allocation* own = arena == nullptr ? nullptr : arena->Find(module.variables_base);
    const bool is_own = own != nullptr && own->base == module.variables_base && own->is_module;
    if (module.variables_base != 0 && !is_own) return kBad;
    module_bytes_ += module.text.size();
    modules_.emplace(saved.id, std::move(module));
  }
  for (SessionState::Function& saved : state.functions) {
    const auto module = modules_.find(saved.module);
    if (!is_new(saved.id) || module == modules_.end() || functions_.size() >= kMaxFunctions) return kBad;
    const ptx::Kernel* kernel = module->second.code->FindKernel(saved.name);
    if (kernel == nullptr) return kBad;
    functions_.emplace(saved.id, Function{saved.module, saved.name, kernel, saved.max_dynamic_shared_bytes});
  }
  map_.reset();
  return cuda_abi::CUDA_SUCCESS;
}

}  // namespace softgpu
