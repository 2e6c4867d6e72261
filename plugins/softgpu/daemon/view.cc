#include "plugins/softgpu/daemon/view.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "plugins/softgpu/daemon/arena.h"

namespace softgpu {

std::unique_ptr<View> View::Open(std::uint64_t base, std::uint64_t bytes, int memory,
                                 std::span<const ViewPiece> pieces) {
  struct stat status{};
  const int seals = fcntl(memory, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(memory, &status) != 0) return nullptr;
  const auto size = static_cast<std::uint64_t>(status.st_size);
  std::uint64_t sum = 0;
  for (const ViewPiece& piece : pieces) {
    if (piece.offset % Arena::kGranuleBytes != 0 || piece.bytes % Arena::kGranuleBytes != 0) return nullptr;
    if (piece.bytes == 0 || piece.offset > size || piece.bytes > size - piece.offset) return nullptr;
    sum += piece.bytes;
    if (sum > kMaxSpanBytes) return nullptr;
  }
  if (sum != bytes || bytes == 0) return nullptr;
  void* range = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return nullptr;
  // From here on the destructor gives the range back.
  std::unique_ptr<View> view(new View(base, bytes, static_cast<std::byte*>(range)));
  std::byte* at = view->host_;
  for (const ViewPiece& piece : pieces) {
    const void* mapped = mmap(at, piece.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, memory,
                              static_cast<off_t>(piece.offset));
    if (mapped == MAP_FAILED) return nullptr;
    at += piece.bytes;
  }
  return view;
}

View::~View() { munmap(host_, bytes_); }

}  // namespace softgpu
