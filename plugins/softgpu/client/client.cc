#include "plugins/softgpu/client/client.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>

#include "plugins/softgpu/client/driver_facts.h"
#include "plugins/softgpu/client/host_copy.h"
#include "plugins/softgpu/client/restore_thread.h"
#include "plugins/softgpu/client/visible_devices.h"

namespace softgpu {

using cuda_abi::CUresult;

namespace {

constexpr std::size_t kControlBytes = 4096;
constexpr std::uint64_t kSpanAlignment = std::uint64_t{2} << 20;

std::atomic<Client*> g_client{nullptr};  // Set once, and to null again in forked children.
std::atomic<bool> g_forked{false};
std::mutex g_start_mutex;  // One cuInit at a time.

// A thread that goes on as long as the process. The program's signal handlers are not for it.
bool StartThread(void* (*function)(void*), void* argument) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const int failed = pthread_create(&thread, nullptr, function, argument);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (failed != 0) return false;
  pthread_detach(thread);
  return true;
}

}  // namespace

std::uint64_t ReserveAddresses(std::uint64_t bytes, std::uint64_t alignment, std::uint64_t hint) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  if (hint != 0 && hint % alignment == 0) {
    void* range = mmap(reinterpret_cast<void*>(hint), bytes, PROT_NONE, kFlags | MAP_FIXED_NOREPLACE, -1, 0);
    if (reinterpret_cast<std::uint64_t>(range) == hint) {
      madvise(range, bytes, MADV_DONTDUMP);
      return hint;
    }
    if (range != MAP_FAILED) munmap(range, bytes);
  }
  void* range = mmap(nullptr, bytes + alignment, PROT_NONE, kFlags, -1, 0);
  if (range == MAP_FAILED) return 0;
  const auto begin = reinterpret_cast<std::uint64_t>(range);
  const std::uint64_t base = (begin + alignment - 1) / alignment * alignment;
  if (base > begin) munmap(range, base - begin);
  const std::uint64_t end = begin + bytes + alignment;
  if (end > base + bytes) munmap(reinterpret_cast<void*>(base + bytes), end - (base + bytes));
  madvise(reinterpret_cast<void*>(base), bytes, MADV_DONTDUMP);
  return base;
}

Client* Client::Get() { return g_client.load(std::memory_order_acquire); }

CUresult Client::Initialize() {
  const std::lock_guard lock(g_start_mutex);
  // Source: a real driver, too, cannot be used or set up again in a child of an initialised process.
  if (g_forked.load()) return cuda_abi::CUDA_ERROR_NOT_INITIALIZED;
  if (Get() != nullptr) return cuda_abi::CUDA_SUCCESS;
  auto* client = new (std::nothrow) Client();  // Never deleted: calls come until the process exits.
  if (client == nullptr) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = client->Start();
  if (result != cuda_abi::CUDA_SUCCESS) {
    delete client;
    return result;
  }
  pthread_atfork(&Client::BeforeFork, &Client::AfterForkInParent, &Client::AfterForkInChild);
  g_client.store(client, std::memory_order_release);
  return cuda_abi::CUDA_SUCCESS;
}

CUresult Client::Start() {
  const char* path = SocketPath();
  if (path == nullptr) return cuda_abi::CUDA_ERROR_NO_DEVICE;
  std::strcpy(link_.socket_path.data(), path);
  const CUresult result = OpenSession();
  return result == cuda_abi::CUDA_SUCCESS ? StartControl() : result;
}

// Of one that did not start: nothing may stay, least of all a connection that keeps CRIU from this process.
Client::~Client() {
  const auto close_fd = [](int fd) {
    if (fd >= 0) close(fd);
  };
  close_fd(link_.owner_fd);
  close_fd(link_.control_fd);
  for (const DeviceSlot& slot : link_.devices) {
    if (slot.window != nullptr) munmap(slot.window, slot.span_bytes);
    if (slot.base != 0) munmap(reinterpret_cast<void*>(slot.base), slot.span_bytes);
    close_fd(slot.memory_fd);
  }
  if (control_page_ != nullptr) munmap(control_page_, kControlBytes);
  close_fd(control_memory_fd_);
  for (const int fd : command_pipe_) close_fd(fd);
  for (const int fd : answer_pipe_) close_fd(fd);
}

