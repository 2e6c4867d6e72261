// Requests from hostile hands: whatever a client sends, the daemon answers or hangs up, and goes on.
//
// One server for all runs. An input is a list of packets, each of a 16-bit length and that many bytes; a packet is sent
// as it is, or, so that random bytes get past the magic numbers, as a well-formed request of the kind that its first
// byte says. Packets go to a connection that is attached to a fresh session with two devices. A session's end frees
// all, which is checked.
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "plugins/softgpu/daemon/server.h"
#include "plugins/softgpu/wire/mapping_requests.h"
#include "plugins/softgpu/wire/packet.h"
#include "plugins/softgpu/wire/unique_fd.h"

namespace softgpu {
namespace {

constexpr std::uint64_t kBase = std::uint64_t{1} << 40;
constexpr std::uint64_t kBytes = std::uint64_t{16} << 20;
constexpr std::size_t kMaxPackets = 64;
// What must be answered is, however busy the machine; of the rest some waits for ever, and is left after a moment.
constexpr std::chrono::milliseconds kAnswerLimit{60000};
constexpr std::chrono::milliseconds kPatience{50};

class Node {
 public:
  static Node& Get() {
    static auto* node = new Node();  // Its threads go on until the process ends.
    return *node;
  }

  Server& server() { return server_; }
  const char* path() const { return path_.c_str(); }

 private:
  Node() : server_(Devices()) {
    path_ = (std::filesystem::temp_directory_path() / ("softgpu-fuzz-" + std::to_string(getpid()))).string();
    if (!server_.Listen(path_, 0600).empty()) std::abort();
    std::thread([this] { server_.Run(); }).detach();
    std::atexit([] { unlink(Get().path()); });
  }
  static std::vector<DeviceDescription> Devices() {
    std::vector<DeviceDescription> devices(2);
    for (std::size_t i = 0; i < devices.size(); ++i) {
      devices[i].uuid[15] = static_cast<std::uint8_t>(i + 1);
      devices[i].memory_bytes = kBytes;
    }
    return devices;
  }

