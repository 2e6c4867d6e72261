#include "plugins/softgpu/client/driver_facts.h"

#include <cstdlib>
#include <cstring>

#include "plugins/softgpu/wire/packet.h"
#include "plugins/softgpu/wire/unique_fd.h"

namespace softgpu {

namespace {

constexpr char kDefaultSocket[] = "/run/softgpu/softgpud.sock";
constexpr std::size_t kMaxSocketPath = 107;

}  // namespace

const char* SocketPath() {
  const char* path = std::getenv("SOFTGPU_SOCKET");
  if (path == nullptr || *path == '\0') path = kDefaultSocket;
  return std::strlen(path) <= kMaxSocketPath ? path : nullptr;
}

DriverFacts AskDriverFacts() {
  DriverFacts facts;
  const char* path = SocketPath();
  if (path == nullptr) return facts;
  const UniqueFd socket(ConnectTo(path));
  if (!socket.valid()) return facts;
  const request::Hello hello;
  request::Hello::Reply reply;
  Exchange exchange;
  exchange.header.op = Op::kHello;
  exchange.body = std::as_bytes(std::span(&hello, 1));
  exchange.reply_body = std::as_writable_bytes(std::span(&reply, 1));
  if (!DoExchange(socket.get(), exchange) || exchange.reply.result != 0) return facts;
  facts.reached = true;
  facts.version = reply.driver_version;
  facts.faults = reply.faults;
  return facts;
}

}  // namespace softgpu
