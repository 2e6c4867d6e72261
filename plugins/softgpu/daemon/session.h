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
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/cuda_abi/cuda_abi.h"
#include "plugins/softgpu/daemon/address_space.h"
#include "plugins/softgpu/daemon/arena.h"
#include "plugins/softgpu/daemon/device.h"
#include "plugins/softgpu/daemon/scheduler.h"
#include "plugins/softgpu/daemon/session_state.h"
#include "plugins/softgpu/daemon/shared_memory.h"
#include "plugins/softgpu/daemon/view.h"
#include "plugins/softgpu/ptx/launch.h"
#include "plugins/softgpu/ptx/module.h"
#include "plugins/softgpu/wire/protocol.h"

namespace softgpu {

class Session {
 public:
  using Result = cuda_abi::CUresult;

  // Arenas in the order of the client's ordinals. `shared` is of the daemon, whose sessions may share memory.
  Session(std::uint64_t number, std::vector<std::unique_ptr<Arena>> arenas, SharedMemoryTable& shared);
  ~Session();

  // Of a new session only. On an error the session is good for nothing but Close().
  Result Import(SessionState state);
  // Waits for all work first. NOT_SUPPORTED: it has memory that is shared with other processes.
  Result Export(SessionState& state);
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
  Result CopyTurn(Id context, const request::CopyTurn& copy, request::CopyTurn::Reply& reply);
  // The turn of a copy, or of a host function, is over.
  Result FinishTurn(Id turn);
  request::ServiceWait::Reply NextService();
  Result CopyDeferred(Id context, const request::CopyDeferred& copy);
  Result CopyDevice(Id context, const request::CopyDevice& copy);
  Result Fill(Id context, const request::Fill& fill);
  Result Translate(const request::Translate& translate, std::vector<MemoryPiece>& pieces);
  // `fd` is the client's.
  Result CopyNow(const request::CopyNow& copy, int fd);

  Result Reserve(std::uint64_t base, std::uint64_t bytes);
  Result Unreserve(std::uint64_t base, std::uint64_t bytes);
  Result PhysicalCreate(std::uint64_t bytes, const PhysicalProperties& properties, Id& handle);
  Result PhysicalRelease(Id handle);
  Result PhysicalRetain(std::uint64_t address, Id& handle);
  Result PhysicalInfo(Id handle, request::PhysicalInfo::Reply& info);
  // `fd` is borrowed: SharedMemory's.
  Result PhysicalExport(Id handle, std::shared_ptr<SharedMemory>& shared);
  Result PhysicalImport(int fd, Id& handle);
  Result Map(const request::Map& map);
  Result Unmap(std::uint64_t base, std::uint64_t bytes);
  Result SetAccess(const request::SetAccess& set, std::span<const AccessDescription> descriptions);
  Result GetAccess(std::uint64_t address, std::uint64_t ordinal, std::uint64_t& flags);
  Result IpcExport(std::uint64_t address, request::IpcExport::Reply& reply);
  Result IpcOpen(Id context, const request::IpcOpen& open, std::uint64_t& address);
  Result IpcClose(std::uint64_t address, std::uint64_t& freed_bytes);

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
  // The name is empty if there are fewer kernels.
  Result ModuleKernel(Id module, std::uint32_t index, std::uint32_t& count, std::string& name);
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
  // What kernels of each device see; null: memory has changed since. Shared by the kernels that run.
  struct MemoryMaps {
    std::array<std::shared_ptr<const MemoryMap>, kMaxDevices> of_device;
    void reset() { of_device.fill(nullptr); }
  };
  // While one lives, no bytes move from where pointers into device memory say they are.
  class UseOfMemory {
   public:
    explicit UseOfMemory(Session& session);
    ~UseOfMemory();
    UseOfMemory(const UseOfMemory&) = delete;
    UseOfMemory& operator=(const UseOfMemory&) = delete;

   private:
    Session& session_;
  };

  void Log(const std::string& line);
  Id NewId() { return next_id_++; }
  Result AddContext(Id id, const Context& context);
  Result NewContext(std::uint32_t ordinal, std::uint32_t flags, bool is_primary, Id& id);
  void EmptyContext(Id id);
  Id FindPrimary(std::uint32_t ordinal) const;
  Result StreamOf(Id context, Id stream, Id& found);
  Arena* ArenaOf(std::uint64_t address) const;
  // Waits until nothing uses memory, so that it may be moved. REQUIRES: `lock` holds mutex_
  bool WaitUnused(std::unique_lock<std::mutex>& lock);
  std::shared_ptr<const MemoryMap> CurrentMap(std::uint32_t ordinal);
  Result AddWork(Id context, Id stream, bool wait, Scheduler::Work work);
  Result PlaceVariables(Module& module, bool restore);
  Result RunKernel(const ptx::Module& code, const ptx::Kernel& kernel, const request::Launch& launch,
                   std::span<const std::byte> parameters, std::span<const std::uint64_t> addresses,
                   std::uint32_t ordinal);
  Result CheckLaunch(const Function& function, const request::Launch& launch, std::size_t parameter_bytes) const;
  FunctionDescription Describe(Id id, const Function& function) const;
  Scheduler::Clock::time_point ToClock(std::int64_t session_ns) const;
  std::int64_t ToSession(Scheduler::Clock::time_point time) const;

  const std::uint64_t number_;  // For the log.
  std::atomic<bool> abort_{false};
  std::atomic<int> log_lines_{0};
  mutable std::mutex mutex_;  // Guards all below; not held while waiting.
  std::vector<std::unique_ptr<Arena>> arenas_;
  std::map<std::uint64_t, std::unique_ptr<View>> views_;  // By base.
  AddressSpace space_;
  SharedMemoryTable& shared_;
  std::condition_variable memory_unused_;
  std::size_t memory_uses_ = 0;
  std::size_t movers_ = 0;      // Who wait for memory_uses_ to become 0; new uses wait for them.
  std::set<Id> copying_turns_;  // Uses of memory by the client.
  std::map<Id, Context> contexts_;
  std::map<Id, Event> events_;
  std::map<Id, Module> modules_;
  std::map<Id, Function> functions_;
  std::array<std::uint32_t, kMaxDevices> primary_flags_{};
  MemoryMaps map_;
  std::size_t module_bytes_ = 0;
  Id next_id_ = kFirstId;
  Scheduler::Clock::time_point epoch_ = Scheduler::Clock::now();  // Session time 0.
  bool closed_ = false;
  Scheduler scheduler_;  // Last: its workers end before the rest goes.
};

}  // namespace softgpu
