#include "plugins/softgpu/client/host_copy.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "plugins/softgpu/wire/unique_fd.h"

namespace softgpu {

using cuda_abi::CUresult;

namespace {

bool WriteWhole(int fd, const std::byte* bytes, std::uint64_t count) {
  for (std::uint64_t done = 0; done < count;) {
    const ssize_t written = pwrite(fd, bytes + done, count - done, static_cast<off_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    done += static_cast<std::uint64_t>(written);
  }
  return true;
}

bool ReadWhole(int fd, std::byte* bytes, std::uint64_t count) {
  for (std::uint64_t done = 0; done < count;) {
    const ssize_t got = pread(fd, bytes + done, count - done, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += static_cast<std::uint64_t>(got);
  }
  return true;
}

// By a file that both ends read and write.
CUresult CopyStaged(int socket, const HostCopy& copy) {
  const UniqueFd file(memfd_create("softgpu-copy", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const std::uint64_t room = std::min<std::uint64_t>(copy.bytes, kMaxCopyNowBytes);
  if (!file.valid() || ftruncate(file.get(), static_cast<off_t>(room)) != 0) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
  for (std::uint64_t done = 0; done < copy.bytes;) {
    const std::uint64_t count = std::min(room, copy.bytes - done);
    if (copy.to_device && !WriteWhole(file.get(), copy.host + done, count)) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
    const request::CopyNow now{copy.device + done, count, copy.to_device ? 1U : 0U};
    Empty reply;
    const auto result = CallOver(socket, 0, now, reply, {}, nullptr, file.get());
    if (result != cuda_abi::CUDA_SUCCESS) return result.value_or(kConnectionLost);
    if (!copy.to_device && !ReadWhole(file.get(), copy.host + done, count)) return cuda_abi::CUDA_ERROR_OUT_OF_MEMORY;
    done += count;
  }
  return cuda_abi::CUDA_SUCCESS;
}

void CopyThrough(std::byte* window, const HostCopy& copy) {
  std::memcpy(copy.to_device ? window : copy.host, copy.to_device ? copy.host : window, copy.bytes);
}

}  // namespace

void CopyLinear(const Client& client, const HostCopy& copy) { CopyThrough(client.Window(copy.device), copy); }

CUresult CopyPlaced(const Client& client, int socket, const HostCopy& copy) {
  for (HostCopy rest = copy; rest.bytes > 0;) {
    std::array<MemoryPiece, kMaxPieces> pieces;
    std::span<std::byte> payload = std::as_writable_bytes(std::span(pieces));
    const request::Translate translate{rest.device, rest.bytes};
    Empty reply;
    const auto result = CallOver(socket, 0, translate, reply, {}, &payload);
    if (result != cuda_abi::CUDA_SUCCESS) return result.value_or(kConnectionLost);
    if (payload.size() < sizeof(MemoryPiece)) return kConnectionLost;
    for (const MemoryPiece& piece : std::span(pieces).first(payload.size() / sizeof(MemoryPiece))) {
      const HostCopy part{rest.device, rest.host, std::min(piece.bytes, rest.bytes), rest.to_device};
      if (piece.is_windowed != 0) {
        CopyThrough(client.WindowAt(piece), part);
      } else if (const CUresult staged = CopyStaged(socket, part); staged != cuda_abi::CUDA_SUCCESS) {
        return staged;
      }
      rest.device += part.bytes;
      rest.host += part.bytes;
      rest.bytes -= part.bytes;
    }
  }
  return cuda_abi::CUDA_SUCCESS;
}

}  // namespace softgpu
