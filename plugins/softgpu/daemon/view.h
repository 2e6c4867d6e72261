// Device memory of another session, as a session sees it while it carries that other one's bytes (custom storage).
//
// Ownership: holds the other's memfd, so the bytes stay while the view does. Thread safety: none; the session guards
// it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "plugins/softgpu/wire/protocol.h"
#include "plugins/softgpu/wire/unique_fd.h"

namespace softgpu {

class View {
 public:
  // Null: `memory` is not a device's memfd, which cannot be cut under us; a piece is not in it or not of whole pages;
  // the pieces do not add up to `bytes`; or the system has no room.
  static std::unique_ptr<View> Open(std::uint64_t base, std::uint64_t bytes, int memory,
                                    std::span<const ViewPiece> pieces);
  ~View();
  View(const View&) = delete;
  View& operator=(const View&) = delete;

  std::uint64_t base() const { return base_; }
  std::uint64_t bytes() const { return bytes_; }
  bool contains(std::uint64_t address) const { return address - base_ < bytes_; }
  std::byte* host(std::uint64_t address) const { return host_ + (address - base_); }

 private:
  View(std::uint64_t base, std::uint64_t bytes, std::byte* host) : base_(base), bytes_(bytes), host_(host) {}

  const std::uint64_t base_;
  const std::uint64_t bytes_;
  std::byte* const host_;
};

}  // namespace softgpu
