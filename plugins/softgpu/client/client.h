// This process's end of the software GPU: its session, the channels to the daemon, and what a checkpoint must find.
//
// A driver library has one state per process, made by cuInit and never destroyed, for programs call it until they exit.
// Handles that the application holds are the daemon's ids; nothing else about contexts, streams or modules is kept
// here.
//
// The restore thread reads and writes what is marked so, while every other thread may be stopped anywhere. It can,
// because it does so only behind a closed and empty gate, and because none of it needs a lock or the heap.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "plugins/cuda_abi/cuda_abi.h"
#include "plugins/softgpu/client/control_page.h"
#include "plugins/softgpu/client/gate.h"
#include "plugins/softgpu/wire/mapping_requests.h"
#include "plugins/softgpu/wire/packet.h"
#include "plugins/softgpu/wire/protocol.h"

namespace softgpu {

// What the daemon's end answers with when it has gone: as if the device had fallen off the bus.
inline constexpr cuda_abi::CUresult kConnectionLost = cuda_abi::CUDA_ERROR_DEVICE_UNAVAILABLE;

struct DeviceSlot {
  DeviceDescription description;
  std::uint64_t base = 0;  // Of the address range, which is set aside for good.
  std::uint64_t span_bytes = 0;
  int memory_fd = -1;           // Device memory; -1 while checkpointed.
  std::byte* window = nullptr;  // All of it, for bulk copies; null while checkpointed.
};

// The connections and memory of a session. Used by the restore thread.
struct SessionLink {
  std::array<char, 108> socket_path{};
  int owner_fd = -1;
  int control_fd = -1;
  Token token{};
  std::array<DeviceSlot, kMaxDevices> devices{};
  std::uint32_t device_count = 0;
};

// Sends `request` over `socket` and waits for its reply. Nothing: the daemon has gone.
template <typename Request>
std::optional<cuda_abi::CUresult> CallOver(int socket, Id context, const Request& request,
                                           typename Request::Reply& reply, std::span<const std::byte> payload = {},
                                           std::span<std::byte>* reply_payload = nullptr, int fd = -1,
                                           int* reply_fd = nullptr) {
  Exchange exchange;
  exchange.header.op = Request::kOp;
  exchange.header.context = context;
  exchange.body = std::as_bytes(std::span(&request, 1));
  exchange.payload = payload;
  if (fd >= 0) exchange.fds = std::span(&fd, 1);
  exchange.reply_body = std::as_writable_bytes(std::span(&reply, 1));
  if (reply_payload != nullptr) exchange.reply_payload = *reply_payload;
  if (socket < 0 || !DoExchange(socket, exchange)) return std::nullopt;
  if (reply_payload != nullptr) *reply_payload = exchange.reply_payload;
  if (reply_fd != nullptr && exchange.reply_fds.count == 1) {
    *reply_fd = exchange.reply_fds.fds[0];
  } else {
    exchange.reply_fds.CloseAll();
  }
  return static_cast<cuda_abi::CUresult>(exchange.reply.result);
}

class Client {
 public:
  // Null until cuInit has succeeded; in a child made by fork(), always null.
  static Client* Get();
  // cuInit: connects, opens a session, starts the restore thread.
  static cuda_abi::CUresult Initialize();

  SessionLink& link() { return link_; }
  Gate& gate() { return gate_; }
  std::uint32_t device_count() const { return link_.device_count; }
  // Whether it was started in a launch job, which shares memory across processes. Used by the restore thread.
  bool has_job_file() const { return has_job_file_; }
  // Whether the node had devices that this process did not see. Used by the restore thread.
  bool hides_devices() const { return node_device_count_ > link_.device_count; }
  std::uint32_t driver_version() const { return driver_version_; }
  // Of an arena, a view, or a range of AddRange().
  bool IsDevice(std::uint64_t address);
  // REQUIRES: of an arena or a view, and inside the gate.
  std::byte* Window(std::uint64_t address) const;
  std::byte* WindowAt(const MemoryPiece& piece) const { return link_.devices[piece.ordinal].window + piece.offset; }

  // Ranges of addresses for another process's device memory; `window` is where its bytes are in this one. The range may
  // be any that is set aside. False: there are too many.
  bool AddView(std::uint64_t base, std::uint64_t bytes, std::byte* window);
  void RemoveView(std::uint64_t base);

  // Sends `request` and waits for its reply, inside the gate. `context`: the calling thread's current one.
  template <typename Request>
  cuda_abi::CUresult Call(Id context, const Request& request, typename Request::Reply& reply,
                          std::span<const std::byte> payload = {}, std::span<std::byte>* reply_payload = nullptr,
                          int fd = -1, int* reply_fd = nullptr) {
    const Gate::Pass pass(gate_);
    Channel channel(*this);
    return channel.Call(context, request, reply, payload, reply_payload, fd, reply_fd);
  }
  template <typename Request>
  cuda_abi::CUresult Call(Id context, const Request& request) {
    typename Request::Reply reply{};
    return Call(context, request, reply);
  }

  // As Call(), with more than one descriptor.
  template <typename Request>
  cuda_abi::CUresult CallWithFds(Id context, const Request& request, std::span<const int> fds) {
    const Gate::Pass pass(gate_);
    Channel channel(*this);
    return channel.CallWithFds(context, request, fds);
  }

  // A connection for the calling thread alone while it lives. REQUIRES: inside the gate
  class Channel {
   public:
    explicit Channel(Client& client);
    ~Channel();
    Channel(const Channel&) = delete;
    Channel& operator=(const Channel&) = delete;

