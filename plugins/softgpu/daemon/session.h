// All that one client process has on the devices: one address space, its contexts, memory, streams, events and modules.
//
// Handles from the client are ids looked up in tables, so a wild one is INVALID_HANDLE (INVALID_CONTEXT for contexts)
// and never more. A poisoned context answers with its error.
//
// Ownership: borrows the devices, which must outlive it. Close() gives all memory back, also while channels of the
// client still wait in it; they wake with DEINITIALIZED. Thread safety: any number of threads at once.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/cuda_abi/cuda_abi.h"
#include "plugins/softgpu/daemon/arena.h"
#include "plugins/softgpu/daemon/device.h"
#include "plugins/softgpu/daemon/scheduler.h"
#include "plugins/softgpu/daemon/session_state.h"
#include "plugins/softgpu/daemon/view.h"
#include "plugins/softgpu/ptx/launch.h"
#include "plugins/softgpu/ptx/module.h"
#include "plugins/softgpu/wire/protocol.h"

namespace softgpu {

class Session {
 public:
  using Result = cuda_abi::CUresult;

  // Arenas in the order of the client's ordinals.
  Session(std::uint64_t number, std::vector<std::unique_ptr<Arena>> arenas);
  ~Session();

  // Of a new session only. On an error the session is good for nothing but Close().
  Result Import(SessionState state);
  // Waits for all work first.
  SessionState Export();
  void Close();
  bool is_closed() const { return abort_; }

  Scheduler& scheduler() { return scheduler_; }
  std::vector<int> memory_fds() const;

  Result PrimaryRetain(std::uint32_t ordinal, Id& context);
  Result PrimaryRelease(std::uint32_t ordinal);
  Result PrimaryState(std::uint32_t ordinal, std::uint32_t& flags, bool& active);
  Result PrimarySetFlags(std::uint32_t ordinal, std::uint32_t flags);
  Result PrimaryReset(std::uint32_t ordinal);
  Result ContextCreate(std::uint32_t ordinal, std::uint32_t flags, Id& context);
  Result ContextDestroy(Id context);
  Result ContextInfo(Id context, request::ContextInfo::Reply& info);
  // SUCCESS, INVALID_CONTEXT, or the error that poisons it.
  Result CheckContext(Id context);

  Result MemAlloc(Id context, std::uint64_t bytes, std::uint64_t& address);
  Result MemFree(std::uint64_t address);
  Result MemInfo(Id context, request::MemInfo::Reply& info);
  Result MemFind(std::uint64_t address, request::MemFind::Reply& info);
  // Another session's memory, at addresses that this one does not use yet. INVALID_VALUE: see View::Open().
  Result OpenView(const request::OpenView& open, int memory, std::span<const ViewPiece> pieces);
  Result CloseView(std::uint64_t base);
  // Waits until the device has moved so many bytes, by its bandwidth, or the session ends.
  Result WaitForBandwidth(std::uint64_t ordinal, std::uint64_t bytes);
  void WaitForBandwidthAt(std::uint64_t address, std::uint64_t bytes);

  // `wait`: returns when it is done.
  Result CopyIn(Id context, Id stream, std::uint64_t to, std::span<const std::byte> data, bool wait);
  // REQUIRES: data.size() <= kMaxInlineBytes
  Result CopyOut(Id context, Id stream, std::uint64_t from, std::span<std::byte> data);
  Result CopyTurn(Id context, const request::CopyTurn& copy, Id& turn);
  Result CopyDeferred(Id context, const request::CopyDeferred& copy);
  Result CopyDevice(Id context, const request::CopyDevice& copy);
  Result Fill(Id context, const request::Fill& fill);

  Result StreamCreate(Id context, std::uint32_t flags, std::int32_t priority, Id& stream);
  Result StreamDestroy(Id stream);
  Result StreamWait(Id context, Id stream);
  Result StreamQuery(Id context, Id stream);
  Result StreamWaitEvent(Id context, Id stream, Id event);
  Result StreamInfo(Id context, Id stream, request::StreamInfo::Reply& info);
  Result HostFunction(Id context, const request::HostFunction& call);

  Result EventCreate(Id context, std::uint32_t flags, Id& event);
  Result EventDestroy(Id event);
  Result EventRecord(Id context, Id event, Id stream);
  Result EventQuery(Id event);
  Result EventWait(Id event);
  Result EventElapsed(Id start, Id end, std::int64_t& nanoseconds);

