#include "core/session/host_meter.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "core/base/file.h"
#include "core/host/memory_map.h"
#include "core/image/digest.h"

namespace gpumig {
namespace {

constexpr std::size_t kSourceBytes = std::size_t{12} << 20;  // more than most caches hold of a core
constexpr std::size_t kPieceBytes = kMaxChunkBytes;
constexpr std::uint64_t kMostFileBytes = std::uint64_t{2} << 30;

using Clock = std::chrono::steady_clock;

std::uint64_t RateOf(std::uint64_t bytes, Clock::duration taken) {
  const double seconds = std::max(1e-6, std::chrono::duration<double>(taken).count());
  return static_cast<std::uint64_t>(static_cast<double>(bytes) / seconds);
}

// `source` and a buffer of a piece; gives the bytes that one call moved.
using Work = std::function<Result<std::size_t>(std::span<const std::byte> piece, std::span<std::byte> buffer)>;
using MakeWork = std::function<Work()>;  // one for each thread

// Every thread works on pieces of memory of its own until `span` is over, but at least once.
Result<std::uint64_t> Measure(std::uint32_t thread_count, std::chrono::milliseconds span,
                              const std::vector<std::byte>& pattern, const MakeWork& make_work) {
  std::atomic<std::uint64_t> bytes{0};
  std::mutex mutex;
  Result<void> failure = Ok();  // guarded by mutex
  std::atomic<std::uint32_t> ready{0};
  std::atomic<bool> go{false};
  Clock::time_point begin;  // written before `go`
  const auto run = [&] {
    std::vector<std::byte> room(kSourceBytes + kPageBytes);
    const std::size_t to_page = kPageBytes - reinterpret_cast<std::uintptr_t>(room.data()) % kPageBytes;
    const std::span<std::byte> source = std::span(room).subspan(to_page, kSourceBytes);
    for (std::size_t at = 0; at < source.size(); at += pattern.size()) {
      std::memcpy(source.data() + at, pattern.data(), std::min(pattern.size(), source.size() - at));
    }
    std::vector<std::byte> buffer(kPieceBytes, std::byte{1});
    const Work work = make_work();
    ++ready;
    ready.notify_all();
    go.wait(false);
    std::size_t at = 0;
    do {
      const Result<std::size_t> moved = work(source.subspan(at, kPieceBytes), buffer);
      if (!moved) {
        const std::lock_guard lock(mutex);
        failure = moved.error();
        return;
      }
      bytes += *moved;
      at = (at + kPieceBytes) % kSourceBytes;
    } while (Clock::now() - begin < span);
  };
  {
    std::vector<std::jthread> threads;
    for (std::uint32_t i = 0; i < thread_count; ++i) threads.emplace_back(run);
    for (std::uint32_t now = ready; now < thread_count; now = ready) ready.wait(now);
    begin = Clock::now();
    go = true;
    go.notify_all();
  }
  const Clock::duration taken = Clock::now() - begin;
  if (!failure) return failure.error();
  return RateOf(bytes, taken);
}

std::vector<std::byte> Weights() {
  std::mt19937_64 random(1);
  std::normal_distribution<float> weight(0, 0.02F);
  std::vector<std::byte> bytes(kPieceBytes);
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
    const auto bits = std::bit_cast<std::uint32_t>(weight(random));
    bytes[i] = static_cast<std::byte>(bits >> 16);
    bytes[i + 1] = static_cast<std::byte>(bits >> 24);
  }
  return bytes;
}

std::vector<std::byte> AnyBytes() { return std::vector<std::byte>(kPieceBytes, std::byte{0x5a}); }

// So that no compiler leaves out work whose result nobody reads.
void Use(const void* result) { asm volatile("" : : "r"(result) : "memory"); }

}  // namespace

HostMeter::HostMeter(std::chrono::milliseconds span, std::uint32_t thread_count)
    : span_(span), thread_count_(thread_count > 0 ? thread_count : std::max(1u, std::thread::hardware_concurrency())) {}

std::uint64_t HostMeter::Copy() const {
  return *Measure(thread_count_, span_, AnyBytes(), []() -> Work {
    return [](std::span<const std::byte> piece, std::span<std::byte> buffer) -> Result<std::size_t> {
      std::memcpy(buffer.data(), piece.data(), piece.size());
      Use(buffer.data());
      return piece.size();
    };
  });
}

Result<std::uint64_t> HostMeter::ReadProcess() const {
  return Measure(thread_count_, span_, AnyBytes(), []() -> Work {
    return [](std::span<const std::byte> piece, std::span<std::byte> buffer) -> Result<std::size_t> {
      const ProcessPages pages(1, {{reinterpret_cast<std::uintptr_t>(piece.data()), piece.size()}});
      GPUMIG_TRY(pages.Read(getpid(), 0, buffer.first(piece.size())), "read memory as of another process");
      return piece.size();
    };
  });
}

std::uint64_t HostMeter::Digest() const {
  return *Measure(thread_count_, span_, AnyBytes(), []() -> Work {
    return [](std::span<const std::byte> piece, std::span<std::byte>) -> Result<std::size_t> {
      const gpumig::Digest digest = gpumig::Digest::Of(piece);
      Use(&digest);
      return piece.size();
    };
  });
}

std::uint64_t HostMeter::Encode(CompressionChoice compression) const {
  return *Measure(thread_count_, span_, Weights(), [compression]() -> Work {
    // shared_ptr: a std::function can be copied, an encoder cannot; each thread has one of its own.
    auto encoder = std::make_shared<ChunkEncoder>(compression);
    return [encoder](std::span<const std::byte> piece, std::span<std::byte>) -> Result<std::size_t> {
      Use(encoder->Encode(piece).data());
      return piece.size();
    };
  });
}

Result<std::uint64_t> HostMeter::WriteAndSync(const std::filesystem::path& directory) const {
  struct statvfs room{};
  if (statvfs(directory.c_str(), &room) != 0) {
    return Error::FromErrno(errno, fmt::format("ask for the room in {}", directory.string()));
  }
  const std::uint64_t most = std::min(kMostFileBytes, room.f_bavail * room.f_frsize / 4);
  if (most < kPieceBytes) {
    return MakeError(ErrorCode::kNoSpace, "{} has too little room to measure how fast it is written",
                     directory.string());
  }
  const TemporaryDirectory own = GPUMIG_TRY(TemporaryDirectory::Create(directory, "bench"));
  const UniqueFd file = GPUMIG_TRY(OpenFile(own.path() / "written", O_WRONLY | O_CREAT | O_EXCL));
  const std::vector<std::byte> bytes = Weights();
  std::uint64_t written = 0;
  const Clock::time_point begin = Clock::now();
  do {
    GPUMIG_TRY(WriteAll(file.get(), bytes), "write to {}", directory.string());
    written += bytes.size();
  } while (Clock::now() - begin < span_ && written + bytes.size() <= most);
  if (fdatasync(file.get()) != 0) return Error::FromErrno(errno, fmt::format("sync a file in {}", directory.string()));
  return RateOf(written, Clock::now() - begin);
}

}  // namespace gpumig
