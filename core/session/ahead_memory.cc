#include "core/session/ahead_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "core/base/file.h"

namespace gpumig {
namespace {

constexpr std::uint64_t kPage = 4096;

std::uint64_t InWholePages(std::uint64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

}  // namespace

AheadMemory::AheadMemory(AheadMemory&& other) noexcept
    : file_(std::move(other.file_)),
      most_bytes_(other.most_bytes_),
      places_(std::move(other.places_)),
      end_(other.end_),
      kept_bytes_(other.kept_bytes_) {}

Result<AheadMemory> AheadMemory::Make(std::uint64_t most_bytes) {
  UniqueFd file(memfd_create("gpumig-ahead", MFD_CLOEXEC));
  if (!file.valid()) return Error::FromErrno(errno, "memfd_create");
  return AheadMemory(std::move(file), most_bytes);
}

void AheadMemory::Keep(const Digest& digest, std::span<const std::byte> plain) {
  Place place{0, plain.size()};
  {
    const std::lock_guard lock(mutex_);
    if (places_.contains(digest) || kept_bytes_ + plain.size() > most_bytes_) return;
    place.offset = end_;
    end_ += InWholePages(plain.size());
    kept_bytes_ += plain.size();
  }
  const bool written = WriteAllAt(file_.get(), plain, place.offset).has_value();
  const std::lock_guard lock(mutex_);
  if (!written || !places_.emplace(digest, place).second) {
    kept_bytes_ -= plain.size();
    fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(place.offset),
              static_cast<off_t>(InWholePages(place.bytes)));
  }
}

Result<bool> AheadMemory::Take(const Digest& digest,
                               const std::function<Result<void>(std::span<const std::byte> plain)>& use) {
  Place place;
  {
    const std::lock_guard lock(mutex_);
    const auto found = places_.find(digest);
    if (found == places_.end()) return false;
    place = found->second;
    places_.erase(found);
  }
  void* const window =
      mmap(nullptr, place.bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, file_.get(), static_cast<off_t>(place.offset));
  if (window == MAP_FAILED) {
    const std::lock_guard lock(mutex_);
    places_.emplace(digest, place);
    return false;
  }
  Result<void> used = use({static_cast<const std::byte*>(window), place.bytes});
  munmap(window, place.bytes);
  const std::lock_guard lock(mutex_);
  if (!used) {
    places_.emplace(digest, place);
    return used.error();
  }
  kept_bytes_ -= place.bytes;
  fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(place.offset),
            static_cast<off_t>(InWholePages(place.bytes)));
  return true;
}

std::uint64_t AheadMemory::bytes() const {
  const std::lock_guard lock(mutex_);
  return kept_bytes_;
}

}  // namespace gpumig