  Result ModuleLoad(Id context, std::string text, Id& module);
  Result ModuleUnload(Id module);
  Result ModuleFunction(Id module, std::string_view name, FunctionDescription& function,
                        std::vector<ParameterPlace>& places);
  Result ModuleGlobal(Id module, std::string_view name, std::uint64_t& address, std::uint64_t& bytes);
  Result FunctionInfo(Id function, FunctionDescription& info, std::string& name);
  Result FunctionSet(Id function, std::uint32_t max_dynamic_shared_bytes);
  Result Launch(Id context, const request::Launch& launch, std::span<const std::byte> parameters);

 private:
  static constexpr int kMaxLogLines = 100;  // So that a program cannot fill the log.
  static constexpr std::size_t kMaxContexts = 256;
  static constexpr std::size_t kMaxEvents = std::size_t{1} << 16;
  static constexpr std::size_t kMaxModules = 4096;
  static constexpr std::size_t kMaxModuleBytes = std::size_t{128} << 20;  // Of all texts: an Export() must hold them.
  static constexpr std::size_t kMaxFunctions = std::size_t{1} << 16;

  struct Context {
    std::uint32_t ordinal = 0;
    std::uint32_t flags = 0;
    bool is_primary = false;
    std::uint32_t retain_count = 0;
  };
  struct Event {
    Id context = 0;
    std::uint32_t flags = 0;
    CompletionPtr recorded;  // Null: never recorded.
  };
  struct Module {
    Id context = 0;
    std::string text;
    std::shared_ptr<const ptx::Module> code;  // Shared with launches on their way.
    std::uint64_t variables_base = 0;
    std::vector<std::uint64_t> addresses;  // Of code->globals().
  };
  struct Function {
    Id module = 0;
    std::string name;
    const ptx::Kernel* kernel = nullptr;  // In the module's code.
    std::uint32_t max_dynamic_shared_bytes = 0;
  };
  // What kernels see of memory. Immutable; shared by the launches that were added while it was so.
  using MemoryMap = std::vector<ptx::Segment>;

  void Log(const std::string& line);
  Id NewId() { return next_id_++; }
  Result AddContext(Id id, const Context& context);
  Result NewContext(std::uint32_t ordinal, std::uint32_t flags, bool is_primary, Id& id);
  void EmptyContext(Id id);
  Id FindPrimary(std::uint32_t ordinal) const;
  Result StreamOf(Id context, Id stream, Id& found);
  Arena* ArenaOf(std::uint64_t address) const;
  std::byte* BytesOfView(std::uint64_t address, std::uint64_t bytes) const;
  // The bytes [address, address + bytes), or null if they are not of one allocation.
  std::byte* Bytes(std::uint64_t address, std::uint64_t bytes) const;
  std::shared_ptr<const MemoryMap> CurrentMap();
  Result AddWork(Id context, Id stream, bool wait, Scheduler::Work work);
  Result PlaceVariables(Module& module, bool restore);
  Result RunKernel(const ptx::Module& code, const ptx::Kernel& kernel, const request::Launch& launch,
                   std::span<const std::byte> parameters, std::span<const std::uint64_t> addresses,
                   const MemoryMap& map);
  Result CheckLaunch(const Function& function, const request::Launch& launch, std::size_t parameter_bytes) const;
  FunctionDescription Describe(Id id, const Function& function) const;
  Scheduler::Clock::time_point ToClock(std::int64_t session_ns) const;
  std::int64_t ToSession(Scheduler::Clock::time_point time) const;

  const std::uint64_t number_;  // For the log.
  std::atomic<bool> abort_{false};
  std::atomic<int> log_lines_{0};
  mutable std::mutex mutex_;  // Guards all below; not held while waiting.
  std::vector<std::unique_ptr<Arena>> arenas_;
  std::map<Id, Context> contexts_;
  std::map<Id, Event> events_;
  std::map<Id, Module> modules_;
  std::map<Id, Function> functions_;
  std::array<std::uint32_t, kMaxDevices> primary_flags_{};
  std::map<std::uint64_t, std::unique_ptr<View>> views_;  // By base.
  std::shared_ptr<const MemoryMap> map_;                  // Null: memory has changed since.
  std::size_t module_bytes_ = 0;
  Id next_id_ = kFirstId;
  Scheduler::Clock::time_point epoch_ = Scheduler::Clock::now();  // Session time 0.
  bool closed_ = false;
  Scheduler scheduler_;  // Last: its workers end before the rest goes.
};

}  // namespace softgpu
