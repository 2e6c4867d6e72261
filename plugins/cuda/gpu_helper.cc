// gpumig-gpu-helper: holds the CUDA driver open for one gpumig or gpumigd, on the socket that is its descriptor 3.
//
// usage: gpumig-gpu-helper [--library FILE] [--software-library FILE] [--listen SOCKET]     (see CudaOptions)
//
// With --listen it also serves whoever of its own user connects there, each on a thread of its own: drivers are for
// many threads, and a slow call of one must not be another's.
//
// Calls run on a thread of their own. The main one waits for the socket's end and ends the process with it, also in the
// middle of a call: nobody would hear the answer.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <thread>

#include "core/base/unique_fd.h"
#include "core/session/workload_facts.h"
#include "plugins/cuda/helper_protocol.h"
#include "plugins/cuda/open_cuda.h"

namespace gpumig {
namespace {

constexpr int kSocket = 3;
constexpr int kMostGuests = 16;

Result<std::vector<GpuPair>> MapOf(const Json& request) {
  std::vector<GpuPair> map;
  for (const Json& pair : GPUMIG_TRY(ArrayMember(request, "map"))) {
    map.push_back({GPUMIG_TRY(StringMember(pair, "old")), GPUMIG_TRY(StringMember(pair, "new")), ""});
  }
  return map;
}

Result<Json> Serve(DeviceBackend& backend, const Json& request) {
  const std::string call = GPUMIG_TRY(StringMember(request, "call"));
  Json answer = HelperOk();
  if (call == "devices") {
    answer["gpus"] = Json::array();
    for (const GpuFacts& gpu : GPUMIG_TRY(backend.Devices())) answer["gpus"].push_back(GpuToJson(gpu));
    return answer;
  }
  const auto process = static_cast<pid_t>(GPUMIG_TRY(UnsignedMember(request, "process")));
  if (call == "held_bytes") {
    if (const std::optional<std::uint64_t> bytes = backend.HeldBytes(process)) answer["bytes"] = *bytes;
  } else if (call == "state") {
    answer["state"] = GpuStateName(GPUMIG_TRY(backend.State(process)));
  } else if (call == "lock") {
    const std::uint64_t limit_ms = GPUMIG_TRY(UnsignedMember(request, "limit_ms"));
    GPUMIG_TRY(backend.Lock(process, std::chrono::milliseconds(limit_ms)));
  } else if (call == "checkpoint") {
    GPUMIG_TRY(backend.Checkpoint(process));
  } else if (call == "restore") {
    GPUMIG_TRY(backend.Restore(process, GPUMIG_TRY(MapOf(request))));
  } else if (call == "unlock") {
    GPUMIG_TRY(backend.Unlock(process));
  } else if (call == "restore_thread") {
    answer["thread"] = GPUMIG_TRY(backend.RestoreThread(process));
  } else {
    return MakeError(ErrorCode::kInvalidArgument, "the GPU helper knows no call '{}'", call);
  }
  return answer;
}

// Until the other end is gone. The driver comes up with the first of these.
void Converse(int socket, const CudaOptions& options, const std::function<void()>& came_up) {
  Result<std::unique_ptr<DeviceBackend>> backend = OpenCudaBackend(options);
  Json hello = backend ? HelperOk() : HelperFailure(backend.error());
  if (backend) {
    hello["description"] = (*backend)->Describe();
    hello["identity"] = HelperIdentity(options.library, options.software_library);
    came_up();
  }
  Result<void> sent = SendHelperMessage(socket, hello);
  while (backend && sent) {
    const Result<Json> request = ReceiveHelperMessage(socket, std::nullopt);
    if (!request) return;
    const Result<Json> answer = Serve(**backend, *request);
    sent = SendHelperMessage(socket, answer ? *answer : HelperFailure(answer.error()));
  }
}

// A socket for our own user alone. Invalid: it cannot be had, which costs the others a helper of their own.
UniqueFd ListenAt(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return UniqueFd();
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  unlink(path.c_str());  // An earlier helper of this owner's left it.
  umask(0177);
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) return UniqueFd();
  if (listen(listener.get(), kMostGuests) != 0) return UniqueFd();
  return listener;
}

void ServeGuests(const CudaOptions& options, UniqueFd listener) {
  static std::atomic<int> guests{0};  // Their threads end with the process.
  while (listener.valid()) {
    const int guest = accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC);
    if (guest < 0 && errno != EINTR && errno != ECONNABORTED) return;
    if (guest < 0) continue;
    ucred peer{};
    socklen_t size = sizeof(peer);
    const bool is_ours = getsockopt(guest, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
    if (!is_ours || guests >= kMostGuests) {
      close(guest);
      continue;
    }
    ++guests;
    // It may be in a call when this process ends; nothing waits for it.
    std::thread([guest, &options] {
      Converse(guest, options, [] {});
      close(guest);
      --guests;
    }).detach();
  }
}

// Ends the process. Others are let in before the owner hears that we are up, so that whom it starts finds us.
[[noreturn]] void Work(const CudaOptions& options, const std::string& listen_path) {
  Converse(kSocket, options, [&] {
    if (listen_path.empty()) return;
    std::thread([&options, listener = ListenAt(listen_path)]() mutable {
      ServeGuests(options, std::move(listener));
    }).detach();
  });
  _exit(0);
}

int Main(int argc, char** argv) {
  CudaOptions options;
  std::string listen_path;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--library") options.library = argv[i + 1];
    if (name == "--software-library") options.software_library = argv[i + 1];
    if (name == "--listen") listen_path = argv[i + 1];
  }
  int type = 0;
  socklen_t size = sizeof(type);
  if (getsockopt(kSocket, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_SEQPACKET) {
    constexpr std::string_view kText = "gpumig-gpu-helper is started by gpumig and gpumigd, not by hand\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kText.data(), kText.size());
    return 2;
  }
  fcntl(kSocket, F_SETFD, FD_CLOEXEC);
  // A terminal's Ctrl-C is for the program that we serve: it has a job to put back first.
  std::signal(SIGINT, SIG_IGN);
  std::thread([&] { Work(options, listen_path); }).detach();
  for (;;) {
    pollfd end{kSocket, POLLRDHUP, 0};
    if (poll(&end, 1, -1) < 0 && errno == EINTR) continue;
    if (!listen_path.empty()) unlink(listen_path.c_str());
    _exit(0);
  }
}

}  // namespace
}  // namespace gpumig

int main(int argc, char** argv) { return gpumig::Main(argc, argv); }