CUresult Client::OpenSession() {
  link_.owner_fd = ConnectTo(link_.socket_path.data());
  if (link_.owner_fd < 0) return cuda_abi::CUDA_ERROR_NO_DEVICE;
  const request::Hello hello;
  request::Hello::Reply devices;
  Exchange exchange;
  exchange.header.op = Op::kHello;
  exchange.body = std::as_bytes(std::span(&hello, 1));
  exchange.reply_body = std::as_writable_bytes(std::span(&devices, 1));
  if (!DoExchange(link_.owner_fd, exchange) || devices.device_count > kMaxDevices) {
    return cuda_abi::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH;
  }
  if (exchange.reply.result != 0) return static_cast<CUresult>(exchange.reply.result);

  driver_version_ = devices.driver_version;
  has_job_file_ = std::getenv("CUDA_CHECKPOINT_JOB_FILE") != nullptr;
  node_device_count_ = devices.device_count;
  request::OpenSession open;
  for (const std::size_t index :
       VisibleDevices(std::getenv("CUDA_VISIBLE_DEVICES"), std::span(devices.devices).first(devices.device_count))) {
    DeviceSlot& slot = link_.devices[open.device_count];
    slot.description = devices.devices[index];
    slot.span_bytes = (slot.description.memory_bytes + kSpanAlignment - 1) / kSpanAlignment * kSpanAlignment;
    slot.base = ReserveAddresses(slot.span_bytes, kSpanAlignment);
    if (slot.base == 0) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
    open.devices[open.device_count++] = {slot.description.uuid, slot.base, slot.span_bytes};
  }
  if (open.device_count == 0) return cuda_abi::CUDA_ERROR_NO_DEVICE;

  SessionReply session;
  exchange = {};
  exchange.header.op = Op::kOpenSession;
  exchange.body = std::as_bytes(std::span(&open, 1));
  exchange.reply_body = std::as_writable_bytes(std::span(&session, 1));
  if (!DoExchange(link_.owner_fd, exchange)) return cuda_abi::CUDA_ERROR_NO_DEVICE;
  if (exchange.reply.result != 0) return static_cast<CUresult>(exchange.reply.result);
  link_.token = session.token;
  link_.device_count = open.device_count;
  if (exchange.reply_fds.count != open.device_count) return cuda_abi::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH;
  for (std::size_t i = 0; i < link_.device_count; ++i) {
    DeviceSlot& slot = link_.devices[i];
    slot.memory_fd = exchange.reply_fds.fds[i];
    slot.window = MapWindow(slot);
    if (slot.window == nullptr) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  }
  link_.control_fd = ConnectChannel(link_);
  return link_.control_fd >= 0 ? cuda_abi::CUDA_SUCCESS : cuda_abi::CUDA_ERROR_NO_DEVICE;
}

CUresult Client::StartControl() {
  control_memory_fd_ = memfd_create(kControlName, MFD_CLOEXEC);
  if (control_memory_fd_ < 0 || ftruncate(control_memory_fd_, kControlBytes) != 0)
    return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  void* page = mmap(nullptr, kControlBytes, PROT_READ | PROT_WRITE, MAP_SHARED, control_memory_fd_, 0);
  if (page == MAP_FAILED) return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  control_page_ = static_cast<ControlPage*>(page);
  if (pipe2(command_pipe_.data(), O_CLOEXEC) != 0 || pipe2(answer_pipe_.data(), O_CLOEXEC | O_NONBLOCK) != 0) {
    return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  }
  auto* restore = new (std::nothrow) RestoreThread(*this, *control_page_, command_pipe_, answer_pipe_);
  if (restore == nullptr) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;

  const bool started = StartThread(
      [](void* argument) -> void* {
        static_cast<RestoreThread*>(argument)->Run();
        return nullptr;
      },
      restore);
  if (!started) {
    delete restore;
    return cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
  }

  // Last, and the magic after all else: a controller may be looking.
  ControlPage content;
  control_page_->version = content.version;
  control_page_->pid = getpid();
  control_page_->command_fd = command_pipe_[0];
  control_page_->answer_fd = answer_pipe_[0];
  control_page_->view_fd = -1;
  control_page_->device_count = link_.device_count;
  for (std::size_t i = 0; i < link_.device_count; ++i) control_page_->devices[i] = link_.devices[i].description.uuid;
  // The restore thread has written its id before it answers its first command, but a controller asks without commands.
  while (__atomic_load_n(&control_page_->restore_tid, __ATOMIC_ACQUIRE) == 0) sched_yield();
  __atomic_store_n(&control_page_->magic, kControlMagic, __ATOMIC_RELEASE);
  return cuda_abi::CUDA_SUCCESS;
}