    // `reply_fd`: where the fd goes that the reply brings, the caller's to close; else it is closed.
    template <typename Request>
    cuda_abi::CUresult Call(Id context, const Request& request, typename Request::Reply& reply,
                            std::span<const std::byte> payload = {}, std::span<std::byte>* reply_payload = nullptr,
                            int fd = -1, int* reply_fd = nullptr) {
      return Keep(CallOver(*slot_, context, request, reply, payload, reply_payload, fd, reply_fd));
    }

    template <typename Request>
    cuda_abi::CUresult CallWithFds(Id context, const Request& request, std::span<const int> fds) {
      typename Request::Reply reply{};
      Exchange exchange;
      exchange.header.op = Request::kOp;
      exchange.header.context = context;
      exchange.body = std::as_bytes(std::span(&request, 1));
      exchange.fds = fds;
      exchange.reply_body = std::as_writable_bytes(std::span(&reply, 1));
      if (!DoExchange(*slot_, exchange)) return Keep(std::nullopt);
      exchange.reply_fds.CloseAll();
      return static_cast<cuda_abi::CUresult>(exchange.reply.result);
    }

    // For a further CallOver(); -1: there is no connection.
    int socket() const { return *slot_; }

   private:
    // Closes the channel if there was no answer.
    cuda_abi::CUresult Keep(std::optional<cuda_abi::CUresult> result);

    Client& client_;
    int* slot_;  // Of client_.channels_.
  };

  // Starts the service thread, which does what streams need done in this process, if it does not run yet.
  cuda_abi::CUresult EnsureService();
  // 0: it waits at the gate. 1: it waits for work. 2: it works. Used by the restore thread.
  std::atomic<std::uint32_t>& service_state() { return service_state_; }

  // Closes every connection but the owner's and the control one. Used by the restore thread.
  void CloseChannels();

  // Host memory that the application has pinned.
  void AddPinned(std::uint64_t base, std::uint64_t bytes, std::uint32_t flags, bool is_ours);
  struct Pinned {
    std::uint64_t bytes = 0;
    std::uint32_t flags = 0;
    bool is_ours = false;  // From cuMemHostAlloc.
  };
  // False: nothing pinned begins at `base`.
  bool TakePinned(std::uint64_t base, bool is_ours, Pinned& pinned);
  bool FindPinned(std::uint64_t address, std::uint64_t bytes, std::uint64_t& base, Pinned& pinned);

  // Addresses that are set aside for device memory, beside those of the devices.
  void AddRange(std::uint64_t base, std::uint64_t bytes);
  void RemoveRange(std::uint64_t base);

  // Where a launch puts its parameters.
  void AddLayout(Id function, std::span<const ParameterPlace> places);
  bool FindLayout(Id function, std::vector<ParameterPlace>& places);

 private:
  static constexpr std::size_t kMaxChannels = 256;

  Client() { channels_.fill(-1); }
  ~Client();
  cuda_abi::CUresult Start();
  cuda_abi::CUresult OpenSession();
  cuda_abi::CUresult StartControl();
  struct ViewSlot {
    std::atomic<std::uint64_t> base{0};  // 0: free. Set last.
    std::atomic<std::uint64_t> bytes{0};
    std::atomic<std::byte*> window{nullptr};
  };
  const ViewSlot* ViewOf(std::uint64_t address) const;
  const DeviceSlot* SlotOf(std::uint64_t address) const;
  void Serve();
  void DoService(const request::ServiceWait::Reply& item);
  int* TakeChannel();
  static void BeforeFork();
  static void AfterForkInParent();
  static void AfterForkInChild();

  SessionLink link_;
  Gate gate_;
  std::array<ViewSlot, kMaxDevices> views_;
  std::uint32_t driver_version_ = kDefaultDriverVersion;
  bool has_job_file_ = false;
  std::uint32_t node_device_count_ = 0;  // Seen or hidden, when the session was opened.
  int control_memory_fd_ = -1;
  ControlPage* control_page_ = nullptr;
  std::array<int, 2> command_pipe_{-1, -1};
  std::array<int, 2> answer_pipe_{-1, -1};

  std::mutex mutex_;  // Guards what follows, save for the restore thread's CloseChannels().
  std::condition_variable channel_free_;
  std::array<int, kMaxChannels> channels_{};  // Those in use are guarded by their users being one each.
  std::array<bool, kMaxChannels> busy_{};
  std::map<std::uint64_t, Pinned> pinned_;
  std::map<std::uint64_t, std::uint64_t> ranges_;  // Bytes by base.
  std::map<Id, std::vector<ParameterPlace>> layouts_;
  bool service_started_ = false;
  int service_fd_ = -1;  // The service thread's, and in CloseChannels() the restore thread's.
  std::atomic<std::uint32_t> service_state_{0};
};

// A range of addresses that nothing else in this process will get, at a multiple of `alignment` and if possible at
// `hint`. It holds nothing, so a host access faults. 0: there is none.
std::uint64_t ReserveAddresses(std::uint64_t bytes, std::uint64_t alignment = kMapGranuleBytes, std::uint64_t hint = 0);

// Connects and says which session the connection belongs to. -1: it cannot be had. Used by the restore thread.
int ConnectChannel(const SessionLink& link);

// All of a device's memory, not for children. Null: the system refuses. Used by the restore thread.
std::byte* MapWindow(const DeviceSlot& slot);

}  // namespace softgpu
