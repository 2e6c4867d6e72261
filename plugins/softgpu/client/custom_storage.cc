#include "plugins/softgpu/client/custom_storage.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "plugins/softgpu/client/controller.h"
#include "plugins/softgpu/client/driver_facts.h"
#include "plugins/softgpu/client/entry_points.h"

namespace softgpu {

using namespace cuda_abi;  // Names of the interface.

namespace {

struct DeviceView {
  std::uint64_t base = 0;
  std::uint64_t bytes = 0;
  std::byte* window = nullptr;
  CUstream stream = nullptr;
  Id context = 0;
};

struct Operation {
  int pid = 0;
  CUcheckpointCustomStorageInfo info{};
  std::vector<CUcheckpointCustomStoragePerDeviceData> devices;
  std::vector<DeviceView> views;
};

std::mutex g_mutex;  // Guards g_operations.
std::vector<std::unique_ptr<Operation>> g_operations;

bool MayTraceOthers() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (syscall(SYS_capget, &header, data) != 0) return false;
  return (data[0].effective & (1U << CAP_SYS_PTRACE)) != 0;
}

int OrdinalOf(Client& client, const Uuid& uuid) {
  for (std::uint32_t i = 0; i < client.device_count(); ++i) {
    if (client.link().devices[i].description.uuid == uuid) return static_cast<int>(i);
  }
  return -1;
}

// Where the process's devices will be, by ordinal: after a restore, where the pairs say.
std::vector<Uuid> DevicesAfter(const ControlPage& page, const Command& command) {
  std::vector<Uuid> devices;
  for (std::uint32_t i = 0; i < std::min<std::size_t>(page.device_count, kMaxDevices); ++i) {
    Uuid uuid = page.devices[i];
    for (std::uint32_t pair = 0; pair < command.pair_count; ++pair) {
      if (std::memcmp(command.pairs[pair].oldUuid.bytes, page.devices[i].data(), uuid.size()) != 0) continue;
      std::memcpy(uuid.data(), command.pairs[pair].newUuid.bytes, uuid.size());
    }
    devices.push_back(uuid);
  }
  return devices;
}

// The process's devices as ordinals of ours, each with an active primary context.
CUresult FindDevices(Client& client, const std::vector<Uuid>& wanted, std::vector<std::uint32_t>& ordinals) {
  for (const Uuid& uuid : wanted) {
    const int ordinal = OrdinalOf(client, uuid);
    if (ordinal < 0) return CUDA_ERROR_INVALID_DEVICE;
    request::PrimaryState ask;
    ask.ordinal = static_cast<std::uint32_t>(ordinal);
    request::PrimaryState::Reply state;
    if (const CUresult result = CallDaemon(ask, state); result != CUDA_SUCCESS) return result;
    if (state.active == 0) return CUDA_ERROR_INVALID_CONTEXT;
    ordinals.push_back(ask.ordinal);
  }
  return CUDA_SUCCESS;
}

std::vector<ControlPiece> ReadPieces(const Controller& controller) {
  const ControlPage& page = controller.page();
  std::vector<ControlPiece> pieces(std::min<std::size_t>(page.view_piece_count, kMaxViewPieces));
  const UniqueFd list = controller.OpenDescriptor(page.view_fd, O_RDONLY);
  const std::size_t bytes = pieces.size() * sizeof(ControlPiece);
  if (!list.valid() || pread(list.get(), pieces.data(), bytes, 0) != static_cast<ssize_t>(bytes)) pieces.clear();
  return pieces;
}

// For our own copies: the pieces one behind the other.
std::byte* MapPieces(int memory, const std::vector<ViewPiece>& pieces, std::uint64_t bytes) {
  void* range = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return nullptr;
  auto* at = static_cast<std::byte*>(range);
  for (const ViewPiece& piece : pieces) {
    const void* mapped = mmap(at, piece.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, memory,
                              static_cast<off_t>(piece.offset));
    if (mapped == MAP_FAILED) {
      munmap(range, bytes);
      return nullptr;
    }
    at += piece.bytes;
  }
  return static_cast<std::byte*>(range);
}

CUresult TellDaemon(Client& client, Id context, const DeviceView& view, int memory,
                    const std::vector<ViewPiece>& pieces) {
  const UniqueFd list(memfd_create("softgpu-pieces", MFD_CLOEXEC));
  const std::size_t bytes = pieces.size() * sizeof(ViewPiece);
  if (!list.valid() || write(list.get(), pieces.data(), bytes) != static_cast<ssize_t>(bytes)) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  request::OpenView open;
  open.base = view.base;
  open.bytes = view.bytes;
  open.piece_count = pieces.size();
  const int fds[] = {memory, list.get()};
  return client.CallWithFds(context, open, fds);
}

CUresult OpenDevice(Client& client, const Controller& controller, std::uint32_t target_ordinal, std::uint32_t ordinal,
                    const std::vector<ControlPiece>& all, DeviceView& view) {
  std::vector<ViewPiece> pieces;
  for (const ControlPiece& piece : all) {
    if (piece.ordinal != target_ordinal) continue;
    pieces.push_back(piece.place);
    view.bytes += piece.place.bytes;
  }
  request::PrimaryRetain retain;
  retain.ordinal = ordinal;
  request::PrimaryRetain::Reply context;
  if (const CUresult result = CallDaemon(retain, context); result != CUDA_SUCCESS) return result;
  view.context = context.context;
  request::PrimaryRelease release;  // The caller's own keeps it.
  release.ordinal = ordinal;
  CallDaemon(release);
  request::StreamCreate create;
  create.flags = CU_STREAM_NON_BLOCKING;
  request::StreamCreate::Reply stream;
  if (const CUresult result = client.Call(view.context, create, stream); result != CUDA_SUCCESS) return result;
  view.stream = ToHandle<CUstream>(stream.stream);
  if (view.bytes == 0) return CUDA_SUCCESS;

  const UniqueFd memory = controller.OpenDescriptor(controller.page().memory_fds[target_ordinal], O_RDWR);
  if (!memory.valid()) return CUDA_ERROR_OPERATING_SYSTEM;
  view.window = MapPieces(memory.get(), pieces, view.bytes);
  view.base = ReserveAddresses(view.bytes);
  if (view.window == nullptr || view.base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  if (!client.AddView(view.base, view.bytes, view.window)) return CUDA_ERROR_OUT_OF_MEMORY;
  return TellDaemon(client, view.context, view, memory.get(), pieces);
}

void CloseViews(Client& client, const Operation& operation) {
  for (const DeviceView& view : operation.views) {
    request::StreamDestroy destroy;
    destroy.stream = ToId(view.stream);
    if (view.stream != nullptr) client.Call(view.context, destroy);
    if (view.base != 0) {
      client.RemoveView(view.base);
      request::CloseView close_view;
      close_view.base = view.base;
      client.Call(view.context, close_view);
      munmap(reinterpret_cast<void*>(view.base), view.bytes);
    }
    if (view.window != nullptr) munmap(view.window, view.bytes);
  }
}

}  // namespace

CUresult BeginCustomStorage(int pid, Command& command, CUcheckpointCustomStorageInfo** info) {
  if (pid <= 0) return CUDA_ERROR_INVALID_VALUE;
  Client* client = Client::Get();
  if (client == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (!MayTraceOthers()) return CUDA_ERROR_OPERATING_SYSTEM;
  Controller controller;
  if (const CUresult result = Controller::Open(pid, controller); result != CUDA_SUCCESS) return result;
  if (ValueOf(AskDriverFacts().faults, Fault::kNoCustomStorage) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  const bool is_restore = command.kind == CommandKind::kRestoreCustom;
  const CUprocessState wanted = is_restore ? CU_PROCESS_STATE_CHECKPOINTED : CU_PROCESS_STATE_LOCKED;
  if (controller.state() != wanted) return CUDA_ERROR_ILLEGAL_STATE;
  std::vector<std::uint32_t> ordinals;
  if (const CUresult found = FindDevices(*client, DevicesAfter(controller.page(), command), ordinals);
      found != CUDA_SUCCESS) {
    return found;
  }
  if (const CUresult begun = controller.Do(command); begun != CUDA_SUCCESS) return begun;

  auto operation = std::make_unique<Operation>();
  operation->pid = pid;
  const std::vector<ControlPiece> pieces = ReadPieces(controller);
  for (std::uint32_t i = 0; i < ordinals.size(); ++i) {
    DeviceView& view = operation->views.emplace_back();
    if (const CUresult opened = OpenDevice(*client, controller, i, ordinals[i], pieces, view); opened != CUDA_SUCCESS) {
      CloseViews(*client, *operation);
      return opened;
    }
    operation->devices.push_back({view.base, view.bytes, view.stream});
  }
  operation->info.handle = reinterpret_cast<CUcheckpointOperationHandle>(operation.get());
  operation->info.perDeviceData = operation->devices.data();
  operation->info.deviceCount = static_cast<unsigned>(operation->devices.size());
  *info = &operation->info;
  const std::lock_guard lock(g_mutex);
  g_operations.push_back(std::move(operation));
  return CUDA_SUCCESS;
}

CUresult CompleteCustomStorage(CUcheckpointOperationHandle handle) {
  Client* client = Client::Get();
  if (client == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  std::unique_ptr<Operation> operation;
  {
    const std::lock_guard lock(g_mutex);
    const auto found = std::find_if(g_operations.begin(), g_operations.end(),
                                    [&](const auto& known) { return known->info.handle == handle; });
    if (handle == nullptr || found == g_operations.end()) return CUDA_ERROR_INVALID_HANDLE;
    operation = std::move(*found);
    g_operations.erase(found);
  }
  CUresult result = CUDA_SUCCESS;
  for (const DeviceView& view : operation->views) {
    request::StreamWait wait;
    wait.stream = ToId(view.stream);
    const CUresult waited = client->Call(view.context, wait);
    if (result == CUDA_SUCCESS) result = waited;
  }
  // Source: the operation ends here whatever comes of it (ai-dynamo/snapshot, cuda_checkpoint).
  CloseViews(*client, *operation);
  if (result != CUDA_SUCCESS) return result;
  Controller controller;
  if (const CUresult opened = Controller::Open(operation->pid, controller); opened != CUDA_SUCCESS) return opened;
  Command command;
  command.kind = CommandKind::kComplete;
  return controller.Do(command);
}

}  // namespace softgpu