// So that the child finds the tables whole.
void Client::BeforeFork() {
  if (Client* client = Get()) client->mutex_.lock();
}

void Client::AfterForkInParent() {
  if (Client* client = Get()) client->mutex_.unlock();
}

// The child has no session. It lets go of the parent's, or the daemon would not see the parent die.
void Client::AfterForkInChild() {
  g_forked.store(true);
  Client* client = g_client.exchange(nullptr);
  if (client == nullptr) return;
  close(client->link_.owner_fd);
  close(client->link_.control_fd);
  for (std::size_t i = 0; i < client->link_.device_count; ++i) close(client->link_.devices[i].memory_fd);
  for (const int fd : client->channels_) close(fd);
  close(client->service_fd_);
  close(client->control_memory_fd_);
  munmap(client->control_page_, kControlBytes);
  for (const int fd : client->command_pipe_) close(fd);
  for (const int fd : client->answer_pipe_) close(fd);
}

bool Client::IsDevice(std::uint64_t address) {
  if (SlotOf(address) != nullptr || ViewOf(address) != nullptr) return true;
  const std::lock_guard lock(mutex_);
  const auto next = ranges_.upper_bound(address);
  return next != ranges_.begin() && address - std::prev(next)->first < std::prev(next)->second;
}

const DeviceSlot* Client::SlotOf(std::uint64_t address) const {
  for (std::size_t i = 0; i < link_.device_count; ++i) {
    if (address - link_.devices[i].base < link_.devices[i].span_bytes) return &link_.devices[i];
  }
  return nullptr;
}

std::byte* Client::Window(std::uint64_t address) const {
  if (const DeviceSlot* slot = SlotOf(address)) return slot->window + (address - slot->base);
  const ViewSlot* view = ViewOf(address);
  return view->window.load() + (address - view->base.load());
}

const Client::ViewSlot* Client::ViewOf(std::uint64_t address) const {
  for (const ViewSlot& view : views_) {
    const std::uint64_t base = view.base.load();
    if (base != 0 && address - base < view.bytes.load()) return &view;
  }
  return nullptr;
}

bool Client::AddView(std::uint64_t base, std::uint64_t bytes, std::byte* window) {
  const std::lock_guard lock(mutex_);
  for (ViewSlot& view : views_) {
    if (view.base.load() != 0) continue;
    view.bytes.store(bytes);
    view.window.store(window);
    view.base.store(base);
    return true;
  }
  return false;
}

void Client::RemoveView(std::uint64_t base) {
  const std::lock_guard lock(mutex_);
  for (ViewSlot& view : views_) {
    if (view.base.load() == base) view.base.store(0);
  }
}

// --- channels ---

int ConnectChannel(const SessionLink& link) {
  const int fd = ConnectTo(link.socket_path.data());
  if (fd < 0) return -1;
  request::Attach attach;
  attach.token = link.token;
  Empty reply;
  Exchange exchange;
  exchange.header.op = Op::kAttach;
  exchange.body = std::as_bytes(std::span(&attach, 1));
  exchange.reply_body = std::as_writable_bytes(std::span(&reply, 1));
  if (DoExchange(fd, exchange) && exchange.reply.result == 0) return fd;
  close(fd);
  return -1;
}

std::byte* MapWindow(const DeviceSlot& slot) {
  void* window = mmap(nullptr, slot.span_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, slot.memory_fd, 0);
  if (window == MAP_FAILED) return nullptr;
  madvise(window, slot.span_bytes, MADV_DONTFORK);
  madvise(window, slot.span_bytes, MADV_DONTDUMP);
  return static_cast<std::byte*>(window);
}

Client::Channel::Channel(Client& client) : client_(client), slot_(client.TakeChannel()) {
  // It is ours alone now, so without the lock.
  if (*slot_ < 0) *slot_ = ConnectChannel(client.link_);
}

int* Client::TakeChannel() {
  std::unique_lock lock(mutex_);
  for (;;) {
    // One that is connected already, else any.
    std::size_t best = kMaxChannels;
    for (std::size_t i = 0; i < kMaxChannels; ++i) {
      if (busy_[i]) continue;
      if (best == kMaxChannels || (channels_[best] < 0 && channels_[i] >= 0)) best = i;
    }
    if (best < kMaxChannels) {
      busy_[best] = true;
      return &channels_[best];
    }
    channel_free_.wait(lock);
  }
}

Client::Channel::~Channel() {
  const std::lock_guard lock(client_.mutex_);
  client_.busy_[static_cast<std::size_t>(slot_ - client_.channels_.data())] = false;
  client_.channel_free_.notify_one();
}

