#include "plugins/softgpu/wire/packet.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace softgpu {

namespace {

constexpr std::size_t kControlBytes = CMSG_SPACE(kMaxMessageFds * sizeof(int));

}  // namespace

int ConnectTo(const char* path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::size_t length = std::strlen(path);
  if (length == 0 || length >= sizeof(address.sun_path)) {
    errno = ENAMETOOLONG;
    return -1;
  }
  std::memcpy(address.sun_path, path, length + 1);
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  int status = 0;
  do {
    status = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  } while (status != 0 && errno == EINTR);
  if (status != 0) {
    const int error = errno;
    close(fd);
    errno = error;
    return -1;
  }
  return fd;
}

bool SendPacket(int socket, std::span<const iovec> parts, std::span<const int> fds) {
  alignas(cmsghdr) char control[kControlBytes] = {};
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = parts.size();
  if (!fds.empty()) {
    if (fds.size() > kMaxMessageFds) return false;
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  std::size_t total = 0;
  for (const iovec& part : parts) total += part.iov_len;
  for (;;) {
    const ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent >= 0) return static_cast<std::size_t>(sent) == total;
    if (errno != EINTR) return false;
  }
}

void ReceivedFds::CloseAll() {
  for (std::size_t i = 0; i < count; ++i) close(fds[i]);
  count = 0;
}

ssize_t ReceivePacket(int socket, std::span<const iovec> parts, ReceivedFds& fds) {
  alignas(cmsghdr) char control[kControlBytes];
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = parts.size();
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  fds.count = 0;
  ssize_t received = 0;
  do {
    received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received < 0) return -1;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      if (fds.count < fds.fds.size()) {
        fds.fds[fds.count++] = fd;
      } else {
        close(fd);
      }
    }
  }
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    fds.CloseAll();
    errno = EMSGSIZE;
    return -1;
  }
  return received;
}

bool DoExchange(int socket, Exchange& exchange) {
  exchange.header.body_bytes = static_cast<std::uint32_t>(exchange.body.size());
  exchange.header.payload_bytes = static_cast<std::uint32_t>(exchange.payload.size());
  const iovec request[] = {{&exchange.header, sizeof(exchange.header)},
                           {const_cast<std::byte*>(exchange.body.data()), exchange.body.size()},
                           {const_cast<std::byte*>(exchange.payload.data()), exchange.payload.size()}};
  if (!SendPacket(socket, request, exchange.fds)) return false;
  const iovec reply[] = {{&exchange.reply, sizeof(exchange.reply)},
                         {exchange.reply_body.data(), exchange.reply_body.size()},
                         {exchange.reply_payload.data(), exchange.reply_payload.size()}};
  const ssize_t received = ReceivePacket(socket, reply, exchange.reply_fds);
  const ReplyHeader& header = exchange.reply;
  if (received < static_cast<ssize_t>(sizeof(header)) || header.magic != kReplyMagic ||
      header.body_bytes != exchange.reply_body.size() || header.payload_bytes > exchange.reply_payload.size() ||
      static_cast<std::size_t>(received) != sizeof(header) + header.body_bytes + header.payload_bytes) {
    exchange.reply_fds.CloseAll();
    return false;
  }
  exchange.reply_payload = exchange.reply_payload.first(header.payload_bytes);
  return true;
}

}  // namespace softgpu
