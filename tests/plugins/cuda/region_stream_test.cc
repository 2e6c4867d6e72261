// A job's device memory, streamed out and in by region through the driver's custom storage: every byte, and what
// becomes of the job when either end of the stream fails.
//
// cuInit binds a process to one daemon, so that whoever streams is a process of its own.
#include <gtest/gtest.h>
#include <openssl/sha.h>

#include <array>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "plugins/cuda/cuda_backend.h"
#include "tests/plugins/softgpu/gpu_process.h"
#include "tests/plugins/softgpu/job.h"
#include "tests/plugins/softgpu/soft_node.h"

namespace gpumig {
namespace {

using softgpu_test::GpuProcess;
using softgpu_test::kJobItems;
using softgpu_test::Link;
using softgpu_test::SoftNode;
using softgpu_test::TestUuid;

// No divisor of a region's size: the last piece is a smaller one.
constexpr std::size_t kBufferBytes = 1'000'003;

std::string Spec(int uuid) { return "memory=64MiB,chip=Soft A,uuid=" + TestUuid(uuid); }

using Regions = std::map<std::size_t, std::vector<std::byte>>;
using RegionDigest = std::array<unsigned char, SHA256_DIGEST_LENGTH>;

RegionDigest DigestOf(std::span<const std::byte> bytes) {
  RegionDigest digest{};
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest.data());
  return digest;
}

TakeRegionFn IntoMemory(Regions& regions) {
  return
      [&regions](const DeviceRegion& region, std::uint64_t offset, std::span<const std::byte> bytes) -> Result<void> {
        CHECK_THAT(!bytes.empty() && bytes.size() <= kBufferBytes);
        std::vector<std::byte>& whole = regions[region.index];
        CHECK_THAT(offset == whole.size());  // In order, nothing twice.
        whole.insert(whole.end(), bytes.begin(), bytes.end());
        return Ok();
      };
}

GiveRegionFn FromMemory(const Regions& regions) {
  return [&regions](const DeviceRegion& region, std::uint64_t offset, std::span<std::byte> bytes) -> Result<void> {
    const std::vector<std::byte>& whole = regions.at(region.index);
    CHECK_THAT(offset + bytes.size() <= whole.size());
    std::memcpy(bytes.data(), whole.data() + offset, bytes.size());
    return Ok();
  };
}

std::vector<GpuPair> Map(const std::vector<std::pair<int, int>>& pairs) {
  std::vector<GpuPair> map;
  for (const auto& [from, to] : pairs) map.push_back({TestUuid(from), TestUuid(to), ""});
  return map;
}

class RegionStreamTest : public testing::Test {
 protected:
  void Start(std::vector<std::string> devices, const std::string& visible,
             const std::vector<std::string>& more = {"--driver-version", "13040"}) {
    node_ = std::make_unique<SoftNode>(std::move(devices), more);
    job_ = std::make_unique<GpuProcess>(node_->socket(), &softgpu_test::RunJob, visible);
    for (int i = 0; i < 3; ++i) trace_.push_back(Step());
  }
  std::uint64_t Step() {
    job_->link().Send(1);
    return job_->link().Receive();
  }
  // Runs `body` with a backend on the node, beside the job; the test fails with it.
  void Stream(const std::function<void(CudaBackend&, pid_t)>& body) {
    const pid_t job = job_->pid();
    GpuProcess streamer(node_->socket(), [&body, job](softgpu_test::Driver&, Link&) {
      Result<CudaLibrary> library = CudaLibrary::Open(SOFTGPU_LIBRARY);
      if (!library) std::fprintf(stderr, "%s\n", library.error().message().c_str());
      CHECK_THAT(library.has_value());
      CudaBackend backend(std::move(*library), nullptr);
      body(backend, job);
    });
    EXPECT_EQ(streamer.Wait(), 0);
  }
  // As if nothing had happened to it.
  void ExpectGoesOn(int devices) {
    for (int i = 0; i < 3; ++i) trace_.push_back(Step());
    EXPECT_EQ(trace_, softgpu_test::UndisturbedTrace(6, devices));
  }