  Server server_;
  std::string path_;
};

template <typename Request>
bool Ask(int socket, const Request& request, typename Request::Reply& reply) {
  Exchange exchange;
  exchange.header.op = Request::kOp;
  exchange.body = std::as_bytes(std::span(&request, 1));
  exchange.reply_body = std::as_writable_bytes(std::span(&reply, 1));
  const bool done = DoExchange(socket, exchange);
  exchange.reply_fds.CloseAll();
  return done && exchange.reply.result == 0;
}

// What waits for work that only the client could do would wait for ever.
bool Waits(Op op) { return op == Op::kServiceWait || op == Op::kCopyTurn; }

// The size of each request's body: found by its kind, so that most inputs are of the right size.
std::size_t BodyBytes(Op op) {
  switch (op) {
    case Op::kMemAlloc:
    case Op::kMemFree:
    case Op::kMemFind:
    case Op::kPhysicalRelease:
    case Op::kPhysicalRetain:
    case Op::kPhysicalInfo:
    case Op::kPhysicalExport:
    case Op::kIpcExport:
    case Op::kIpcClose:
    case Op::kContextDestroy:
    case Op::kContextInfo:
    case Op::kStreamDestroy:
    case Op::kStreamWait:
    case Op::kStreamQuery:
    case Op::kStreamInfo:
    case Op::kEventDestroy:
    case Op::kEventQuery:
    case Op::kEventWait:
    case Op::kModuleLoad:
    case Op::kModuleUnload:
    case Op::kModuleFunction:
    case Op::kModuleGlobal:
    case Op::kFunctionInfo:
    case Op::kContextCreate:
    case Op::kStreamCreate:
    case Op::kPrimarySetFlags:
    case Op::kServiceDone:
    case Op::kCopyTurnDone:
    case Op::kDrain:
    case Op::kCloseView:
      return 8;
    case Op::kReserve:
    case Op::kUnreserve:
    case Op::kUnmap:
    case Op::kSetAccess:
    case Op::kGetAccess:
    case Op::kTranslate:
    case Op::kEventRecord:
    case Op::kEventElapsed:
    case Op::kStreamWaitEvent:
    case Op::kFunctionSet:
    case Op::kModuleKernel:
    case Op::kBandwidth:
      return 16;
    case Op::kCopyIn:
    case Op::kCopyOut:
    case Op::kCopyNow:
    case Op::kHostFunction:
    case Op::kOpenView:
      return 24;
    case Op::kMap:
    case Op::kPhysicalCreate:
    case Op::kIpcOpen:
    case Op::kCopyTurn:
      return 32;
    case Op::kCopyDeferred:
      return sizeof(request::CopyDeferred);
    case Op::kCopyDevice:
      return sizeof(request::CopyDevice);
    case Op::kFill:
      return sizeof(request::Fill);
    case Op::kLaunch:
      return sizeof(request::Launch);
    default:
      return 4;
  }
}

// What a packet becomes on its way.
struct Sent {
  std::vector<std::byte> packet;
  std::span<const std::byte> file;  // What is in the file that comes along.
  bool waits = false;               // For an answer that may never come.
};

// As a request: the first byte its kind, the next which context; small numbers become ids and addresses that exist.
// What is left is payload, and the file.
Sent Wellformed(std::span<const std::uint8_t> input, Id first_context) {
  RequestHeader header;
  header.op = static_cast<Op>(input[0] % (static_cast<unsigned>(Op::kModuleKernel) + 2));
  header.context = first_context + input[1] % 4;
  std::vector<std::byte> body(BodyBytes(header.op));
  std::size_t used = 2;
  for (std::size_t i = 0; i < body.size(); i += 4) {
    const std::uint8_t kind = used < input.size() ? input[used++] : 0;
    const std::uint8_t value = used < input.size() ? input[used++] : 0;
    std::uint64_t word = value;
    if (kind % 4 == 1) word = first_context + value % 32;
    if (kind % 4 == 2) word = kBase + (std::uint64_t{value} << 12);
    if (kind % 4 == 3) word = std::uint64_t{value} << (kind / 4);
    std::memcpy(body.data() + i, &word, std::min<std::size_t>(body.size() - i, i % 8 == 0 ? 8 : 4));
    if (i % 8 == 0 && kind % 4 != 0) i += 4;
  }
  const auto rest = std::as_bytes(input.subspan(std::min(used, input.size())));
  // A text that comes in the file is refused as a payload.
  const auto payload = header.op == Op::kModuleLoad ? std::span<const std::byte>() : rest;
  header.body_bytes = static_cast<std::uint32_t>(body.size());
  header.payload_bytes = static_cast<std::uint32_t>(payload.size());
  std::vector<std::byte> packet(sizeof(header));
  std::memcpy(packet.data(), &header, sizeof(header));
  packet.insert(packet.end(), body.begin(), body.end());
  packet.insert(packet.end(), payload.begin(), payload.end());
  return {std::move(packet), rest, Waits(header.op)};
}

void LimitAnswers(int socket, std::chrono::milliseconds limit) {
  const timeval time{limit.count() / 1000, limit.count() % 1000 * 1000};
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
}

int Connect() {
  const int socket = ConnectTo(Node::Get().path());
  if (socket < 0) std::abort();
  LimitAnswers(socket, kAnswerLimit);
  return socket;
}

// A file as clients send it along: what is in it, too, is theirs to choose.
UniqueFd FileWith(std::span<const std::byte> content) {
  UniqueFd file(memfd_create("softgpu-fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (write(file.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size())) std::abort();
  return file;
}

// Sends and, unless the answer may never come, waits for it. False: the daemon has hung up, or is at it for long.
bool Talk(int socket, const Sent& sent) {
  const iovec part{const_cast<std::byte*>(sent.packet.data()), sent.packet.size()};
  const UniqueFd file = FileWith(sent.file);
  const int fd = file.get();
  // An odd number of bytes: without the file.
  const std::size_t fd_count = sent.file.size() % 2 == 0 ? 1 : 0;
  if (!SendPacket(socket, std::span(&part, 1), std::span(&fd, fd_count))) return false;
  if (sent.waits) return true;
  std::vector<std::byte> answer(kMaxMessageBytes);
  const iovec room{answer.data(), answer.size()};
  ReceivedFds fds;
  const ssize_t got = ReceivePacket(socket, std::span(&room, 1), fds);
  fds.CloseAll();
  return got > 0;
}

std::uint64_t UsedBytes() {
  std::uint64_t used = 0;
  for (const DeviceDescription& device : Node::Get().server().Describe()) used += device.used_bytes;
  return used;
}

void Try(std::span<const std::uint8_t> input) {
  const int owner = Connect();
  request::OpenSession open;
  open.device_count = 2;
  for (std::size_t i = 0; i < 2; ++i) {
    open.devices[i].uuid[15] = static_cast<std::uint8_t>(i + 1);
    open.devices[i].base = kBase + i * kBytes * 2;
    open.devices[i].bytes = kBytes;
  }
  SessionReply session;
  if (!Ask(owner, open, session)) std::abort();
  int channel = Connect();
  Empty empty;
  request::Attach attach;
  attach.token = session.token;
  request::PrimaryRetain::Reply primary;
  if (!Ask(channel, attach, empty) || !Ask(channel, request::PrimaryRetain{}, primary)) std::abort();
  LimitAnswers(channel, kPatience);
  for (std::size_t packets = 0; packets < kMaxPackets && input.size() >= 4; ++packets) {
    const std::size_t length = std::min<std::size_t>(2 + (input[0] | (input[1] & 15U) << 8), input.size() - 2);
    const auto content = input.subspan(2, length);
    const bool is_raw = (input[1] & 0x80) != 0;
    input = input.subspan(2 + length);
    const auto bytes = std::as_bytes(content);
    const Sent sent = is_raw ? Sent{{bytes.begin(), bytes.end()}, bytes, true} : Wellformed(content, primary.context);
    if (Talk(channel, sent) && !sent.waits) continue;
    close(channel);
    channel = Connect();
    if (!Ask(channel, attach, empty)) std::abort();
    LimitAnswers(channel, kPatience);
  }
  close(channel);
  if (!Ask(owner, request::CloseSession{}, empty)) std::abort();
  close(owner);
  // The threads of connections that we have left may hold shared memory for a moment more.
  const auto deadline = std::chrono::steady_clock::now() + kAnswerLimit;
  while (UsedBytes() != 0) {
    if (std::chrono::steady_clock::now() > deadline) std::abort();
    usleep(1000);
  }
}

}  // namespace
}  // namespace softgpu

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  softgpu::Try(std::span(data, size));
  return 0;
}
