// Sends and receives packets with file descriptors on a SOCK_SEQPACKET socket.
//
// Nothing here allocates, locks or throws: the client's restore thread uses it while all other threads are stopped at
// an arbitrary instruction.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <span>

#include "plugins/softgpu/wire/protocol.h"

namespace softgpu {

// Connects to `path`. Returns an fd, or -1 with errno set.
int ConnectTo(const char* path);

// True if the whole packet went out. Interruptions are retried; SIGPIPE is not raised.
bool SendPacket(int socket, std::span<const iovec> parts, std::span<const int> fds = {});

struct ReceivedFds {
  std::array<int, kMaxMessageFds> fds{};
  std::size_t count = 0;

  void CloseAll();
};

// Bytes received; 0 at the end of the connection, -1 on an error, and -1 for a packet that did not fit. `fds` are the
// caller's to close.
ssize_t ReceivePacket(int socket, std::span<const iovec> parts, ReceivedFds& fds);

// Sends a request and receives its reply. `reply_payload` may be shorter than what it has room for: its size is set.
// False: the connection is lost, or what came is no reply to this.
struct Exchange {
  RequestHeader header;
  std::span<const std::byte> body;
  std::span<const std::byte> payload;
  std::span<const int> fds;

  ReplyHeader reply;
  std::span<std::byte> reply_body;
  std::span<std::byte> reply_payload;
  ReceivedFds reply_fds;  // The caller's to close.
};
bool DoExchange(int socket, Exchange& exchange);

}  // namespace softgpu