CUresult Client::Channel::Keep(std::optional<CUresult> result) {
  if (result) return *result;
  if (*slot_ >= 0) close(*slot_);
  *slot_ = -1;
  return kConnectionLost;
}

void Client::CloseChannels() {
  for (int& fd : channels_) {
    if (fd >= 0) close(fd);
    fd = -1;
  }
  if (service_fd_ >= 0) close(service_fd_);
  service_fd_ = -1;
}

// --- the service thread ---

CUresult Client::EnsureService() {
  const std::lock_guard lock(mutex_);
  if (service_started_) return cuda_abi::CUDA_SUCCESS;
  service_started_ = StartThread(
      [](void* argument) -> void* {
        static_cast<Client*>(argument)->Serve();
        return nullptr;
      },
      this);
  return service_started_ ? cuda_abi::CUDA_SUCCESS : cuda_abi::CUDA_ERROR_OPERATING_SYSTEM;
}

void Client::Serve() {
  request::ServiceWait::Reply item;
  Exchange exchange;
  for (;;) {
    {
      const Gate::Pass pass(gate_);
      if (service_fd_ < 0) service_fd_ = ConnectChannel(link_);
      if (service_fd_ < 0) return;  // The daemon has gone, and with it all that could need us.
      service_state_.store(1);
    }
    const request::ServiceWait wait;
    exchange = {};
    exchange.header.op = Op::kServiceWait;
    exchange.body = std::as_bytes(std::span(&wait, 1));
    exchange.reply_body = std::as_writable_bytes(std::span(&item, 1));
    const bool answered = DoExchange(service_fd_, exchange) && exchange.reply.result == 0;
    if (answered && item.kind != request::ServiceWait::Kind::kParked) {
      service_state_.store(2);
      FutexWakeAll(service_state_);
      DoService(item);
    }
    service_state_.store(0);
    FutexWakeAll(service_state_);
    if (!answered) return;
  }
}

void Client::DoService(const request::ServiceWait::Reply& item) {
  if (item.kind == request::ServiceWait::Kind::kHostFunction) {
    reinterpret_cast<cuda_abi::CUhostFn>(item.function_or_address)(reinterpret_cast<void*>(item.argument_or_host));
  } else {
    // Nobody is there to be told of an error: it was checked when it was added.
    const HostCopy copy{item.function_or_address, reinterpret_cast<std::byte*>(item.argument_or_host), item.bytes,
                        item.to_device != 0};
    CopyPlaced(*this, service_fd_, copy);
  }
  request::ServiceDone done;
  done.turn = item.turn;
  Empty reply;
  CallOver(service_fd_, 0, done, reply);
}

// --- tables ---

void Client::AddPinned(std::uint64_t base, std::uint64_t bytes, std::uint32_t flags, bool is_ours) {
  const std::lock_guard lock(mutex_);
  pinned_[base] = {bytes, flags, is_ours};
}

bool Client::TakePinned(std::uint64_t base, bool is_ours, Pinned& pinned) {
  const std::lock_guard lock(mutex_);
  const auto found = pinned_.find(base);
  if (found == pinned_.end() || found->second.is_ours != is_ours) return false;
  pinned = found->second;
  pinned_.erase(found);
  return true;
}

bool Client::FindPinned(std::uint64_t address, std::uint64_t bytes, std::uint64_t& base, Pinned& pinned) {
  const std::lock_guard lock(mutex_);
  auto next = pinned_.upper_bound(address);
  if (next == pinned_.begin()) return false;
  --next;
  const std::uint64_t offset = address - next->first;
  if (offset > next->second.bytes || bytes > next->second.bytes - offset) return false;
  base = next->first;
  pinned = next->second;
  return true;
}

void Client::AddRange(std::uint64_t base, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  ranges_[base] = bytes;
}

void Client::RemoveRange(std::uint64_t base) {
  const std::lock_guard lock(mutex_);
  ranges_.erase(base);
}

void Client::AddLayout(Id function, std::span<const ParameterPlace> places) {
  const std::lock_guard lock(mutex_);
  layouts_[function].assign(places.begin(), places.end());
}

bool Client::FindLayout(Id function, std::vector<ParameterPlace>& places) {
  const std::lock_guard lock(mutex_);
  const auto found = layouts_.find(function);
  if (found == layouts_.end()) return false;
  places = found->second;
  return true;
}

}  // namespace softgpu