  std::unique_ptr<SoftNode> node_;
  std::unique_ptr<GpuProcess> job_;
  std::vector<std::uint64_t> trace_;
};

void CheckState(CudaBackend& backend, pid_t job, GpuState expected) {
  const Result<GpuState> state = backend.State(job);
  CHECK_THAT(state && *state == expected);
}

// For results in the other process, whose message would be lost.
template <typename T>
void CheckOk(const Result<T>& result) {
  if (!result) std::fprintf(stderr, "%s\n", result.error().message().c_str());
  CHECK_THAT(result.has_value());
}
template <typename T>
void CheckFails(const Result<T>& result, ErrorCode code, const std::string& text) {
  CHECK_THAT(!result);
  std::fprintf(stderr, "%s\n", result.error().message().c_str());
  CHECK_THAT(result.error().code() == code);
  CHECK_THAT(result.error().message().find(text) != std::string::npos);
}

TEST_F(RegionStreamTest, EveryByteOfAJobGoesOutAndComesBackOntoOtherGpus) {
  Start({Spec(1), Spec(2), Spec(3)}, "0,1");
  const std::int64_t used = node_->used_bytes();
  Stream([](CudaBackend& backend, pid_t job) {
    CheckOk(backend.Lock(job, std::chrono::seconds(30)));
    Regions out;
    const Result<std::vector<DeviceRegion>> regions = StreamOut(backend, job, kBufferBytes, IntoMemory(out));
    CheckOk(regions);
    CheckState(backend, job, GpuState::kCheckpointed);
    CHECK_THAT(regions->size() == 2);
    CHECK_THAT((*regions)[0].bytes >= kJobItems * 4);
    for (const DeviceRegion& region : *regions) CHECK_THAT(out[region.index].size() == region.bytes);
    std::vector<RegionDigest> digests;
    for (const auto& [index, bytes] : out) digests.push_back(DigestOf(bytes));

    CheckOk(StreamIn(backend, job, Map({{1, 3}, {2, 1}}), *regions, kBufferBytes, FromMemory(out)));
    CheckState(backend, job, GpuState::kLocked);
    // What lies on the GPUs now is what left them.
    Regions again;
    const Result<std::vector<DeviceRegion>> same = StreamOut(backend, job, 4096 * 64, IntoMemory(again));
    CheckOk(same);
    for (const auto& [index, bytes] : again) CHECK_THAT(DigestOf(bytes) == digests[index]);
    CHECK_THAT(again == out);
    CheckOk(StreamIn(backend, job, {}, *same, kBufferBytes, FromMemory(again)));
    CheckOk(backend.Unlock(job));
  });
  EXPECT_EQ(node_->used_bytes(), used);
  ExpectGoesOn(2);
}

// At the first piece, in the middle, and in the other GPU's region.
TEST_F(RegionStreamTest, AFailureOnTheWayOutLeavesTheJobOnItsGpus) {
  Start({Spec(1), Spec(2)}, "");
  for (const int fail_at : {1, 3, 6}) {
    SCOPED_TRACE(fail_at);
    Stream([fail_at](CudaBackend& backend, pid_t job) {
      CheckOk(backend.Lock(job, std::chrono::seconds(30)));
      int pieces = 0;
      const TakeRegionFn take = [&](const DeviceRegion&, std::uint64_t, std::span<const std::byte>) -> Result<void> {
        if (++pieces == fail_at) return MakeError(ErrorCode::kNoSpace, "the disk is full");
        return Ok();
      };
      CheckFails(StreamOut(backend, job, kBufferBytes, take), ErrorCode::kNoSpace, "the disk is full");
      CHECK_THAT(pieces == fail_at);
      CheckState(backend, job, GpuState::kLocked);
      CheckOk(backend.Unlock(job));
    });
  }
  ExpectGoesOn(2);
}

TEST_F(RegionStreamTest, AFailureOnTheWayInCanBeTriedAgain) {
  Start({Spec(1), Spec(2)}, "");
  Stream([](CudaBackend& backend, pid_t job) {
    CheckOk(backend.Lock(job, std::chrono::seconds(30)));
    Regions out;
    const Result<std::vector<DeviceRegion>> regions = StreamOut(backend, job, kBufferBytes, IntoMemory(out));
    CheckOk(regions);
    int pieces = 0;
    const GiveRegionFn give = [&](const DeviceRegion&, std::uint64_t, std::span<std::byte>) -> Result<void> {
      if (++pieces == 2) return MakeError(ErrorCode::kDamaged, "a chunk does not fit its digest");
      return Ok();
    };
    CheckFails(StreamIn(backend, job, {}, *regions, kBufferBytes, give), ErrorCode::kDamaged, "its digest");
    CheckState(backend, job, GpuState::kCheckpointed);
    std::vector<DeviceRegion> others = *regions;
    others.front().bytes += 4096;
    CheckFails(StreamIn(backend, job, {}, others, kBufferBytes, FromMemory(out)), ErrorCode::kDamaged,
               "the driver wants");
    CheckState(backend, job, GpuState::kCheckpointed);
    CheckFails(StreamIn(backend, job, Map({{7, 1}}), *regions, kBufferBytes, FromMemory(out)),
               ErrorCode::kInvalidArgument, "the GPU map");
    CheckState(backend, job, GpuState::kCheckpointed);
    CheckOk(StreamIn(backend, job, {}, *regions, kBufferBytes, FromMemory(out)));
    CheckOk(backend.Unlock(job));
  });
  ExpectGoesOn(2);
}

TEST_F(RegionStreamTest, IsRefusedBeforeAnythingIsBegun) {
  Start({Spec(1)}, "");
  Stream([](CudaBackend& backend, pid_t job) {
    Regions out;
    CheckFails(StreamOut(backend, job, kBufferBytes, IntoMemory(out)), ErrorCode::kFailedPrecondition, "state");
    CHECK_THAT(out.empty());
    CheckState(backend, job, GpuState::kRunning);
  });
  ExpectGoesOn(1);
}

TEST_F(RegionStreamTest, AnOlderDriverSaysThatItCannot) {
  Start({Spec(1)}, "", {});
  Stream([](CudaBackend& backend, pid_t job) {
    CheckOk(backend.Lock(job, std::chrono::seconds(30)));
    Regions out;
    CheckFails(StreamOut(backend, job, kBufferBytes, IntoMemory(out)), ErrorCode::kUnsupported, "CUDA 13.4 does");
    CheckState(backend, job, GpuState::kLocked);
    CheckOk(backend.Unlock(job));
  });
  ExpectGoesOn(1);
}

}  // namespace
}  // namespace gpumig
